"""What int8 would make of a file is what it makes of it: resident weights, activations and time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from idp_deploy.exporting import export
from idp_deploy.flow import Budget, CompressedModel, Estimate, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.gating import Evidence, gate
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.remedies import remedied
from idp_deploy.shrinking import shrink_as_asked
from idp_deploy.simulation import simulate
from idp_deploy.simulation.narrowing import as_int8
from idp_deploy.simulation.question import load
from idp_deploy.simulation.removing import removable
from idp_deploy.simulation.targets import load_target
from idp_deploy.verification import verify


class Words(nn.Module):
    """A table, positions, attention and norms: most of it stays float."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(300, 32), nn.Parameter(torch.randn(1, 16, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu", dropout=0.0)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        for weight in self.layers.parameters():  # copies of one layer would be stored as one, and shared weights stay
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight)
        self.head = nn.Linear(32, 5)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.table(words) + self.places).mean(1))


class Residual(nn.Module):
    """Convolutions, depthwise among them, a sum and a mean: integers throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.point, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(x + self.point(torch.relu(self.deep(x)))).mean((2, 3)))


class Steps(nn.Module):
    """A recurrence."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.head = nn.GRU(20, 32, batch_first=True), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.steps(x)[0][:, -1])


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[torch.Tensor, ...]]] = {
    "words": (Words, (torch.arange(16).reshape(1, 16),)),
    "residual": (Residual, (torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)),)),
    "steps": (Steps, (torch.randn(1, 10, 20, generator=torch.Generator().manual_seed(0)),)),
}


def pruned(name: str) -> tuple[CompressedModel, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    build, x = MODELS[name]
    return one_shot(Model(build().eval()), Recipe(sparsity=0.5), x), x


def memory(estimate: Estimate) -> int:
    return estimate.resident_weight_bytes + estimate.peak_activation_bytes


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "format", ["onnx", pytest.param("tflite", marks=pytest.mark.wide), pytest.param("coreml", marks=pytest.mark.wide)]
)
def test_int8_is_foretold_from_the_floats(format: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip({"coreml": "coremltools", "tflite": "litert_torch"}.get(format, "onnx"))
    model, x = pruned(name)
    target, suffix = load_target(FORMATS[format].device), FORMATS[format].suffix

    def estimate(one: CompressedModel, stem: str) -> tuple[Estimate, Estimate]:
        export(one, format, x, tmp_path / f"{stem}{suffix}")
        contents = read(tmp_path / f"{stem}{suffix}")
        return simulate(contents, target, transfer=False), simulate(as_int8(contents), target, transfer=False)

    floats, foretold = estimate(model, "floats")
    found, again = estimate(quantize(model, "int8", example_inputs=x), "int8")
    assert memory(foretold) == pytest.approx(memory(found), rel=0.05)
    assert foretold.peak_activation_bytes == pytest.approx(found.peak_activation_bytes, rel=0.02)
    assert memory(foretold) < memory(floats)
    if found.latency_ms is not None:
        assert foretold.latency_ms is not None
        assert foretold.latency_ms.middle == pytest.approx(found.latency_ms.middle, rel=0.12)
    if format != "coreml":  # whose integers are weights, which a file says of itself
        assert memory(again) == memory(found)


class Recalls(nn.Module):
    """A recurrence that Core ML keeps in float32 here, and so in one operator of two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.head = nn.LSTM(16, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.steps(x)[0][:, -1])


@pytest.mark.wide
@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_integers_under_floats_are_kept_in_memory_as_they_are_stored(precision: str, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    torch.manual_seed(0)
    x, target = (torch.randn(1, 20, 16),), load_target("iphone-12")
    model = one_shot(Model(Recalls().eval()), Recipe(sparsity=0.5), x)
    found = []
    for stem, one in (("floats", model), ("int8", quantize(model, "int8", example_inputs=x))):
        export(one, "coreml", x, path := tmp_path / f"{stem}.mlpackage", precision=precision)
        found.append(read(path))
    foretold, made = (simulate(one, target, transfer=False) for one in (as_int8(found[0]), found[1]))
    assert foretold.resident_weight_bytes == pytest.approx(made.resident_weight_bytes, rel=0.15)
    integers = sum(tensor.size_bytes for tensor in found[1].tensors if tensor.dtype == "int8")
    assert made.resident_weight_bytes >= integers, "an engine in float16 makes no integer narrower"


def test_an_error_of_integers_goes_where_the_fix_is_followed(tmp_path: Path) -> None:
    model, x = pruned("residual")
    target, checks = load_target("pixel-4"), {}
    for scheme in ("int8", "int8-weights"):
        made = quantize(model, scheme, example_inputs=x)
        export(made, "onnx", x, path := tmp_path / f"{scheme}.onnx")
        item = Evidence(read(path), simulate(path, target), verify(path, made, x))
        (checks[scheme],) = gate([Budget("pixel-4", "onnx", "error", 1e-4, "")], [item]).checks
    assert checks["int8"].verdict == "fail"
    assert checks["int8"].fix.startswith("quantize --scheme int8-weights")
    assert checks["int8-weights"].verdict == "pass"


def test_a_limit_that_int8_does_not_reach_is_not_said_to_be_met(tmp_path: Path) -> None:
    model, x = pruned("words")
    export(model, "onnx", x, tmp_path / "m.onnx")
    target, contents = load_target("pixel-4"), read(tmp_path / "m.onnx")
    evidence = Evidence(contents, simulate(contents, target))
    budget = Budget("pixel-4", "onnx", "memory", memory(evidence.estimate) / 3, "")
    (check,) = remedied(gate([budget], [evidence]), [evidence], [target]).checks
    assert check.remedy is not None
    assert check.remedy.command != "quantize --scheme int8", "embeddings and activations stay floats"
    assert not check.remedy.meets


class Narrow(nn.Module):
    """A perceptron whose hidden channels can go, between norms whose channels cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.norm, self.up, self.down = (
            nn.Linear(20, 32),
            nn.LayerNorm(32),
            nn.Linear(32, 96),
            nn.Linear(96, 32),
        )
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.into(x)
        return self.head(x + self.down(torch.relu(self.up(self.norm(x)))))


class Flat(nn.Module):
    """Channels that are concatenated; flattened, or gated by a layer over all of them, they have to stay."""

    def __init__(self, pool: int = 16, *, gated: bool = False) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 24, 3, 1, 1), nn.Conv2d(16, 8, 1)
        self.pool = pool
        self.gate, self.head = nn.Linear(32, 32) if gated else None, nn.Linear(32 * (16 // pool) ** 2, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.cat([self.one(x), self.two(x)], 1)
        if self.gate is not None:
            x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        return self.head(torch.max_pool2d(x, self.pool).flatten(1))


STAY: dict[str, tuple[Callable[[], nn.Module], tuple[torch.Tensor, ...], set[str]]] = {
    "norms": (Narrow, (torch.randn(1, 7, 20, generator=torch.Generator().manual_seed(0)),), {"up"}),
    "concatenated": (Flat, MODELS["residual"][1], {"stem", "one", "two"}),
    "flattened": (lambda: Flat(4), MODELS["residual"][1], {"stem"}),
    "gated": (lambda: Flat(gated=True), MODELS["residual"][1], {"stem"}),
    "summed": (Residual, MODELS["residual"][1], {"stem", "point"}),
    "recurrent": (Steps, MODELS["steps"][1], set()),
}


@pytest.mark.parametrize("name", STAY)
@pytest.mark.parametrize("format", ["onnx", pytest.param("tflite", marks=pytest.mark.wide)])
def test_channels_that_can_go_are_told_from_the_file(format: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip({"tflite": "litert_torch"}.get(format, "onnx"))
    torch.manual_seed(0)
    build, x, go = STAY[name]
    model, path = Model(build().eval()), tmp_path / f"m{FORMATS[format].suffix}"
    export(CompressedModel(model.module, {}), format, x, path)
    loaded = load(path)
    assert loaded.contents is not None
    found = removable(loaded.contents, loaded.work)
    layers = {
        op.layer for op in loaded.work.ops if op.name in found.makers and op.op_class in ("conv", "conv1x1", "linear")
    }
    assert layers == go
    if not go:
        return
    less = found.without(loaded, 0.5).work
    shrunk, _ = shrink_as_asked(one_shot(model, Recipe(sparsity=0.5, pattern="channel"), x), x)
    export(shrunk, format, x, path)
    after = load(path).work
    assert less.macs == pytest.approx(after.macs, rel=0.15)
    assert less.resident_bytes == pytest.approx(after.resident_bytes, rel=0.15)
    assert less.peak_activation_bytes == pytest.approx(after.peak_activation_bytes, rel=0.15)
