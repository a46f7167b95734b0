"""Weights that no training should leave and some files hold: NaN, infinities, nothing, one entry, zeros, extremes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from idp_deploy.errors import ConversionError, IdpDeployError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import SCHEMES, quantize
from idp_deploy.verification import verify
from tests.formats_here import HERE

IMAGE, VECTOR = (
    (torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0)),),
    (torch.linspace(-1, 1, 8)[None],),
)
Edit = Callable[[nn.Sequential], object]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3),
    ).eval()  # fmt: skip


def edited(change: Edit) -> nn.Sequential:
    module = net()
    with torch.no_grad():
        change(module)
    return module


class Joined(nn.Module):
    """A layer without outputs or without inputs beside two usual ones."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.a, self.nothing, self.b = nn.Linear(8, 16), nn.Linear(inputs, outputs), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        extra = self.nothing(h if self.nothing.in_features else x[:, :0])
        return self.b(torch.cat([h, extra], 1) if self.nothing.in_features else h + extra)


class One(nn.Module):
    """Weights of a single entry."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.b = nn.Linear(1, 1), nn.Conv1d(1, 1, 1), nn.Linear(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.c(self.a(x[:, :1]).unsqueeze(1)).squeeze(1))


def _set(name: str, value: float) -> Edit:
    return lambda module: module.state_dict()[name].reshape(-1)[3].fill_(value)  # reshape: a view of the tensor


UNSOUND = {
    "NaN mean": (_set("1.running_mean", float("nan")), r"buffer '1\.running_mean'.* the first nan at \[3\]"),
    "infinite variance": (_set("1.running_var", float("inf")), r"buffer '1\.running_var'.* the first inf at \[3\]"),
    "negative variance": (_set("1.running_var", -1.0), r"'1\.running_var' has variances below zero.* -1 at \[3\]"),
    "NaN factor": (_set("1.weight", float("nan")), r"weight '1\.weight'.* the first nan at \[3\]"),
    "NaN weight": (_set("7.weight", float("nan")), r"weight '7\.weight'.* the first nan at \[0, 3\]"),
    "infinite bias": (_set("7.bias", float("-inf")), r"weight '7\.bias'.* the first -inf at \[3\]"),
}  # fmt: skip
STAGES: dict[str, Callable[[nn.Module, Path], object]] = {
    "prune": lambda module, path: one_shot(Model(module), Recipe(sparsity=0.5)),
    **{
        f"quantize {scheme}": lambda module, path, scheme=scheme: quantize(  # type: ignore[misc]
            CompressedModel(module, {}), scheme, example_inputs=IMAGE
        )
        for scheme in SCHEMES
    },
    **{
        f"export {name}": lambda module, path, name=name: export(  # type: ignore[misc]
            CompressedModel(module, {}), name, IMAGE, path / f"net{FORMATS[name].suffix}"
        )
        for name in HERE
    },
}


@pytest.mark.wide
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", UNSOUND)
def test_numbers_that_are_none_are_named_by_every_stage(kind: str, stage: str, tmp_path: Path) -> None:
    change, message = UNSOUND[kind]
    with pytest.raises(ConversionError, match=message):
        STAGES[stage](edited(change), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_mask_of_infinities_is_no_fault(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)
            self.register_buffer("mask", torch.full((8,), float("-inf")).index_fill(0, torch.arange(6), 0.0))

        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(self.a(x) + self.mask, 1)

    model = one_shot(Model(Masked().eval()), Recipe(sparsity=0.5))
    export(model, "onnx", VECTOR, tmp_path / "net.onnx")
    assert verify(tmp_path / "net.onnx", model, VECTOR).passed


def test_a_model_that_overflows_by_itself_is_told_by_layer(tmp_path: Path) -> None:
    module = edited(lambda m: (m[0].weight.mul_(1e38), m[3].weight.mul_(1e38)))
    model = one_shot(Model(module), Recipe(sparsity=0.5))
    with pytest.raises(ConversionError, match=r"no int8 range .*: layer '\d' gives values that are not"):
        quantize(model, "int8", example_inputs=IMAGE)
    export(model, "onnx", IMAGE, tmp_path / "net.onnx")
    parity = verify(tmp_path / "net.onnx", model, IMAGE)
    assert not parity.passed
    assert any(note.startswith("the model itself: layer '") for note in parity.notes)


SOUND: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "no outputs": (Joined(0, 16), VECTOR),
    "one entry": (One(), VECTOR),
    "a layer of zeros": (edited(lambda m: m[3].weight.zero_()), IMAGE),
    "variance of zero": (edited(_set("1.running_var", 0.0)), IMAGE),
    "beyond float16": (edited(_set("3.weight", 1e6)), IMAGE),
    "below float16": (edited(lambda m: m[3].weight.mul_(1e-8)), IMAGE),
    "denormal": (edited(lambda m: m[3].weight.mul_(1e-39)), IMAGE),
    "denormal bias": (edited(lambda m: m[3].bias.fill_(1e-40)), IMAGE),
    "large bias": (edited(_set("3.bias", 1e6)), IMAGE),
    "large bias at the end": (edited(_set("7.bias", -1e6)), IMAGE),
    "large bias of a dead channel": (edited(lambda m: (m[3].weight[3].zero_(), m[3].bias[3].fill_(1e6))), IMAGE),
}


def test_a_layer_without_inputs_goes_all_the_way_but_for_int8(tmp_path: Path) -> None:
    model = one_shot(Model(Joined(16, 0).eval()), Recipe(sparsity=0.5))
    export(model, "onnx", VECTOR, tmp_path / "net.onnx")
    assert verify(tmp_path / "net.onnx", model, VECTOR).passed
    with pytest.raises(ConversionError, match=r"weight 'nothing\.weight' of shape \(16, 0\) has no inputs"):
        export(quantize(model, "int8", example_inputs=VECTOR), "onnx", VECTOR, tmp_path / "int8.onnx")


class Shared(nn.Module):
    """A convolution that two read, one of them beside a large bias."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.n, self.d = nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(x)
        return self.d(torch.relu(self.n(y))) + self.d(y)


def test_a_layer_whose_bias_int32_does_not_count_keeps_float_activations_and_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Shared().eval()
    module.c.bias.data[1] = module.d.bias.data[0] = -1e6
    model = quantize(one_shot(Model(module), Recipe(sparsity=0.5)), "int8", example_inputs=IMAGE)
    artifact = export(model, "onnx", IMAGE, tmp_path / "net.onnx")
    reason = "activations stay float in layers whose bias is more steps than int32 counts"
    assert f"{reason}: d.weight" in artifact.notes
    stored = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "net.onnx").graph.initializer
    }
    assert stored["d.bias"].dtype == np.float32
    assert verify(tmp_path / "net.onnx", model, IMAGE).passed


@pytest.mark.wide
@pytest.mark.parametrize("scheme", ["", *SCHEMES])
@pytest.mark.parametrize("kind", SOUND)
def test_odd_but_sound_weights_go_all_the_way_in_onnx(kind: str, scheme: str, tmp_path: Path) -> None:
    _whole_way(kind, scheme, "onnx", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("format", [name for name in HERE if name != "onnx"])
@pytest.mark.parametrize("scheme", ["", *SCHEMES])
@pytest.mark.parametrize("kind", SOUND)
def test_odd_but_sound_weights_go_all_the_way_or_are_refused(
    kind: str, scheme: str, format: FormatName, tmp_path: Path
) -> None:
    refused: IdpDeployError | None = None
    try:
        _whole_way(kind, scheme, format, tmp_path)
    except IdpDeployError as error:
        refused = error
    if refused is not None:  # one message with a way out, and nothing written
        assert refused.way_out
        assert not list(tmp_path.iterdir())


def _whole_way(kind: str, scheme: str, format: FormatName, folder: Path) -> None:
    module, inputs = SOUND[kind]
    model = one_shot(Model(module.eval()), Recipe(sparsity=0.5))
    model = quantize(model, scheme, example_inputs=inputs) if scheme else model
    path = folder / f"net{FORMATS[format].suffix}"
    export(model, format, inputs, path)
    parity = verify(path, model, inputs)
    assert parity.passed, [*parity.outputs, *parity.weights]
