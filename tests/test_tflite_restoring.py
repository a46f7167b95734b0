"""restore, and the count of zeros, on .tflite files as other converters leave them."""

import tracemalloc
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pytest
import torch
from torch import nn

from idp_deploy import restoring
from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, Recipe
from idp_deploy.formats.tflite.litert import RUNTIMES, Litert
from idp_deploy.formats.tflite.write.attached import MOST_BYTES, with_files_of
from idp_deploy.formats.tflite.write.graph import add_buffer, add_tensor, constants, kind, operator, schema
from idp_deploy.formats.tflite.write.restoring import restored_tflite
from idp_deploy.formats.tflite.write.serializing import parse, serialize
from idp_deploy.gating import sparsity
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.restoring import restore
from idp_deploy.verification import run_file
from tests.tflite_files import in_signatures, shaped


def thinned(module: nn.Module, share: float) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter)
            parameter.data[torch.rand(parameter.shape) < share] = 0
    return module.eval()


def test_weights_of_every_signature_are_counted(tmp_path: Path) -> None:
    import litert_torch

    sparse, dense, x = thinned(nn.Linear(64, 96), 0.9), thinned(nn.Linear(64, 80), 0.0), (torch.randn(1, 64),)
    made = litert_torch.signature("thin", sparse, x).signature("full", dense, x).convert()
    (tmp_path / "m.tflite").write_bytes(made.model_content())
    contents = read(tmp_path / "m.tflite")
    zeros = sum(int((module.weight == 0).sum()) for module in (sparse, dense))
    assert sparsity(contents) == (zeros / (64 * 176), zeros, 64 * 176)
    assert len(contents.ops) == 1
    (warning,) = contents.warnings
    assert "runs by itself: its weights are counted, its time is not" in warning


def shaped_later(content: bytes) -> bytes:
    """The same file, the shape of its transposed convolution's output computed, as files with a free batch have it."""
    model = parse(content)
    graph = model.subgraphs[0]
    (op,) = [op for op in graph.operators if kind(model, op) == "TRANSPOSE_CONV"]
    shape = next(c.values for c in constants(model, floats_only=False) if c.index == int(op.inputs[0]))
    like = graph.tensors[int(op.inputs[0])]
    parts = [add_tensor(model, like, "INT32", part) for part in (shape, np.zeros_like(shape))]
    like.buffer = 0
    graph.operators.insert(0, operator(model, "ADD", parts, [int(op.inputs[0])]))
    return serialize(model)


@pytest.mark.parametrize("later", [False, True])
def test_a_float16_transposed_convolution_is_right_wherever_it_runs(later: bool, tmp_path: Path) -> None:
    module = thinned(nn.Sequential(nn.ConvTranspose2d(8, 24, 3, 2), nn.ReLU(), nn.Conv2d(24, 32, 3)), 0.9)
    masks = {name: parameter != 0 for name, parameter in module.named_parameters() if parameter.ndim > 1}
    inputs = (torch.randn(1, 8, 6, 6),)
    model = quantize(CompressedModel(module, masks, Recipe()), "fp16", example_inputs=inputs)
    source = export(model, "tflite", inputs, tmp_path / "dense.tflite", encoding="dense").path
    if later:
        source = tmp_path / "later.tflite"
        source.write_bytes(shaped_later((tmp_path / "dense.tflite").read_bytes()))
    restored = restore(source, tmp_path / "again.tflite")
    assert all(tensor.is_sparse for tensor in read(restored.path).tensors if tensor.size > 1000)
    calls = [(torch.randn(1, 8, 6, 6).numpy(),)]
    before, after = (run_file(path, calls) for path in (source, restored.path))
    for runtime in restored.runtimes:
        np.testing.assert_array_equal(before[runtime][0], after[runtime][0])


def test_files_behind_the_model_stay_behind_it(tmp_path: Path) -> None:
    import litert_torch

    source, path = tmp_path / "m.tflite", tmp_path / "out.tflite"
    source.write_bytes(litert_torch.convert(thinned(nn.Linear(64, 96), 0.9), (torch.randn(1, 64),)).model_content())
    with ZipFile(source, "a", ZIP_DEFLATED) as archive:  # as TFLite's metadata keeps labels
        archive.writestr("labels.txt", "cat\ndog\n")
        archive.writestr("vocabulary/größe.txt", "a\n" * 1000)
    restored = restore(source, path)
    assert restored.after_bytes == path.stat().st_size < source.stat().st_size
    with ZipFile(source) as before, ZipFile(path) as after:
        assert [(e.filename, e.date_time) for e in after.infolist()] == [
            (e.filename, e.date_time) for e in before.infolist()
        ]
        assert all(after.read(name) == before.read(name) for name in before.namelist())
        assert path.read_bytes()[after.infolist()[0].header_offset :].startswith(
            b"PK\x03\x04"
        )  # where the archive says


@pytest.mark.parametrize("place", [-4, -30, -500, -65557, 0])
def test_bytes_that_look_like_the_end_of_an_archive_are_weights(place: int) -> None:
    content = bytearray(b"\x3f" * 70_000)
    content[place : place + 4 or None] = b"PK\5\6"
    assert with_files_of(bytes(content), b"the model") == b"the model"


def test_files_behind_the_model_cannot_fill_the_memory() -> None:
    bomb = BytesIO()
    with ZipFile(bomb, "w", ZIP_DEFLATED) as archive:
        for name in range(9):
            archive.writestr(f"{name}", bytes(MOST_BYTES // 8))
    with pytest.raises(ConversionError, match="unpack to more than 64 MB"):
        with_files_of(bomb.getvalue(), b"model")


def behind(method: int, size: int, words: dict[int, int]) -> bytes:
    """A model and a file of zeros behind it, where words of its entry, by their place, are others afterwards."""
    whole = BytesIO(b"model")
    with ZipFile(whole, "a", method) as archive, archive.open("labels.txt", "w") as file:
        for start in range(0, size, 1 << 16):
            file.write(bytes(min(size - start, 1 << 16)))
    content = bytearray(whole.getvalue())
    for place, word in words.items():
        start = content.rfind(b"PK\1\2") + place
        content[start : start + 2] = word.to_bytes(2, "little")
    return bytes(content)


@pytest.mark.wide
@pytest.mark.parametrize(
    ("method", "size", "words", "said"),
    [
        (ZIP_DEFLATED, 2 * MOST_BYTES, {24: 9, 26: 0}, "Bad CRC-32 for file 'labels.txt'"),
        (ZIP_BZIP2, 9, {}, "'labels.txt' is compressed by method 12"),
        (ZIP_STORED, 9, {10: 99}, "'labels.txt' is compressed by method 99"),
        (ZIP_STORED, 9, {8: 1}, "'labels.txt'.* is encrypted"),
        (ZIP_STORED, 9, {10: ZIP_DEFLATED}, "while decompressing"),
        (ZIP_STORED, 9, {6: 200}, "zip file version"),
        (ZIP_STORED, 9, {8: 0x800, 46: 0xFFFF}, "can't decode"),
        (ZIP_STORED, 9, {16: 1}, "Bad CRC-32"),
    ],
)
def test_files_behind_the_model_that_cannot_be_read_are_told(
    method: int, size: int, words: dict[int, int], said: str
) -> None:
    content = behind(method, size, words)
    tracemalloc.start()
    with pytest.raises(ConversionError, match=f"files behind the model cannot be carried over: .*{said}"):
        with_files_of(content, b"model")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < MOST_BYTES, "a size that lies lets no more be unpacked"


def thin(share: float, *shape: int) -> np.ndarray:
    generator = np.random.default_rng(len(shape))
    values = generator.standard_normal(shape or (96, 64)).astype(np.float32)
    values[generator.random(values.shape) < share] = 0
    return values


def ran(path: Path, signature: str, runtime: str = "litert-xnnpack") -> list[np.ndarray]:
    litert = Litert(path.read_bytes(), runtime, path.name, signature=signature)
    return list(litert.run([np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)]))


def test_weights_of_every_signature_are_stored_sparse_and_run(tmp_path: Path) -> None:
    source = tmp_path / "m.tflite"
    source.write_bytes(in_signatures(one=thin(0.9), two=thin(0.9)))
    restored = restore(source, tmp_path / "s.tflite")
    assert restored.after_bytes < 0.45 * restored.before_bytes, "what both share is stored once"
    assert {t.encoding for t in read(restored.path).tensors if t.size > 1000} == {"csr"}
    assert (restored.outputs, restored.runtimes) == (4, ("litert-xnnpack", "litert-builtin"))
    for signature in ("one", "two"):
        for runtime in RUNTIMES:
            (before,), (after,) = (ran(path, signature, runtime) for path in (source, restored.path))
            np.testing.assert_array_equal(before, after)


def test_data_that_old_files_list_by_place_stay_listed(tmp_path: Path) -> None:
    source = tmp_path / "m.tflite"
    model = parse(in_signatures(one=thin(0.9)))
    model.metadataBuffer = [0, add_buffer(model, b"who made it")]
    source.write_bytes(serialize(model))
    after = parse(restore(source, tmp_path / "s.tflite").path.read_bytes())
    assert [bytes(after.buffers[i].data or b"") for i in after.metadataBuffer[:1]] == [b""]
    assert bytes(after.buffers[after.metadataBuffer[1]].data) == b"who made it"


def test_a_weight_stays_dense_where_another_signature_reads_it_whole(tmp_path: Path) -> None:
    model = parse(in_signatures(one=thin(0.9), two=thin(0.9)))
    graph = model.subgraphs[1]
    weight, result = (graph.tensors[int(i)] for i in (graph.operators[0].inputs[1], graph.outputs[0]))
    graph.operators = [operator(model, "ABS", [int(graph.operators[0].inputs[1])], [int(graph.outputs[0])])]
    result.shape = weight.shape
    (tmp_path / "m.tflite").write_bytes(serialize(model))
    with pytest.raises(UsageError, match="cannot be stored sparse as it is: another operator or signature reads it"):
        restore(tmp_path / "m.tflite", tmp_path / "s.tflite")


def test_zeros_of_four_bits_are_named(tmp_path: Path) -> None:
    model = parse(in_signatures(one=(thin(0.9) != 0).astype(np.float32)))
    weight = model.subgraphs[0].tensors[int(model.subgraphs[0].operators[0].inputs[1])]
    ones = thin(0.9).reshape(-1) != 0
    model.buffers[weight.buffer].data = (ones[::2] | ones[1::2] << 4).astype(np.uint8)
    weight.type, weight.quantization = schema().TensorType.INT4, schema().QuantizationParametersT()
    weight.quantization.scale, weight.quantization.zeroPoint = np.ones(1, np.float32), np.zeros(1, np.int64)
    (tmp_path / "m.tflite").write_bytes(serialize(model))
    with pytest.raises(
        UsageError, match=r"int4, .* cannot be stored sparse as it is: numbers in int4 stay as they are"
    ):
        restore(tmp_path / "m.tflite", tmp_path / "s.tflite")


def branching(path: Path) -> Path:
    """A·x or B·x, as TensorFlow writes a branch."""
    model = parse(in_signatures(then=thin(0.9), other=thin(0.8)))
    model.signatureDefs, bodies, main = [], model.subgraphs, schema().SubGraphT()
    main.tensors, main.operators, main.name = [], [], "main"
    model.subgraphs = [main, *bodies]
    ends = [("flag", "BOOL", (1,)), ("x", "FLOAT32", (1, 64)), ("y", "FLOAT32", (1, 96))]
    flag, x, y = (add_tensor(model, shaped(*shape), dtype, None) for _, dtype, shape in ends)
    for tensor, (name, _, _) in zip(main.tensors, ends, strict=True):
        tensor.name = name
    main.inputs, main.outputs, main.operators = [flag, x], [y], [operator(model, "IF", [flag, x], [y])]
    main.operators[0].builtinOptions.thenSubgraphIndex, main.operators[0].builtinOptions.elseSubgraphIndex = 1, 2
    path.write_bytes(serialize(model))
    return path


def test_weights_of_branches_are_stored_sparse_and_each_branch_runs(tmp_path: Path) -> None:
    source = branching(tmp_path / "m.tflite")
    restored = restore(source, tmp_path / "s.tflite")
    assert restored.after_bytes < 0.4 * restored.before_bytes
    assert restored.outputs == 2 * 3, "the branch, and both its bodies by themselves"
    for taken in (True, False):
        call = (np.array([taken]), np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32))
        before, after = (run_file(path, [call]) for path in (source, restored.path))
        assert all(np.array_equal(before[runtime][0], after[runtime][0]) for runtime in restored.runtimes)


def test_a_body_that_computes_otherwise_is_found_though_no_call_reaches_it(tmp_path: Path) -> None:
    source = branching(tmp_path / "m.tflite")
    form = next(restored_tflite(read(source)))
    model = parse(form)
    (fc,) = [op for op in model.subgraphs[2].operators if kind(model, op) == "FULLY_CONNECTED"]
    fc.builtinOptions.fusedActivationFunction = schema().ActivationFunctionType.RELU
    (tmp_path / "o.tflite").write_bytes(serialize(model))
    before, after = ([*restoring._entries(read(path))] for path in (source, tmp_path / "o.tflite"))
    found = [
        restoring._otherwise(restoring._Run(a, *restoring._outputs(a)), b) for a, b in zip(before, after, strict=True)
    ]
    assert [None if problem is None else "changed in" in str(problem) for problem in found] == [None, True]


def test_a_file_that_leaves_sizes_of_images_open_is_run_at_some(tmp_path: Path) -> None:
    model = parse(in_signatures(one=thin(0.9, 24, 3, 3, 16)))
    graph, op = model.subgraphs[0], operator(model, "CONV_2D", [], [])
    x, y = (graph.tensors[int(i)] for i in (graph.inputs[0], graph.outputs[0]))
    for tensor, channels in ((x, 16), (y, 24)):
        tensor.shape, tensor.shapeSignature = [1, 1, 1, channels], [-1, -1, -1, channels]
    image, weight, _ = map(int, graph.operators[0].inputs)
    op.inputs = [image, weight, add_tensor(model, shaped(24), "FLOAT32", thin(0, 24))]
    op.outputs, graph.operators = graph.operators[0].outputs, [op]
    options = op.builtinOptions
    options.padding, options.strideW, options.strideH = schema().Padding.VALID, 1, 1
    options.dilationWFactor = options.dilationHFactor = 1
    (tmp_path / "m.tflite").write_bytes(serialize(model))
    restored = restore(tmp_path / "m.tflite", tmp_path / "s.tflite")
    assert restored.runtimes == ("litert-xnnpack", "litert-builtin")
    assert restored.after_bytes < 0.4 * restored.before_bytes
    calls = [(np.ones((2, 12, 7, 16), np.float32),)]
    before, after = (run_file(path, calls) for path in (tmp_path / "m.tflite", restored.path))
    for runtime in restored.runtimes:
        assert before[runtime][0][0].shape == (2, 10, 5, 24)
        np.testing.assert_array_equal(before[runtime][0][0], after[runtime][0][0])


def test_scales_of_blocks_stay_with_their_weight_when_others_become_sparse(tmp_path: Path) -> None:
    model = parse(in_signatures(one=thin(0.9), two=thin(0.9, 96, 64)))
    scales = thin(0, 96, 2).astype(np.float16)
    place, graph = 1, model.subgraphs[1]
    index = int(graph.operators[0].inputs[1])
    blocks = schema().BlockwiseQuantizationT()
    add_tensor(model, shaped(1), "FLOAT32", thin(0, 1), place=place)  # which nothing reads: those behind it move
    blocks.scales, blocks.zeroPoints = add_tensor(model, shaped(96, 2), "FLOAT16", scales, place=place), -1
    blocks.blockSize = 32
    weight = graph.tensors[index]
    weight.quantization = schema().QuantizationParametersT()
    weight.quantization.details, weight.quantization.detailsType = (
        blocks,
        schema().QuantizationDetails.BlockwiseQuantization,
    )
    weight.type, weight.buffer = schema().TensorType.INT4, add_buffer(model, np.ones(96 * 32, np.uint8))
    (tmp_path / "m.tflite").write_bytes(serialize(model))
    after = parse(next(restored_tflite(read(tmp_path / "m.tflite"))))
    tensors = after.subgraphs[1].tensors
    (kept,) = [each for each in tensors if each.quantization is not None and each.quantization.details is not None]
    held = after.buffers[tensors[kept.quantization.details.scales].buffer].data
    np.testing.assert_array_equal(np.asarray(held, np.uint8).view(np.float16), scales.reshape(-1))
    assert kept.quantization.details.zeroPoints == -1


class Video(nn.Module):
    """A layer that decodes a float16 weight behind DENSIFY and DEQUANTIZE, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.frames, self.image = nn.Conv3d(3, 16, 3, padding=1), nn.Conv2d(128, 32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.image(torch.relu(self.frames(x)).flatten(1, 2))


def test_halves_of_every_layer_are_left_out_at_once(tmp_path: Path) -> None:
    model = quantize(CompressedModel(thinned(Video(), 0.9), {}), "fp16")
    path = export(model, "tflite", (torch.randn(1, 3, 8, 8, 8),), tmp_path / "m.tflite", encoding="dense").path
    once = restore(path, tmp_path / "s.tflite").path
    assert {t.encoding for t in read(once).tensors if t.size > 1000} == {"csr"}
    with pytest.raises(UsageError, match="stores its zeros sparse already"):
        restore(once, tmp_path / "t.tflite")
