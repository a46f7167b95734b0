"""Damaged .onnx files: whatever bytes changed, reading them gives contents or a FileError, and nothing else."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from idp_deploy.encodings import encode
from idp_deploy.errors import FileError
from idp_deploy.formats.onnx.read.contents import read_onnx
from idp_deploy.formats.onnx.write.decoding import OVERHEAD, Decoder, decode_graph, sparse_initializer

RNG = np.random.default_rng(0)
WEIGHT = np.where(RNG.random((20, 20)) < 0.2, RNG.normal(size=(20, 20)), 0).astype(np.float32)


def every_encoding() -> bytes:
    """A chain of matrix products, one for each way to store a weight."""
    nodes, current = [], "x"
    kinds = ["dense", *OVERHEAD, "palette", "int8", "scaled", "sparse"]
    for kind in kinds:
        nodes.append(helper.make_node("MatMul", [current, f"w_{kind}"], [f"y_{kind}"]))
        current = f"y_{kind}"
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 20])]
    outputs = [helper.make_tensor_value_info(current, TensorProto.FLOAT, ["n", 20])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    decoder = Decoder(graph)
    for kind in ("dense", *OVERHEAD):
        decode_graph(decoder, kind, WEIGHT, WEIGHT != 0, output=f"w_{kind}")
    indices = (WEIGHT != 0).astype(np.uint8) * 3
    palette = np.arange(16, dtype=np.float32)
    decode_graph(decoder, "gaps4", indices, WEIGHT != 0, palette=palette, output="w_palette")
    q = decoder.store((WEIGHT * 20).astype(np.int8))
    decoder.node("DequantizeLinear", q, decoder.store(np.float32(0.05)), output="w_int8")
    levels = decoder.node("Cast", q, to=TensorProto.FLOAT)
    decoder.node("Mul", levels, decoder.store(np.full((20, 1), 0.05, np.float32)), output="w_scaled")
    graph.sparse_initializer.append(sparse_initializer(WEIGHT, WEIGHT != 0, "w_sparse"))
    decoder.finish()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString(deterministic=True)


GOOD = every_encoding()


def read(data: bytes) -> bool:
    """Whether these bytes can be read, values and all; anything but FileError passes through."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(data)
        try:
            for tensor in read_onnx(path).tensors:
                tensor.values()
                if tensor.dequantize is not None:
                    tensor.dequantize()
        except FileError:
            return False
    return True


def test_the_whole_file_is_read():
    assert read(GOOD)


@settings(max_examples=250)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_changed_bytes(changes):
    data = bytearray(GOOD)
    for position, flips in changes:
        data[position] ^= flips
    read(bytes(data))


@settings(max_examples=60)
@given(st.integers(0, len(GOOD) - 1))
def test_truncated(end):
    assert not read(GOOD[:end])


@settings(max_examples=60)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 64))
def test_bytes_cut_out(start, count):
    read(GOOD[:start] + GOOD[start + count :])


@pytest.mark.parametrize("kind", ["gaps4", "gaps5", "gaps8", "bitmask"])
def test_positions_beyond_the_tensor(kind, tmp_path):
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 20])],
    )
    decoder = Decoder(graph)
    decode_graph(decoder, kind, WEIGHT, WEIGHT != 0, output="w")
    decoder.finish()
    stored = encode(kind, WEIGHT).parts
    codes = next(
        t for t in graph.initializer if t.data_type in (TensorProto.UINT8, TensorProto.UINT16) and t.raw_data[8:]
    )
    assert len(codes.raw_data) == next(part for name, part in stored.items() if name != "values").nbytes
    codes.raw_data = b"\xee" * len(codes.raw_data) if kind == "gaps4" else b"\xff" * len(codes.raw_data)
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    with pytest.raises(FileError, match="cannot be computed: an index outside of"):
        read_onnx(path)


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_an_input_of_any_operator_that_is_left_out_or_unknown(name: str, tmp_path: Path) -> None:
    good = onnx.load_from_string(GOOD)
    places = [(i, j) for i, node in enumerate(good.graph.node) for j in range(len(node.input))]
    path, refused = tmp_path / "m.onnx", 0
    for i, j in places:
        model = onnx.ModelProto()
        model.CopyFrom(good)
        model.graph.node[i].input[j] = name
        onnx.save(model, path)
        try:
            read_onnx(path)
        except FileError:
            refused += 1
    assert refused
