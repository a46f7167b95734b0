"""Quantized ONNX files: the model's own numbers, integer kernels where there are some, and nothing left to unfold."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, Contents, FormatName, Model, Quantization, Recipe
from idp_deploy.formats.onnx import run
from idp_deploy.formats.onnx.read.contents import read_onnx
from idp_deploy.formats.sessions import Session
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import quantize
from idp_deploy.verification import run_file, verify
from tests.lazily import Made

pytestmark = pytest.mark.usefixtures("exact_integers")


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(32, 32, 1, bias=False)
        self.norm = nn.BatchNorm2d(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm(self.conv(x))


def build(sparsity: float = 0.9) -> CompressedModel:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU6(),
        Residual(),
        nn.Conv2d(32, 128, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 100),
    )
    module[1].running_mean.normal_()
    module[1].weight.data.normal_()
    masks = {}
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            masks[name] = torch.rand_like(parameter) >= sparsity
            masks[name][3] = False  # a dead output channel
            parameter.data.mul_(masks[name])
    return CompressedModel(module.eval(), masks)


IMAGE = (torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)),)
SCHEMES = {"fp16": 1e-4, "int8-weights": 1e-4, "lut4": 1e-4, "int8": 5e-2}


@pytest.fixture(scope="module")
def quantized():
    return Made(lambda scheme: quantize(build(), scheme, example_inputs=IMAGE))


@pytest.fixture(scope="module")
def exported(quantized, tmp_path_factory):
    folder = tmp_path_factory.mktemp("schemes")
    return Made(lambda scheme: export(quantized[scheme], "onnx", IMAGE, folder / f"{scheme}.onnx"))


def optimized(path, tmp_path, level=ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED) -> Counter:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_outputs_agree_with_the_quantized_module(scheme, exported, quantized):
    with torch.no_grad():
        expected = quantized[scheme].module(*IMAGE).numpy()
    (output,) = run_file(exported[scheme].path, [(IMAGE[0].numpy(),)])["onnxruntime"][0]
    assert np.abs(output - expected).max() <= SCHEMES[scheme] * np.abs(expected).max()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zeros_and_values_read_back(scheme, exported, quantized):
    model, contents = quantized[scheme], read_onnx(exported[scheme].path)
    for name, mask in model.masks.items():
        tensor = contents.tensor(exported[scheme].manifest["weights"][name])
        assert tensor.zeros == int((~mask).sum())
        assert ((tensor.values() != 0) == mask.numpy()).all()
        assert tensor.is_sparse
        values = (tensor.dequantize or tensor.values)().astype(np.float32)
        parameter = model.module.get_parameter(name).detach().numpy()
        np.testing.assert_allclose(values, parameter, rtol=1e-3 if scheme == "fp16" else 1e-5)


@pytest.mark.wide
@pytest.mark.parametrize("scheme", ["fp16", "int8-weights", "lut4"])
def test_forms_fold_to_the_float_graph(scheme, exported, tmp_path):
    level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    plain = export(build(), "onnx", IMAGE, tmp_path / "float.onnx", encoding="dense")
    assert optimized(exported[scheme].path, tmp_path, level) == optimized(plain.path, tmp_path, level)


def test_int8_runs_on_integer_kernels(exported, tmp_path):
    counts = optimized(exported["int8"].path, tmp_path)
    assert counts["QLinearConv"] == 3
    assert counts["QLinearAdd"] == 1
    assert counts["QGemm"] == 1
    assert counts["Conv"] == 0
    assert counts["Cast"] == counts["ScatterElements"] == counts["CumSum"] == counts["ConstantOfShape"] == 0


class Block(nn.Module):
    """What rounding to 8 bits spoils: attention scores, a residual that norms read, activations no layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.mixed, self.up, self.out = (
            nn.Linear(16, 48),
            nn.Linear(16, 16),
            nn.Linear(16, 32),
            nn.Linear(32, 5),
        )
        self.norm, self.last = nn.LayerNorm(16), nn.LayerNorm(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.mixed((q @ k.transpose(1, 2)).softmax(-1) @ v)
        return self.out(self.last(self.up(self.norm(x)).relu()))


def test_what_no_integer_kernel_reads_stays_float(tmp_path):
    torch.manual_seed(0)
    model, x = CompressedModel(Block().eval(), {}), (torch.randn(1, 6, 16),)
    model = quantize(model, "int8", example_inputs=x)
    artifact = export(model, "onnx", x, tmp_path / "m.onnx")
    graph = onnx.load(artifact.path).graph
    rounded = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    readers = {node.op_type for node in graph.node if rounded & set(node.input)}
    assert readers == {"MatMul"}
    assert not rounded & {output.name for output in graph.output}
    counts = optimized(artifact.path, tmp_path)
    assert counts["MatMulIntegerToFloat"] + counts["QLinearMatMul"] == 6
    assert counts["MatMul"] == 0
    calls = [(torch.randn(1, 6, 16),) for _ in range(20)]
    with torch.no_grad():
        expected = np.stack([model.module(*call).numpy() for call in calls])
    given = np.stack(
        [outputs[0] for outputs in run_file(artifact.path, [(c.numpy(),) for (c,) in calls])["onnxruntime"]]
    )
    assert np.square(given - expected).mean() < 0.03**2 * np.square(expected).mean()


def test_a_clipped_convolution_is_rounded_after_the_clip(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.ConvTranspose2d(8, 4, 2, 2)).eval()
    artifact = export(
        quantize(CompressedModel(module, {}), "int8", example_inputs=IMAGE), "onnx", IMAGE, tmp_path / "m.onnx"
    )
    counts = optimized(artifact.path, tmp_path)
    assert counts["QLinearConv"] == 1
    assert counts["Clip"] == 0


@pytest.mark.parametrize(("low", "high"), [(0.5, 2.0), (-3.0, -1.0), (0.25, 100.0), (0.0, 2.0)])
def test_bounds_on_one_side_of_zero_keep_the_numbers_there(low: float, high: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardtanh(low, high), nn.Conv2d(8, 4, 3)).eval()
    quantized = quantize(CompressedModel(module, {}), "int8", example_inputs=IMAGE)
    path = export(quantized, "onnx", IMAGE, tmp_path / "bounded.onnx").path
    expected = quantized.module(*IMAGE).detach().numpy()
    (given,) = run_file(path, [(IMAGE[0].numpy(),)])["onnxruntime"][0]
    assert np.abs(given - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.wide
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_smaller_than_float_and_than_dense(scheme, exported, quantized, tmp_path):
    dense = export(quantized[scheme], "onnx", IMAGE, tmp_path / "dense.onnx", encoding="dense")
    plain = export(build(), "onnx", IMAGE, tmp_path / "float.onnx")
    assert exported[scheme].size_bytes < dense.size_bytes
    assert exported[scheme].size_bytes < plain.size_bytes


@pytest.mark.wide
@pytest.mark.parametrize("scheme", SCHEMES)
def test_same_bytes_twice(scheme, exported, quantized, tmp_path):
    again = export(quantized[scheme], "onnx", IMAGE, tmp_path / f"{scheme}.onnx")
    assert again.path.read_bytes() == exported[scheme].path.read_bytes()


def test_a_dead_channel_keeps_its_bias(exported, quantized):
    contents = read_onnx(exported["int8"].path)
    name, conv = exported["int8"].manifest["weights"]["4.weight"], quantized["int8"].module[4]
    reader = next(op for op in contents.ops if op.weights.get("weight") == name)
    bias = contents.tensor(reader.weights["bias"])
    exact = conv.bias.detach().numpy()
    assert not conv.weight[3].any()
    assert abs(bias.dequantize()[3] - exact[3]) < 1e-3 * np.abs(exact).max()
    assert not contents.tensor(name).values()[3].any()


def test_layers_kept_float_stay_float(quantized, tmp_path):
    model = quantized["int8"]
    kept = Quantization("int8", kept_float={"4.weight": "noise"}, calibration=model.quantization.calibration)
    artifact = export(CompressedModel(model.module, model.masks, quantization=kept), "onnx", IMAGE, tmp_path / "m.onnx")
    contents = read_onnx(artifact.path)
    assert contents.tensor("4.weight").dtype == "float32"
    assert contents.tensor("8.weight").dtype == "int8"
    counts = optimized(artifact.path, tmp_path)
    assert (counts["QLinearConv"], counts["Conv"] + counts["FusedConv"]) == (2, 1)


class Recurrent(nn.Module):
    """Weights whose layout the converter changes, and an embedding used in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(300, 48)
        self.gru = nn.GRU(48, 64, batch_first=True, bidirectional=True)
        self.project = nn.Linear(128, 48)
        self.head = nn.Linear(48, 300, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.gru(self.embedding(ids))
        return self.head(self.project(hidden))


@pytest.mark.wide
@pytest.mark.parametrize("scheme", ["int8", "int8-weights"])
def test_reordered_and_tied_weights_become_integers_too(scheme, tmp_path):
    torch.manual_seed(0)
    module = Recurrent().eval()
    masks = {}
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            masks[name] = torch.rand_like(parameter) > 0.8
            parameter.data.mul_(masks[name])
    ids = (torch.randint(0, 300, (1, 9)),)
    model = quantize(CompressedModel(module, masks), scheme, example_inputs=ids, threshold_db=0)
    artifact = export(model, "onnx", ids, tmp_path / "m.onnx")
    contents = read_onnx(artifact.path)
    large = [tensor for tensor in contents.tensors if tensor.size >= 1000]
    assert {tensor.value_bits for tensor in large} == {8.0}
    table = sum(tensor.size_bytes for tensor in large if tensor.size == 300 * 48)
    assert table < 1.2 * (300 * 48 * 0.2 * 1.6 + 300 * 4 * 2 + 300)
    with torch.no_grad():
        expected = model.module(*ids).numpy()
    (output,) = run_file(artifact.path, [(ids[0].numpy(),)])["onnxruntime"][0]
    assert np.abs(output - expected).max() < (0.06 if scheme == "int8" else 1e-4) * np.abs(expected).max()


def test_small_constants_of_an_int8_file_are_not_repeated(exported):
    proto = onnx.load(exported["int8"].path)
    zeros = [t.name for t in proto.graph.initializer if t.dims and not numpy_helper.to_array(t).any()]
    assert not [
        name for name in zeros if numpy_helper.to_array({t.name: t for t in proto.graph.initializer}[name]).size >= 64
    ]


def test_a_file_is_judged_in_exact_integers_and_a_cpu_that_cuts_them_off_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(4, 8),)
    model = quantize(CompressedModel(nn.Sequential(nn.Linear(8, 6)).eval(), {}), "int8", example_inputs=inputs)
    path = tmp_path / "net.onnx"
    export(model, "onnx", inputs, path)
    plain = run.open_onnx

    def halved(contents: Contents, *, threads: int = 1, exact_integers: bool = True) -> dict[str, Session]:
        session = plain(contents, threads=threads)[run.RUNTIME]
        return {run.RUNTIME: session if exact_integers else lambda call: (session(call)[0] * 0.5,)}

    monkeypatch.setattr(run, "open_onnx", halved)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for vnni in (True, False):
        monkeypatch.setattr(run, "_has_vnni", lambda vnni=vnni: vnni)
        parity = verify(path, model, inputs)
        assert parity.passed
        said = [note for note in parity.notes if "session.x64quantprecision" in note and "move by 0.5" in note]
        assert len(said) == (not vnni)


def test_bodies_of_loops_find_what_they_read_outside_of_them(tmp_path: Path) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = (
                nn.EmbeddingBag(30, 16),
                nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4)),
            )

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(ids))

    torch.manual_seed(0)
    example = (torch.randint(0, 30, (3, 6)),)
    model = quantize(CompressedModel(Words().eval(), {}), "int8", example_inputs=example)
    path = export(model, "onnx", example, tmp_path / "m.onnx").path
    assert any(node.op_type == "Loop" for node in onnx.load(path).graph.node)
    assert verify(path, model, example).passed


def test_truths_and_integers_beside_quantized_outputs_are_compared(tmp_path: Path) -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            x = self.layer(x)
            return x, (x > 0).any(1), x.argmax(1)

    torch.manual_seed(0)
    example = (torch.randn(3, 8),)
    model = quantize(CompressedModel(Several().eval(), {}), "int8", example_inputs=example)
    path = export(model, "onnx", example, tmp_path / "m.onnx").path
    sizes = {parity.output: parity.passed for parity in verify(path, model, example, tolerance=1.0).outputs}
    assert len(sizes) == 3
    assert run.usual(read_onnx(path), (example[0].numpy(),), 2.0) == ()  # truths and integers are subtracted too


class Distances(nn.Module):
    """A mean over bins whose shares a convolution tells, as detectors read distances."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins, self.layer, self.mean = bins, nn.Conv2d(3, 2 * bins, 1), nn.Conv2d(bins, 1, 1, bias=False)
        self.mean.weight.data[:] = torch.arange(bins).reshape(1, bins, 1, 1)
        self.layer.weight.data *= 0.01
        self.layer.bias.data *= 0.01

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shares = self.layer(x).reshape(1, 2, self.bins, -1).transpose(2, 1).softmax(1)
        return self.mean(shares).flatten(1)


@pytest.mark.wide
@pytest.mark.parametrize("bins", [4, 8, 64])
def test_small_shares_do_not_become_zero(bins: int, tmp_path: Path) -> None:
    """onnxruntime's softmax of integers gives zeros where the step of what it gives is below 1/1024."""
    torch.manual_seed(0)
    example = (torch.rand(1, 3, 6, 6),)
    model = quantize(CompressedModel(Distances(bins).eval(), {}), "int8", example_inputs=example)
    parity = verify(export(model, "onnx", example, tmp_path / "m.onnx").path, model, example)
    assert parity.passed, parity.outputs


class Crossed(nn.Module):
    """Keys and values of another sequence: the projection is cut in two pieces, of which one is twice as large."""

    def __init__(self) -> None:
        super().__init__()
        self.cross, self.head = nn.MultiheadAttention(24, 4, batch_first=True), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.cross(x, other, other)[0])  # type: ignore[no-any-return]


@pytest.mark.wide
@pytest.mark.parametrize("scheme", ["int8", "int8-weights"])
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_pieces_of_a_weight_are_rounded_once_and_proved(scheme: str, format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    example = torch.randn(1, 5, 24), torch.randn(1, 7, 24)
    model = quantize(one_shot(Model(Crossed().eval()), Recipe(0.7)), scheme, example_inputs=example)
    parity = verify(export(model, format, example, tmp_path / f"m.{format}").path, model, example)
    assert parity.passed, (parity.outputs, parity.weights)
    assert {proof.parameter for proof in parity.weights} >= {"cross.in_proj_weight"}


def test_a_net_that_8_bits_cannot_compute_is_told_the_way_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 8, 1, bias=False)).eval()
    with torch.no_grad():
        net[0].bias.fill_(1000.0)
        net[1].weight[:, 32:] = -net[1].weight[:, :32]  # the small difference of two large numbers
    example = (torch.randn(1, 3, 16, 16),)
    model = quantize(CompressedModel(net, {}), "int8", example_inputs=example, threshold_db=-99)
    parity = verify(export(model, "onnx", example, tmp_path / "m.onnx").path, model, example)
    assert not parity.passed
    assert any("--scheme int8-weights" in note for note in parity.notes)
    way_out = quantize(CompressedModel(net, {}), "int8-weights", example_inputs=example, threshold_db=-99)
    assert verify(export(way_out, "onnx", example, tmp_path / "n.onnx").path, way_out, example).passed
