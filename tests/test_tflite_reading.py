"""The TFLite reader on files of any origin, and on files meant to harm it: FileError, quickly, or a right answer."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from idp_deploy.errors import FileError
from idp_deploy.formats.tflite.read.contents import read_tflite
from idp_deploy.formats.tflite.write.graph import add_buffer
from idp_deploy.formats.tflite.write.serializing import parse, serialize
from idp_deploy.formats.tflite.write.sparse import Layout
from tests.tflite_files import adding, in_signatures, with_manifest

W = np.where(np.arange(240).reshape(12, 20) % 7 == 0, np.arange(240).reshape(12, 20), 0).astype(np.float32)
CONTENT = with_manifest(adding(W, Layout((0, 1), 1)), b'{"inputs":["x"],"layouts":{}}')


def read(content: bytes, folder: Path) -> object:
    path = folder / "f.tflite"
    path.write_bytes(content)
    contents = read_tflite(path)
    for tensor in contents.tensors:
        tensor.values()
        if tensor.dequantize:
            tensor.dequantize()
    return contents


def test_a_file_by_hand(tmp_path: Path) -> None:
    contents = read_tflite(_written(tmp_path, CONTENT))
    assert (contents.inputs, contents.outputs) == (("x",), ("y",))
    (op,) = contents.ops
    assert (op.kind, op.inputs, op.outputs, op.weights) == ("ADD", ("x",), ("y",), {"1": "stored"})
    assert contents.values["x"].shape == (12, 20)
    tensor = contents.tensor("stored")
    assert np.array_equal(tensor.values(), W)
    stored = (W != 0).sum()
    assert tensor.size_bytes == stored * 5 + 13
    assert tensor.zeros == 240 - stored
    assert contents.metadata["idp_deploy"] == {"inputs": ["x"], "layouts": {}}


@pytest.mark.wide
@pytest.mark.parametrize("length", [0, 3, 8, 40, *range(64, len(CONTENT), 61), len(CONTENT) - 1])
def test_truncated_anywhere(length: int, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"f\.tflite"):
        read(CONTENT[:length], tmp_path)


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_give_a_file_error_or_contents(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(CONTENT)
    for at, byte in changes:
        content[at] = byte
    with contextlib.suppress(FileError):
        read(bytes(content), tmp_path_factory.mktemp("flip"))


@settings(max_examples=300)
@given(st.integers(0, len(CONTENT) // 4 - 1), st.sampled_from([0, 1, -1, 0x7FFFFFFF, -(2**31), 0x00FFFFFF, 0x10000]))
def test_extreme_words_cost_neither_time_nor_memory(
    tmp_path_factory: pytest.TempPathFactory, word: int, value: int
) -> None:
    content = bytearray(CONTENT)
    struct.pack_into("<i", content, 4 * word, value)
    tracemalloc.start()
    start = time.process_time()
    with contextlib.suppress(FileError):
        read(bytes(content), tmp_path_factory.mktemp("word"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    assert time.process_time() - start < 5


def test_a_vector_that_names_one_table_a_million_times(tmp_path: Path) -> None:
    model = parse(CONTENT)
    content = serialize(model)
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    offset = graph._tab.Vector(graph._tab.Offset(10))  # the operators
    target = offset + struct.unpack_from("<I", content, offset)[0]
    count = 1_000_000
    start = len(content) + (-len(content)) % 4
    grown = bytearray(content) + bytes(start - len(content)) + struct.pack("<I", count)
    field = graph._tab.Pos + graph._tab.Offset(10)
    struct.pack_into("<I", grown, field, start - field)
    grown += b"".join(struct.pack("<I", (target - (start + 4 + 4 * i)) & 0xFFFFFFFF) for i in range(count))
    with pytest.raises(FileError):
        read(bytes(grown), tmp_path)


def test_sparse_tensors_that_contradict_themselves(tmp_path: Path) -> None:
    def changed(edit: object) -> bytes:
        model = parse(CONTENT)
        sparsity = next(t.sparsity for t in model.subgraphs[0].tensors if t.sparsity is not None)
        edit(sparsity)  # type: ignore[operator]
        return serialize(model)

    def set_to(holder: str, values: np.ndarray) -> object:
        return lambda s: setattr(getattr(s.dimMetadata[1], holder), "values", values)

    stored = int((W != 0).sum())
    cases = [
        set_to("arrayIndices", np.full(stored, 20, np.uint8)),
        set_to("arraySegments", np.arange(13, dtype=np.uint8)[::-1].copy()),
        set_to("arraySegments", np.zeros(13, np.uint8)),
        set_to("arrayIndices", np.zeros(stored - 1, np.uint8)),
        lambda s: setattr(s, "traversalOrder", [0, 0]),
        lambda s: setattr(s, "traversalOrder", [0, 1, 2]),
        lambda s: setattr(s, "blockMap", [1]),
        lambda s: setattr(s.dimMetadata[0], "denseSize", 2**30),
        lambda s: setattr(s.dimMetadata[0], "denseSize", -1),
        lambda s: setattr(s, "dimMetadata", s.dimMetadata[:1]),
    ]
    for edit in cases:
        with pytest.raises(FileError):
            read(changed(edit), tmp_path)


def test_a_tiny_file_cannot_claim_a_huge_tensor(tmp_path: Path) -> None:
    model = parse(adding(np.eye(2, dtype=np.float32), Layout((0, 1), 1)))
    for tensor in model.subgraphs[0].tensors:
        tensor.shape = [2, 2**30]
    with pytest.raises(FileError, match="sparse tensor of"):
        read(serialize(model), tmp_path)


@pytest.mark.parametrize("raw", [b"{", b"[]", b'{"inputs": 3}', b'{"layouts": []}', b"[" * 100_000, b"\xff\xfe"])
def test_a_broken_manifest_is_ignored_and_said(raw: bytes, tmp_path: Path) -> None:
    contents = read_tflite(_written(tmp_path, with_manifest(adding(W), raw)))
    assert "idp_deploy" not in contents.metadata
    assert "manifest" in contents.warnings[0]


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04 something", b"\0" * 100):
        with pytest.raises(FileError, match="TFL3"):
            read(content, tmp_path)
    with pytest.raises(FileError, match="cannot read"):
        read_tflite(tmp_path / "missing.tflite")


def test_data_behind_the_flatbuffer_is_read(tmp_path: Path) -> None:
    dense = adding(W)
    model = schema.ModelT.InitFromPackedBuf(dense, 0)
    import flatbuffers

    data, size = W.tobytes(), 0
    for _ in range(2):  # the second pass knows where the flatbuffer ends
        for buffer in model.buffers:
            if (buffer.data is not None and len(buffer.data) == len(data)) or buffer.offset:
                buffer.data, buffer.offset, buffer.size = None, max(size, 2), len(data)
        builder = flatbuffers.Builder(0)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        size = len(builder.Output())
    content = bytes(builder.Output()) + data
    contents = read_tflite(_written(tmp_path, content))
    assert np.array_equal(contents.tensor("stored").values(), W)
    inlined = serialize(parse(content))
    assert np.array_equal(read_tflite(_written(tmp_path, inlined)).tensor("stored").values(), W)
    with pytest.raises(FileError, match="truncated"):
        read(content[:-1], tmp_path)


def test_buffers_are_aligned_and_bytes_repeat() -> None:
    content = serialize(parse(CONTENT))
    assert content == serialize(parse(content))
    model = schema.Model.GetRootAs(content, 0)
    offsets = []
    for i in range(model.BuffersLength()):
        table = model.Buffers(i)
        field = table._tab.Offset(4)
        if field:
            offsets.append(table._tab.Vector(field))
    assert offsets
    assert all(offset % 16 == 0 for offset in offsets)


def test_reading_needs_neither_torch_nor_litert(tmp_path: Path) -> None:
    path = _written(tmp_path, CONTENT)
    code = (
        f"import sys; from idp_deploy.reading import read; read({str(path)!r}); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'ai_edge_litert', 'litert_torch', 'tensorflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_reading_five_million_parameters_is_fast(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2500, 2000)).astype(np.float32)
    path = _written(tmp_path, adding(values * (np.abs(values) > 1.6), Layout((0, 1), 1)))
    start = time.process_time()
    contents = read_tflite(path)
    assert contents.tensors[0].zeros > 4_000_000
    assert time.process_time() - start < 0.3


def _written(folder: Path, content: bytes) -> Path:
    path = folder / "f.tflite"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("code", "bits", "name"), [("INT4", 4, "int4"), ("INT2", 2, "int2"), ("UINT4", 4, "uint4")])
def test_narrow_integers_are_counted_entry_by_entry(code: str, bits: int, name: str, tmp_path: Path) -> None:
    """With a scale a row, as quantizers write them; several entries lie in a byte, the first in its low bits."""
    levels = np.resize([1, 0, 0, 3, 0, 2, 0, 0], (3, 8))
    lowest_first = [sum(int(v) << bits * i for i, v in enumerate(each)) for each in levels.reshape(-1, 8 // bits)]
    model = parse(in_signatures(one=np.ones((3, 8), np.float32)))
    weight = model.subgraphs[0].tensors[int(model.subgraphs[0].operators[0].inputs[1])]
    weight.type, weight.buffer = getattr(schema.TensorType, code), add_buffer(model, np.array(lowest_first, np.uint8))
    weight.quantization = schema.QuantizationParametersT()
    weight.quantization.scale, weight.quantization.zeroPoint = [0.5, 1.0, 2.0], [0, 0, 0]
    (tmp_path / "m.tflite").write_bytes(serialize(model))
    (tensor,) = read_tflite(tmp_path / "m.tflite").tensors
    assert (tensor.dtype, tensor.shape, tensor.zeros, tensor.value_bits) == (name, (3, 8), 15, bits)
    meant = np.where(levels >= 1 << bits - 1, levels - (1 << bits), levels) if name != "uint4" else levels
    np.testing.assert_array_equal(tensor.values(), meant)


def test_a_type_that_is_not_known_is_bytes_without_channels(tmp_path: Path) -> None:
    model = parse(in_signatures(one=np.ones((3, 8), np.float32)))
    weight = model.subgraphs[0].tensors[int(model.subgraphs[0].operators[0].inputs[1])]
    weight.type, weight.buffer = schema.TensorType.FLOAT8_E4M3FN, add_buffer(model, np.ones(24, np.uint8))
    weight.quantization = schema.QuantizationParametersT()
    weight.quantization.scale, weight.quantization.zeroPoint = [0.5, 1.0, 2.0], [0, 0, 0]
    (tmp_path / "m.tflite").write_bytes(serialize(model))
    assert [tensor.size_bytes for tensor in read_tflite(tmp_path / "m.tflite").tensors] == [24]
