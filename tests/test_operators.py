"""Constructions of other people's models, one row each, through every format: the file is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.capturing import capture
from idp_deploy.errors import ConversionError, ExitCode
from idp_deploy.exporting import export
from idp_deploy.exporting.randomness import refuse_random
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS
from idp_deploy.masks import prunable_weights
from idp_deploy.quantization import quantize
from idp_deploy.verification import verify
from tests.formats_here import HERE


class Call(nn.Module):
    """Any function of named layers and inputs as a module."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


class ClassToken(nn.Module):
    """A token as vision transformers begin with: so small that float16 rounds some of it to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 192) * 1e-6)
        self.patches, self.head = nn.Linear(8, 192), nn.Linear(192, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patches(x)], 1)
        return self.head(tokens + tokens.mean(1, keepdim=True))


def tower() -> nn.Module:
    """Two images through the same layers, biases and norms."""
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
    )
    return Call(
        lambda m, x, y: m.head(torch.cat([m.body(x).relu().mean((2, 3)), m.body(y).relu().mean((2, 3))], 1)),
        body=body, head=nn.Linear(16, 4),
    )  # fmt: skip


def whole_slice(m: Any, x: Tensor) -> Tensor:
    """As GhostNet cuts a concatenation to its channels where nothing is left to cut."""
    return m.last(torch.cat([m.first(x), m.cheap(x)], 1)[:, :8, :, :])


def ghost() -> nn.Module:
    layers = {"first": nn.Conv2d(3, 4, 1), "cheap": nn.Conv2d(3, 4, 3, padding=1), "last": nn.Conv2d(8, 3, 1)}
    return Call(whole_slice, **layers)


def resized(**how: Any) -> Callable[[], nn.Module]:
    function = lambda m, x: m.last(F.interpolate(m.first(x), **how))  # noqa: E731
    return lambda: Call(function, first=nn.Conv2d(3, 4, 3), last=nn.Conv2d(4, 3, 3))


ROW, SEQUENCE, IMAGE = (2, 8), (1, 8, 12), (1, 3, 12, 10)
CONSTRUCTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "PReLU behind a linear layer": (
        lambda: nn.Sequential(nn.Linear(8, 6), nn.PReLU(6), nn.Linear(6, 3)), (ROW,)),
    "PReLU behind a 1-D convolution": (
        lambda: nn.Sequential(nn.Conv1d(8, 6, 3), nn.PReLU(6), nn.Conv1d(6, 3, 1)), (SEQUENCE,)),
    "PReLU on images": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Conv2d(6, 3, 1)), (IMAGE,)),
    "padding as a word": (
        lambda: nn.Sequential(
            nn.Conv1d(8, 6, 5, padding="same"), nn.BatchNorm1d(6), nn.ReLU(),
            nn.Conv1d(6, 6, 4, padding="same", dilation=3, groups=3), nn.ReLU(),
            nn.Conv1d(6, 3, 3, 2, padding="valid", bias=False),
        ), (SEQUENCE,)),
    "a slice of the whole": (ghost, (IMAGE,)),
    "a tower on two inputs": (tower, (IMAGE, IMAGE)),
    "a token of 1e-6": (ClassToken, ((1, 5, 8),)),
    "a size of an odd factor": (resized(size=(17, 13), mode="bilinear"), (IMAGE,)),
    "a fractional factor, recomputed": (
        resized(scale_factor=1.7, mode="bilinear", recompute_scale_factor=True), (IMAGE,)),
    "a fractional factor, corners aligned": (resized(scale_factor=1.7, mode="bilinear", align_corners=True), (IMAGE,)),
}  # fmt: skip


def built(name: str) -> tuple[CompressedModel, tuple[Tensor, ...]]:
    """The construction with half of its weights pruned, vectors and norms that do something, and its inputs."""
    build, shapes = CONSTRUCTIONS[name]
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(0)
        module = build().eval()
        for key, tensor in module.state_dict().items():
            if tensor.dim() == 1:
                tensor.uniform_(0.3, 1.2) if "var" in key else tensor.normal_(0.3, 0.4)
        masks = {key: torch.rand(module.get_parameter(key).shape) > 0.5 for key in prunable_weights(module)}
        for key, mask in masks.items():
            module.get_parameter(key).mul_(mask)
        return CompressedModel(module, masks), tuple(torch.randn(shape) for shape in shapes)


@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_the_file_is_right(name: str, format: FormatName, tmp_path: Path) -> None:
    model, inputs = built(name)
    path = export(model, format, inputs, tmp_path / f"net{FORMATS[format].suffix}").path
    parity = verify(path, model, inputs)
    assert parity.passed, [p for p in (*parity.outputs, *parity.weights) if not p.passed]


def test_a_tower_folds_its_norms_once_and_quantizes() -> None:
    model, inputs = built("a tower on two inputs")
    captured = capture(model, inputs)
    assert captured.folded == (("body.0.weight", "body.1.weight"), ("body.3.weight", "body.4.weight"))
    with torch.no_grad():
        expected = model.module(*inputs)
        torch.testing.assert_close(captured.module(*inputs), expected, atol=1e-5, rtol=1e-4)
        quantized = quantize(model, "int8-weights", example_inputs=inputs)
        torch.testing.assert_close(quantized.module(*inputs), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize(
    ("place", "outputs"), {r"\[1\]": lambda y: (y, None), r"\['loss'\]": lambda y: {"y": y, "loss": None}}.items()
)
def test_an_output_that_is_none_is_refused_by_its_place(
    place: str, outputs: Callable[[Tensor], Any], format: FormatName, tmp_path: Path
) -> None:
    module = Call(lambda m, x: outputs(m.layer(x)), layer=nn.Linear(8, 4))
    with pytest.raises(ConversionError, match=f"output {place} is None, not a tensor") as caught:
        export(CompressedModel(module, {}), format, (torch.ones(ROW),), tmp_path / f"net{FORMATS[format].suffix}")
    assert caught.value.exit_code == ExitCode.FILE
    assert not list(tmp_path.iterdir())


def test_what_float16_rounds_to_zero_is_said(tmp_path: Path) -> None:
    model, inputs = built("a token of 1e-6")
    lost = int((model.module.cls_token.half() == 0).sum())
    assert lost > 0
    path = export(model, "coreml", inputs, tmp_path / "net.mlpackage").path
    said = f"{lost} entries of 'cls_token' are below the smallest number of float16, and no zeros to prove"
    assert said in verify(path, model, inputs).notes


RANDOM: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "'dropout' in the model": lambda m, x: F.dropout(m.layer(x), 0.5, training=True),
    "'dropout' in module 'layer'": lambda m, x: m.layer(x),
    "'randn_like'": lambda m, x: m.layer(x) + torch.randn_like(x),
}


@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("what", RANDOM)
def test_a_random_forward_is_refused_before_anything_is_compared(what: str, format: FormatName, tmp_path: Path) -> None:
    layer: nn.Module = Call(lambda m, x: F.dropout(x)) if "layer" in what else nn.Linear(8, 8)
    model = CompressedModel(Call(RANDOM[what], layer=layer).eval(), {})
    named = what.removesuffix(" in the model")
    with pytest.raises(ConversionError, match=f"two answers for one input: .* by {named}") as caught:
        export(model, format, (torch.ones(ROW),), tmp_path / f"net{FORMATS[format].suffix}")
    assert caught.value.exit_code == ExitCode.FILE
    assert not list(tmp_path.iterdir())


def test_a_random_model_is_not_compared_with_a_file_either(tmp_path: Path) -> None:
    layer = nn.Linear(8, 8)
    quiet, noisy = (Call(RANDOM["'dropout' in the model"] if on else lambda m, x: m.layer(x), layer=layer)
                    for on in (False, True))  # fmt: skip
    path = export(CompressedModel(quiet.eval(), {}), "onnx", (torch.ones(ROW),), tmp_path / "net.onnx").path
    with pytest.raises(ConversionError, match="two answers for one input: output 0 differs"):
        verify(path, CompressedModel(noisy.eval(), {}), (torch.ones(ROW),))


@pytest.mark.parametrize(
    "layer",
    [nn.Dropout(0.5), nn.RReLU(), nn.LSTM(8, 8, 2, dropout=0.3), nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3)],
)
def test_what_is_random_in_training_alone_is_no_refusal(layer: nn.Module) -> None:
    refuse_random(capture(CompressedModel(layer.eval(), {}), (torch.ones(1, 4, 8),)))
