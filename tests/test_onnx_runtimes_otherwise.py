"""What MNN, tract, ncnn and OpenCV compute otherwise is named, and what is like it and right is not."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from idp_deploy.formats.onnx.tools import lint

OTHERWISE: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "steps read backwards": ("GRU", {"direction": "reverse", "hidden_size": 2}, ("mnn", "tract")),
    "both ways": ("GRU", {"direction": "bidirectional", "hidden_size": 2, "linear_before_reset": 1}, ()),
    "a reset in front of the product": ("GRU", {"hidden_size": 2}, ("mnn",)),
    "a bound": ("GRU", {"hidden_size": 2, "linear_before_reset": 1, "clip": 3.0}, ("mnn", "tract")),
    "steps of ReLU": ("RNN", {"hidden_size": 2, "activations": ["Relu"]}, ("mnn", "tract")),
    "steps of tanh": ("RNN", {"hidden_size": 2, "activations": ["Tanh"]}, ()),
    "a first factor turned around": ("Gemm", {"transA": 1}, ("mnn",)),
    "a second factor turned around": ("Gemm", {"transB": 1}, ()),
    "a comparison": ("Less", {}, ("mnn",)),
    "the other comparison": ("Greater", {}, ()),
    "a rest with the sign of what is divided": ("Mod", {"fmod": 1}, ("mnn",)),
    "reflected places": ("GridSample", {"padding_mode": "reflection"}, ("mnn",)),
    "places": ("GridSample", {"padding_mode": "border"}, ()),
    "a cubic resize": ("Resize", {"mode": "cubic", "coordinate_transformation_mode": "half_pixel"}, ("mnn",)),
    "a cubic resize from corner to corner": (
        "Resize", {"mode": "cubic", "coordinate_transformation_mode": "align_corners"}, (),
    ),
    "a slope with a scale": ("Celu", {"alpha": 2.0}, ("tract",)),
    "a slope as it is": ("Celu", {}, ()),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_mnn_and_tract_compute_otherwise_is_named(name: str, tmp_path: Path) -> None:
    kind, words, wrong = OTHERWISE[name]
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [3, 4]) for end in "xky"]
    graph = helper.make_graph([helper.make_node(kind, ["x", "k"], ["y"], **words)], "g", ends[:2], ends[2:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "net.onnx")
    for tool in ("mnn", "tract"):
        assert lint(tmp_path / "net.onnx", tool).verdict == ("wrong" if tool in wrong else "right")


MNN: dict[str, tuple[str, dict[str, Any], list[Any], str]] = {  # with what is stored beside an image of 7 × 7
    "a place from the end": ("GatherElements", {}, [np.array([[[[-1]]]])], "wrong"),
    "a place from the front": ("GatherElements", {}, [np.array([[[[6]]]])], "right"),
    "rows": ("Sum", {}, [np.ones(7, np.float32), np.ones(7, np.float32)], "wrong"),
    "a row": ("Sum", {}, [np.ones(7, np.float32)], "right"),
    "images": ("Sum", {}, [np.ones((1, 2, 7, 7), np.float32)] * 2, "right"),
    "a larger part in front": ("Conv", {"auto_pad": "SAME_LOWER"}, [np.ones((2, 2, 2, 2), np.float32)], "wrong"),
    "a larger part behind": ("Conv", {"auto_pad": "SAME_UPPER"}, [np.ones((2, 2, 2, 2), np.float32)], "right"),
    "as much on both sides": (
        "Conv", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, [np.ones((2, 2, 3, 3), np.float32)], "right",
    ),
    "a way back": (
        "ConvTranspose", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, [np.ones((2, 2, 3, 3), np.float32)], "wrong",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MNN)
def test_what_mnn_reads_beside_an_image_is_named(name: str, tmp_path: Path) -> None:
    kind, words, stored, verdict = MNN[name]
    constants = [numpy_helper.from_array(values, f"k{i}") for i, values in enumerate(stored)]
    node = helper.make_node(kind, ["x", *(constant.name for constant in constants)], ["y"], **words)
    x, y = (helper.make_tensor_value_info(end, TensorProto.FLOAT, n) for end, n in (("x", [1, 2, 7, 7]), ("y", None)))
    model = helper.make_model(helper.make_graph([node], "g", [x], [y], constants))
    onnx.save(model, tmp_path / "net.onnx")
    assert lint(tmp_path / "net.onnx", "mnn").verdict == verdict


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ({"output_shape": [14, 14]}, "wrong"),
        ({"output_shape": [14, 14], "auto_pad": "SAME_UPPER"}, "right"),
        ({"output_shape": [13, 13]}, "right"),  # as much on both sides
        ({"pads": [1, 1, 0, 0]}, "right"),
    ],
)
@pytest.mark.parametrize("tool", ["mnn", "tract"])
def test_a_size_of_which_an_odd_number_is_cut_is_named(
    words: dict[str, Any], verdict: str, tool: str, tmp_path: Path
) -> None:
    weight = numpy_helper.from_array(np.ones((2, 2, 3, 3), np.float32), "w")
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], **words)
    x, y = (helper.make_tensor_value_info(end, TensorProto.FLOAT, n) for end, n in (("x", [1, 2, 7, 7]), ("y", None)))
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y], [weight])), tmp_path / "net.onnx")
    assert lint(tmp_path / "net.onnx", tool).verdict == verdict


@pytest.mark.parametrize(
    ("chosen", "verdict"), [((7,), "wrong"), ((), "right"), ((1, 2, 7, 7), "right"), ((1, 1, 1, 1), "right")]
)
def test_a_choice_that_is_a_row_is_named_for_mnn(chosen: tuple[int, ...], verdict: str, tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info("c", TensorProto.BOOL, [1, 2, 7, 7])]
    ends += [helper.make_tensor_value_info(end, TensorProto.FLOAT, [1, 2, 7, 7]) for end in "xy"]
    constant = numpy_helper.from_array(np.ones(chosen, np.float32), "k")
    graph = helper.make_graph([helper.make_node("Where", ["c", "x", "k"], ["y"])], "g", ends[:2], ends[2:], [constant])
    onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
    assert lint(tmp_path / "net.onnx", "mnn").verdict == verdict


NCNN: dict[str, tuple[str, dict[str, Any], list[int] | None, str]] = {
    "a mean over one axis": ("ReduceMean", {}, [1], "wrong"),
    "a length over one axis": ("ReduceL2", {}, [2], "wrong"),
    "a mean over two axes": ("ReduceMean", {}, [2, 3], "right"),
    "a largest over one axis": ("ReduceMax", {}, [1], "right"),
    "a border from the other side": ("Pad", {"mode": "wrap"}, [0, 0, 1, 1, 0, 0, 1, 1], "wrong"),
    "a pool with more behind": ("MaxPool", {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1]}, None, "wrong"),
    "a pool with as much": ("MaxPool", {"kernel_shape": [3, 3], "pads": [1, 0, 1, 0]}, None, "right"),
    "blocks": ("SpaceToDepth", {"blocksize": 2}, None, "wrong"),
    "a shrink by a bias": ("Shrink", {"bias": 0.5}, None, "wrong"),
    "a shrink": ("Shrink", {}, None, "right"),
    "a border of zeros": ("Pad", {}, [0, 0, 1, 1, 0, 0, 1, 1], "right"),
    "parts that differ": ("Split", {"axis": 1, "num_outputs": 3}, None, "wrong"),
    "parts of one size": ("Split", {"axis": -1, "num_outputs": 3}, None, "right"),
    "parts with sizes": ("Split", {"axis": 1}, [3, 3, 2], "right"),
}


@pytest.mark.parametrize("name", NCNN)
def test_what_pnnx_makes_otherwise_is_named(name: str, tmp_path: Path) -> None:
    kind, words, numbers, verdict = NCNN[name]
    constants = [] if numbers is None else [numpy_helper.from_array(np.array(numbers, np.int64), "k")]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 6, 6])]
    outputs = ["y", "z", "t"] if kind == "Split" else ["y"]
    node = helper.make_node(kind, ["x", *(constant.name for constant in constants)], outputs, **words)
    ends += [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]), tmp_path / "net.onnx")
    assert lint(tmp_path / "net.onnx", "ncnn").verdict == verdict


@pytest.mark.parametrize(
    ("points", "then", "bias", "verdict"),
    [
        ("stored", "", np.int32, "refuses"),
        ("made", "", np.int32, "right"),
        ("none", "", np.int32, "right"),
        ("stored", "Relu", np.int32, "right"),
        ("stored", "", np.float32, "right"),
    ],
)
def test_an_integer_layer_that_opencv_does_not_run_is_named(
    points: str, then: str, bias: type, verdict: str, tmp_path: Path
) -> None:
    """Each row was run there: `bufidx >= 0 in function 'argTensor'`."""
    stored = {
        "w": np.zeros((5, 4), np.int8), "ws": np.ones(5, np.float32), "b": np.zeros(5, bias), "n": np.array([5]),
        "s": np.float32(0.1), "z": np.uint8(9),
    } | ({"wz": np.zeros(5, np.int8)} if points == "stored" else {})  # fmt: skip
    made = [("ConstantOfShape", "n", "wz", {"value": numpy_helper.from_array(np.zeros(1, np.int8))})]
    rows: list[tuple[str, str, str, dict[str, Any]]] = [
        *(made if points == "made" else []),
        ("QuantizeLinear", "x s z", "q", {}),
        ("DequantizeLinear", "q s z", "a", {}),
        ("DequantizeLinear", "w ws" if points == "none" else "w ws wz", "d", {"axis": 0}),
        *([("DequantizeLinear", "b ws", "c", {"axis": 0})] if bias is np.int32 else []),
        ("Gemm", "a d c" if bias is np.int32 else "a d b", "g", {"transB": 1}),
        *([(then, "g", "t", {})] if then else []),
        ("QuantizeLinear", "t s z" if then else "g s z", "r", {}),
        ("DequantizeLinear", "r s z", "y", {}),
    ]
    nodes = [helper.make_node(kind, read.split(), [name], **words) for kind, read, name, words in rows]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None]) for name in "xy"]
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "net.onnx")
    assert lint(tmp_path / "net.onnx", "opencv").verdict == verdict
