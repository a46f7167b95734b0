"""Sparse layouts: exact through our reader and through LiteRT's own DENSIFY, and the cheapest one chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from idp_deploy.errors import UsageError
from idp_deploy.formats.tflite.read.contents import read_tflite
from idp_deploy.formats.tflite.write.serializing import parse, serialize
from idp_deploy.formats.tflite.write.sparse import Layout, smallest, store
from idp_deploy.formats.tflite.write.storing import plan
from tests.tflite_files import adding

W = np.zeros((4, 6), np.float32)
W[0, 1], W[2, 0], W[2, 5], W[3, 4] = 7, 5, -6, 2


def densified(content: bytes, resolver: OpResolverType, shape: tuple[int, ...]) -> np.ndarray:
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.zeros(shape, np.float32))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


LAYOUTS = [
    Layout((0, 1), 1), Layout((1, 0), 1), Layout((0, 1), 2), Layout((1, 0), 2), Layout((0, 1), 1, (1, 2)),
    Layout((1, 0), 1, (1, 3)), Layout((0, 1), 2, (0, 2)), Layout((1, 0), 1, (0, 4)),
]  # fmt: skip


@pytest.mark.wide
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("resolver", [OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
def test_litert_decodes_every_layout(layout: Layout, resolver: OpResolverType, dtype: type, tmp_path: Path) -> None:
    scales = np.array([1, 2, 0.5, 4], np.float32) if dtype is np.int8 else None
    content = adding(W.astype(dtype), layout, scales=scales)
    expected = W if scales is None else W * scales[:, None]
    assert np.array_equal(densified(content, resolver, W.shape), expected)
    (tmp_path / "w.tflite").write_bytes(content)
    tensor = read_tflite(tmp_path / "w.tflite").tensor("stored")
    assert np.array_equal(tensor.values(), W.astype(dtype))
    assert tensor.zeros == 20
    assert tensor.encoding == ("block" if layout.block else "csr")
    assert tensor.dequantize is None or np.array_equal(tensor.dequantize(), expected)


def test_golden_arrays() -> None:
    stored = store(W, W != 0, Layout((1, 0), 1))
    ((segments, indices),) = stored.levels
    assert segments.tolist() == [0, 1, 2, 2, 2, 3, 4]
    assert indices.tolist() == [2, 0, 3, 2]
    assert stored.values.tolist() == [5, 7, 2, -6]
    assert (segments.dtype, indices.dtype, stored.size_bytes) == (np.uint8, np.uint8, 4 * 4 + 7 + 4)


@settings(max_examples=60)
@given(
    hnp.arrays(
        np.int8, hnp.array_shapes(min_dims=1, max_dims=4, max_side=9), elements=st.sampled_from([0, 0, 0, 1, -3])
    ),
    st.data(),
)
def test_the_announced_size_is_the_size_and_reading_gives_it_back(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, data: st.DataObject
) -> None:
    values = values.astype(np.float32)
    mask = (values != 0) | data.draw(hnp.arrays(bool, values.shape))
    layout, size = smallest(mask, 4)
    stored = store(values, mask, layout)
    assert stored.size_bytes == size
    path = tmp_path_factory.mktemp("h") / "x.tflite"
    path.write_bytes(adding(values, layout, mask))
    if len(stored.values):
        tensor = read_tflite(path).tensor("stored")
        assert np.array_equal(tensor.values(), values)
        assert tensor.zeros == (values == 0).sum()


def test_narrow_indices_are_preferred() -> None:
    mask = np.random.default_rng(0).random((1000, 64)) < 0.1
    layout, _ = smallest(mask, 4)
    indices = store(mask.astype(np.float32), mask, layout).levels[-1][1]
    assert layout.order == (0, 1)
    assert indices.dtype == np.uint8
    layout, _ = smallest(mask.T, 4)
    assert layout.order == (1, 0)


def test_blocks_are_chosen_for_blocked_zeros_and_empty_rows_cost_nothing() -> None:
    rng = np.random.default_rng(0)
    blocks = np.repeat(rng.random((64, 64)) < 0.1, 4, axis=1)
    assert smallest(blocks, 4)[0].block == (1, 4)
    rows = (rng.random((4096, 1)) < 0.03) & (rng.random((4096, 100)) < 0.05)
    assert smallest(rows, 4)[0].compressed == 2


@pytest.mark.parametrize("encoding", ["gaps8", "block:2x4", "block:1x", "block:1x1", "sparse"])
def test_unknown_encodings_are_usage_errors(encoding: str) -> None:
    with pytest.raises(UsageError, match="one of auto, dense, csr"):
        plan(encoding, None, ())


def test_equal_names_and_shapes_of_a_file_are_written_once_and_read_back() -> None:
    """A decoded weight has the shape of the stored one, an output the name that the signature gives it."""
    from ai_edge_litert import schema_py_generated as schema

    def model(shapes: list[list[int]], names: list[str]) -> schema.ModelT:
        made = schema.ModelT()
        made.version, made.buffers, graph = 3, [schema.BufferT()], schema.SubGraphT()
        graph.tensors = []
        for shape, name in zip(shapes, names, strict=True):
            tensor = schema.TensorT()
            tensor.shape, tensor.name, tensor.buffer = np.array(shape, np.int32), name, 0
            graph.tensors.append(tensor)
        made.subgraphs = [graph]
        return made

    alike = serialize(model([[1, 2, 3, 4]] * 8, ["some name"] * 8))
    apart = serialize(model([[1, 2, 3, i] for i in range(8)], [f"some nam{i}" for i in range(8)]))
    assert len(apart) - len(alike) == 7 * (20 + 16)  # a vector of four, a string of nine with its end
    tensors = parse(alike).subgraphs[0].tensors
    assert [tensor.shape.tolist() for tensor in tensors] == [[1, 2, 3, 4]] * 8
    assert {tensor.name for tensor in tensors} == {b"some name"}
