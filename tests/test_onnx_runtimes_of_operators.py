"""inspect --runtime NAME: operators that other tools compute otherwise, and the forms of these that they do not.

Every row was run in the tools: 376 small files of one operator each, behind a pruned convolution or product.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from idp_deploy.formats.onnx.tools import lint

TOOLS = ("mnn", "ncnn", "onnxruntime", "opencv", "openvino", "reference", "tract")
IMAGE = (1, 16, 8, 10)
KERNEL = np.zeros((8, 16, 3, 3), np.float32)
TURNED = np.zeros((16, 8, 3, 3), np.float32)
POOL = {"kernel_shape": [3, 3], "strides": [2, 2]}
BOTH = {"strides": [2, 2]}
ROWS = np.array([[0, 3], [0, 5]])
ROW = np.zeros((1, 10), np.float32)
STEPS = {"hidden_size": 2}
_LAYER = [np.zeros((1, 6, 4), np.float32), np.zeros((1, 6, 2), np.float32)]
GRU, LENGTHS = {"hidden_size": 2, "linear_before_reset": 1}, [*_LAYER, None, np.array([3], np.int32)]
LSTM = [np.zeros((1, 8, 4), np.float32), np.zeros((1, 8, 2), np.float32)]
HOLES, STATE = np.zeros((1, 6), np.float32), np.zeros((1, 1, 2), np.float32)


def factors(y: float, x: float) -> list[Any]:
    return [None, np.array([1, 1, y, x], np.float32)]


Row = tuple[str, dict[str, Any], list[Any], int, str]  # operator, attributes, constants, opset, tools that are wrong
ROWS_OF: dict[str, Row] = {
    "softmax of several axes": ("Softmax", {"axis": 2}, [], 11, "ncnn opencv openvino reference"),
    "softmax of the last axis": ("Softmax", {"axis": 3}, [], 11, ""),
    "softmax since opset 13": ("Softmax", {"axis": 2}, [], 13, ""),
    "log-softmax of several axes": ("LogSoftmax", {}, [], 12, "mnn opencv reference"),
    "the border behind, in steps": ("Conv", {"auto_pad": "SAME_UPPER"} | BOTH, [KERNEL], 18, "opencv"),
    "the border in front, in steps": ("Conv", {"auto_pad": "SAME_LOWER"} | BOTH, [KERNEL], 18, "mnn"),
    "the border in front": ("Conv", {"auto_pad": "SAME_LOWER"}, [KERNEL[..., :2, :2]], 18, "mnn opencv"),
    "an even border": ("Conv", {"auto_pad": "SAME_LOWER"}, [KERNEL], 18, ""),
    "a pool's border behind": ("MaxPool", {"auto_pad": "SAME_UPPER"} | POOL, [], 18, "opencv"),
    "a pool's border in front": ("MaxPool", {"auto_pad": "SAME_LOWER"} | POOL, [], 18, "mnn reference"),
    "a border written out": ("MaxPool", {"pads": [1, 1, 0, 0]} | POOL, [], 18, "ncnn"),
    "a pool without strides": ("MaxPool", {"kernel_shape": [3, 3]}, [], 18, "mnn"),
    "a spread pool": (
        "MaxPool", {"auto_pad": "SAME_LOWER", "dilations": [2, 2], "kernel_shape": [3, 3], "strides": [1, 1]}, [], 18,
        "onnxruntime",
    ),
    "a spread pool, its border written out": (
        "MaxPool", {"pads": [2] * 4, "dilations": [2, 2], "kernel_shape": [3, 3], "strides": [1, 1]}, [], 18, "",
    ),
    "a pool that is not spread": (
        "AveragePool", {"auto_pad": "SAME_UPPER", "dilations": [1, 1], "kernel_shape": [3, 3], "strides": [1, 1]}, [],
        19, "ncnn",
    ),
    "no larger, from the end": (
        "Resize", {"axes": [-2, -1], "keep_aspect_ratio_policy": "not_larger"}, [None, None, np.array([9, 30])], 18,
        "onnxruntime",
    ),
    "no larger": (
        "Resize", {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"}, [None, None, np.array([9, 30])], 18, "",
    ),
    "a border that counts": (
        "AveragePool", {"auto_pad": "SAME_UPPER", "count_include_pad": 1, "kernel_shape": [2, 2], "strides": [1, 1]},
        [], 18, "mnn ncnn",
    ),
    "turned, with a border": ("ConvTranspose", {"auto_pad": "SAME_UPPER"} | BOTH, [TURNED], 18, "opencv"),
    "turned, with a border in front": ("ConvTranspose", {"auto_pad": "SAME_LOWER"} | BOTH, [TURNED], 18, "mnn opencv"),
    "turned, with a size": ("ConvTranspose", {"output_shape": [17, 20]} | BOTH, [TURNED], 18, "mnn ncnn opencv tract"),
    "turned, with its own size": ("ConvTranspose", {"output_shape": [17, 21]} | BOTH, [TURNED], 18, "opencv"),
    "turned": ("ConvTranspose", BOTH, [TURNED], 18, ""),
    "a factor between places": ("Resize", {"mode": "linear"}, factors(1.7, 2), 18, "opencv"),
    "a factor that fits": ("Resize", {"mode": "linear"}, factors(1.25, 1.2), 18, ""),
    "corners, and a factor between places": (
        "Resize", {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, factors(1.7, 2), 18,
        "reference tract",
    ),
    "the place above": ("Resize", {"nearest_mode": "ceil"}, factors(2, 2), 18, "mnn"),
    "the place below": ("Resize", {"nearest_mode": "floor"}, factors(2, 2), 18, ""),
    "the place below, by half pixels": (
        "Resize", {"nearest_mode": "floor", "coordinate_transformation_mode": "half_pixel"}, factors(2, 2), 18, "ncnn",
    ),
    "the place below, from corner to corner": (
        "Resize", {"nearest_mode": "floor", "coordinate_transformation_mode": "align_corners"}, factors(2, 2), 18,
        "ncnn",
    ),
    "the place below, asymmetric": (
        "Resize", {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}, factors(2, 2), 18, "",
    ),
    "the place above, between places": ("Resize", {"mode": "linear", "nearest_mode": "ceil"}, factors(2, 2), 18, ""),
    "a length over axes": ("ReduceL2", {}, [np.array([2, 3])], 18, "mnn"),
    "a length over axes, before": ("ReduceL2", {"axes": [2, 3]}, [], 13, ""),
    "a mean over axes": ("ReduceMean", {}, [np.array([2, 3])], 18, ""),
    "the largest of three": ("Max", {}, [np.zeros(10, np.float32), np.zeros(1, np.float32)], 18, "mnn ncnn"),
    "the largest of two": ("Max", {}, [np.zeros(10, np.float32)], 18, ""),
    "the largest of three of one shape": ("Max", {}, [np.zeros(IMAGE, np.float32)] * 2, 18, ""),
    "the last of equals": ("ArgMax", {"select_last_index": 1}, [], 18, "mnn"),
    "the first of equals": ("ArgMax", {}, [], 18, ""),
    "entries from the end": ("GatherElements", {}, [np.full(IMAGE, -1)], 18, "mnn"),
    "entries": ("GatherElements", {}, [np.zeros(IMAGE, np.int64)], 18, ""),
    "entries added": (
        "ScatterElements", {"reduction": "add"}, [np.zeros(IMAGE, np.int64), np.zeros(IMAGE, np.float32)], 18, "mnn",
    ),
    "rows put": ("ScatterND", {}, [ROWS, np.zeros((2, 8, 10), np.float32)], 18, "mnn"),
    "entries put": ("ScatterND", {}, [np.array([[0, 3, 1, 2]]), np.zeros(1, np.float32)], 18, ""),
    "small numbers": ("Shrink", {"lambd": 0.3}, [], 18, "mnn"),
    "slopes of columns": ("PRelu", {}, [np.zeros(10, np.float32)], 18, "mnn ncnn"),
    "slopes of rows": ("PRelu", {}, [np.zeros((8, 1), np.float32)], 18, "ncnn"),
    "slopes of places": ("PRelu", {}, [np.zeros(IMAGE[1:], np.float32)], 18, "ncnn"),
    "one slope": ("PRelu", {}, [np.zeros(1, np.float32)], 18, ""),
    "a product of half": ("Gemm", {"alpha": 0.5, "transB": 1}, [ROW, ROW[0]], 18, "ncnn"),
    "a bias twice": ("Gemm", {"beta": 2.0, "transB": 1}, [ROW, ROW[0]], 18, "ncnn"),
    "a product alone": ("Gemm", {}, [ROW], 18, "ncnn"),
    "a layer": ("Gemm", {"transB": 1}, [ROW, ROW[0]], 18, ""),
    "a layer without bias, whose factor is nothing": ("Gemm", {"beta": 2.0, "transB": 1}, [ROW], 18, ""),
    "a product and a bias": ("Gemm", {}, [ROW, ROW[0]], 18, ""),
    "slopes of channels": ("PRelu", {}, [np.zeros((16, 1, 1), np.float32)], 18, ""),
    "a norm with a part of one": ("LRN", {"size": 3, "bias": 1.5}, [], 18, "openvino reference"),
    "a norm with two": ("LRN", {"size": 3, "bias": 2.0}, [], 18, "reference"),
    "a size of all": ("GlobalLpPool", {}, [], 18, "tract"),
    "a border cut off": ("Pad", {}, [np.array([0, 0, -1, 1, 0, 0, 2, -2])], 18, "tract"),
    "a layer that resets later": ("GRU", GRU, _LAYER, 18, ""),
    "a layer that resets first": ("GRU", STEPS, _LAYER, 18, "mnn"),
    "usual activations": ("GRU", {"activations": ["Sigmoid", "Tanh"]} | GRU, _LAYER, 18, ""),
    "other activations": ("GRU", {"activations": ["Sigmoid", "Relu"]} | GRU, _LAYER, 18, "mnn reference tract"),
    "a limit": ("GRU", {"clip": 0.3} | GRU, _LAYER, 18, "mnn reference tract"),
    "lengths": ("GRU", GRU, LENGTHS, 18, "mnn reference"),
    "a gate for two": ("LSTM", {"input_forget": 1} | STEPS, LSTM, 18, "opencv openvino reference tract"),
    "peepholes": ("LSTM", STEPS, [*LSTM, None, None, None, None, HOLES], 18, "openvino"),
    "peepholes and states": ("LSTM", STEPS, [*LSTM, None, None, STATE, STATE, HOLES], 18, "opencv openvino"),
    "states": ("LSTM", STEPS, [*LSTM, None, None, STATE, STATE], 18, ""),
}  # fmt: skip


@pytest.mark.parametrize("as_nodes", [False, True])
@pytest.mark.parametrize("name", ROWS_OF)
def test_what_a_tool_computes_otherwise_is_named(name: str, as_nodes: bool, tmp_path: Path) -> None:
    kind, words, constants, opset, wrong = ROWS_OF[name]
    stored = {
        f"c{i}": numpy_helper.from_array(array, f"c{i}") for i, array in enumerate(constants) if array is not None
    }
    inputs = ["x", *(f"c{i}" if f"c{i}" in stored else "" for i in range(len(constants)))]
    nodes = [helper.make_node("Constant", [], [name], value=tensor) for name, tensor in stored.items() if as_nodes]
    shape = (5, 1, 4) if kind in ("GRU", "LSTM") else IMAGE
    graph = helper.make_graph(
        [*nodes, helper.make_node(kind, inputs, ["y"], **words)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT64 if kind == "ArgMax" else TensorProto.FLOAT, None)],
        [] if as_nodes else list(stored.values()),
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), path)
    found = [tool for tool in TOOLS if lint(path, tool).verdict in ("wrong", "crashes")]
    assert found == wrong.split()


def test_a_size_that_nobody_knows_may_be_a_broken_one(tmp_path: Path) -> None:
    """A free extent of an image is named where a border or factor may be uneven for it."""
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, "h", 10])]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    node = helper.make_node("MaxPool", ["x"], ["y"], auto_pad="SAME_UPPER", kernel_shape=[3, 1], strides=[2, 1])
    onnx.save(helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:])), tmp_path / "m.onnx")
    assert lint(tmp_path / "m.onnx", "opencv").verdict == "wrong"
