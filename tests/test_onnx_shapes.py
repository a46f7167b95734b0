"""Reading .onnx files: pieces of constants, and shapes that the graph computes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from idp_deploy.errors import FileError
from idp_deploy.formats.onnx.read.contents import read_onnx
from idp_deploy.reading import read
from idp_deploy.simulation.workload import workload
from tests.test_onnx_reading import WEIGHT, save, tensor


def split_file(path, sizes: list[int] | None, parts: int = 2) -> None:
    """x (n, 4) · one half of a constant (4, 6), once for each piece."""
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    names = [f"w{i}" for i in range(parts)]
    inputs = ["whole"] if sizes is None else ["whole", "sizes"]
    nodes = [helper.make_node("Split", inputs, names, axis=1)]
    nodes += [helper.make_node("MatMul", ["x", name], [f"y{name}"]) for name in names]
    tensors = [numpy_helper.from_array(whole, "whole")]
    tensors += [] if sizes is None else [numpy_helper.from_array(np.array(sizes, np.int64), "sizes")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", *(f"y{n}" for n in names))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


def test_pieces_of_a_constant_are_weights_of_their_own(tmp_path):
    split_file(tmp_path / "m.onnx", [4, 2])
    contents = read_onnx(tmp_path / "m.onnx")
    assert [op.kind for op in contents.ops] == ["MatMul", "MatMul"]
    assert [tensor.shape for tensor in contents.tensors] == [(4, 4), (4, 2)]
    np.testing.assert_array_equal(contents.tensor("w1").values(), np.arange(24).reshape(4, 6)[:, 4:])
    assert sum(tensor.size_bytes for tensor in contents.tensors) == 24 * 4 + 2 * 8  # the sizes come with the first


def test_pieces_of_no_given_size_stay_an_operator(tmp_path):
    split_file(tmp_path / "m.onnx", None)
    assert [op.kind for op in read_onnx(tmp_path / "m.onnx").ops] == ["Split", "MatMul", "MatMul"]


@pytest.mark.parametrize("sizes", [[4, 3], [-1, 7], [], [6]])
def test_pieces_that_do_not_fit_are_refused(sizes, tmp_path):
    split_file(tmp_path / "m.onnx", sizes)
    with pytest.raises(FileError, match="Split of 'w0' cannot be computed"):
        read_onnx(tmp_path / "m.onnx")


def test_shapes_that_the_graph_computes_are_followed_to_the_end(tmp_path):
    """(n, 8, 6) → its own extents, multiplied and reshaped → (n·8, 6): what many exporters write for a free batch."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        *(helper.make_node("Slice", ["s", str(i), str(i + 1)], [f"s{i}"]) for i in range(3)),
        helper.make_node("Mul", ["s0", "s1"], ["product"]),
        helper.make_node("Reshape", ["product", "flat"], ["rows"]),
        helper.make_node("Concat", ["rows", "s2"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["r", "w"], ["y"]),
    ]
    numbers = [tensor(str(i), np.array([i])) for i in range(4)]
    made = save(
        tmp_path / "m.onnx",
        nodes,
        [*numbers, tensor("flat", np.array([-1])), tensor("w", WEIGHT.T)],
        inputs=[helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 6])],
        outputs=[helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "t")],
    )
    contents = read(made)
    assert contents.values["x"].shape == (-1, 8, 6)
    assert contents.values["r"].shape == (8, 6)
    assert contents.values["y"].shape == (8, 8)
    assert contents.values["t"].shape == (8, 1, 6)
    work = workload(contents)
    assert work.macs == 8 * 6 * 8
    assert not work.notes
