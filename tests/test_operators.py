"""Constructions of other people's models, one row each, through every format: the file is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
from idp_deploy.shipping import export_and_verify
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


def channel_norm(m: Any, x: Tensor) -> Tensor:
    """A layer norm over channels written out, its factor right before a convolution."""
    x = m.first(x / 0.25 - 1.5)
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    return m.last(x * m.norm.weight[:, None, None] + m.norm.bias[:, None, None])


def three_factors(m: Any, x: Tensor) -> Tensor:
    tokens = m.first(x)
    return m.last(torch.einsum("bti,bsi,bsj->btj", tokens, tokens.tanh(), tokens))


def buckets(m: Any, x: Tensor) -> Tensor:
    """Places in a table of distances, computed in place, as T5 has them; and a sum begun with zeros."""
    places = torch.arange(8)
    distances = (places[None] - places[:, None]) * 1
    found = torch.zeros_like(distances)
    found += (distances > 0).long() * 4
    found += torch.where(distances.abs() < 2, distances.abs(), 2)
    total = torch.zeros_like(m.first(x))
    total += m.first(x).tanh()
    return m.last(total + m.table(found).mean(1))


def choices(m: Any, x: Tensor) -> Tensor:
    """Conditions joined by &, | and ~, classes as rows of ones and zeros."""
    y = m.first(x)
    chosen = ((y > -0.5) & (y < 1)) | ~(y > -1) ^ (y > 2)
    return m.last(torch.where(chosen, y, -y) + F.one_hot(y.argmax(1), 6))


def bags(m: Any, x: Tensor) -> Tensor:
    ids = (x.abs() * 4).long().clamp(max=9)
    return m.last(torch.cat([m.mean(ids), m.sum(ids, per_sample_weights=x), m.largest(ids)], 1))


def fused_attention(m: Any, x: Tensor) -> Tensor:
    """Three layers of their own in front of an attention that scales what they give."""
    heads = [layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (m.query, m.key, m.value)]
    return m.last(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


def turned() -> nn.Module:
    """GPT-2's linear layers, whose weight is (in, out)."""
    layer = pytest.importorskip("transformers.pytorch_utils").Conv1D
    return nn.Sequential(layer(16, 12), nn.GELU(approximate="tanh"), layer(3, 16))


@dataclass
class Found:
    """What a detector of somebody's returns."""

    boxes: Tensor
    scores: dict[str, Tensor]


def found(m: Any, x: Tensor) -> Found:
    features = m.first(x).relu()
    return Found(m.last(features), {"best": features.amax(1)})


def differences(m: Any, x: Tensor) -> Tensor:
    """Steps between neighbours; numbers where a condition holds, on either side or on both."""
    y = m.first(x)
    steps = torch.where(y.diff(dim=-1, prepend=y[:, :1] - 1) > 0, 1.0, -0.5)
    return m.last(torch.where(y > 1, 0.5, torch.where(y > -1, y, -2.0)) + steps)


def attended(m: Any, x: Tensor, memory: Tensor) -> Tensor:
    """Query of one sequence, keys and values of another, the future masked by −∞, factors behind."""
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
    x = m.norm(x + m.own(x, x, x, attn_mask=mask, need_weights=False)[0])
    return m.last((x + m.cross(x, memory, memory)[0]) * 0.5) * m.norm.weight[:3]


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
    "factors of a norm before a linear layer": (
        lambda: nn.Sequential(nn.Linear(12, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3)),
        (SEQUENCE,)),
    "factors before convolutions": (
        lambda: Call(channel_norm, first=nn.Conv2d(3, 8, 3), norm=nn.LayerNorm(8), last=nn.Conv2d(8, 4, 1)), (IMAGE,)),
    "attention to another sequence": (
        lambda: Call(attended, own=nn.MultiheadAttention(12, 2, batch_first=True), norm=nn.LayerNorm(12),
                     cross=nn.MultiheadAttention(12, 3, batch_first=True), last=nn.Linear(12, 3)),
        (SEQUENCE, (1, 5, 12))),
    "attention of three layers": (
        lambda: Call(fused_attention, **{k: nn.Linear(12, 8) for k in ("query", "key", "value")}, last=nn.Linear(8, 3)),
        (SEQUENCE,)),
    "linear layers turned around": (turned, (SEQUENCE,)),
    "a dataclass of its own": (lambda: Call(found, first=nn.Linear(8, 6), last=nn.Linear(6, 3)), (ROW,)),
    "a sum of three factors": (lambda: Call(three_factors, first=nn.Linear(12, 6), last=nn.Linear(6, 3)), (SEQUENCE,)),
    "differences": (lambda: Call(differences, first=nn.Linear(8, 6), last=nn.Linear(6, 3)), (ROW,)),
    "buckets": (
        lambda: Call(buckets, first=nn.Linear(12, 6), table=nn.Embedding(8, 6), last=nn.Linear(6, 3)), (SEQUENCE,)),
    "choices": (lambda: Call(choices, first=nn.Linear(8, 6), last=nn.Linear(6, 3)), (ROW,)),
    "bags of words": (
        lambda: Call(
            bags, mean=nn.EmbeddingBag(10, 4, mode="mean"), sum=nn.EmbeddingBag(10, 4, mode="sum", padding_idx=0),
            largest=nn.EmbeddingBag(10, 4, mode="max"), last=nn.Linear(12, 3),
        ), (ROW,)),
    "channels repeated": (
        lambda: Call(lambda m, x: m.last(m.first(x) + x[:, :1].repeat(1, 4, 1, 1)),
                     first=nn.Conv2d(3, 4, 1), last=nn.Conv2d(4, 3, 3)), (IMAGE,)),
    "padding from the other end": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, padding=(1, 2), padding_mode="circular"), nn.ReLU(),
                              nn.Conv2d(6, 3, 3)), (IMAGE,)),
    "pools of odd sizes": (
        lambda: Call(lambda m, x: m.last(torch.cat([m.largest(m.first(x)), m.mean(m.first(x))], 1)),
                     first=nn.Conv2d(3, 4, 3), largest=nn.AdaptiveMaxPool2d((3, 5)), mean=nn.AdaptiveAvgPool2d((3, 5)),
                     last=nn.Conv2d(8, 3, 1)), (IMAGE,)),
    "a volume": (
        lambda: nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2),
                              nn.Conv3d(4, 4, 1), nn.AdaptiveAvgPool3d((1, 2, 2)), nn.Flatten(), nn.Linear(16, 3)),
        ((1, 2, 4, 6, 7),)),
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


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_the_file_is_right(name: str, format: FormatName, tmp_path: Path) -> None:
    model, inputs = built(name)
    path = export(model, format, inputs, tmp_path / f"net{FORMATS[format].suffix}").path
    parity = verify(path, model, inputs)
    assert parity.passed, [p for p in (*parity.outputs, *parity.weights) if not p.passed]


@pytest.mark.wide
@pytest.mark.parametrize(
    "name", ["factors of a norm before a linear layer", "factors before convolutions", "attention to another sequence"]
)
def test_integer_weights_are_rounded_once(name: str, tmp_path: Path) -> None:
    """Not again with the factors in front of their layer."""
    model, inputs = built(name)
    model = quantize(model, "int8-weights", example_inputs=inputs)
    path = export(model, "tflite", inputs, tmp_path / "net.tflite").path
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


class Scores(NamedTuple):
    y: list[Tensor]
    loss: Tensor | None


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize(
    ("place", "outputs"),
    {
        "[1]": lambda y: (y, None),
        "['loss']": lambda y: {"y": [y, y + 1], "loss": None},
        ".loss": lambda y: Scores([y, y + 1], None),
    }.items(),
)
def test_an_output_that_is_none_is_left_out_and_said(
    place: str, outputs: Callable[[Tensor], Any], format: FormatName, tmp_path: Path
) -> None:
    model = CompressedModel(Call(lambda m, x: outputs(m.layer(x)), layer=nn.Linear(8, 4)), {})
    inputs = (torch.ones(ROW),)
    artifact = export(model, format, inputs, tmp_path / f"net{FORMATS[format].suffix}")
    assert f"output {place} is None: the file has no such output" in artifact.notes
    parity = verify(artifact.path, model, inputs)
    assert parity.passed
    assert len({o.output for o in parity.outputs}) == (2 if "loss" in place else 1)


@pytest.mark.parametrize("format", HERE)
def test_a_model_that_returns_none_alone_is_refused(format: FormatName, tmp_path: Path) -> None:
    model = CompressedModel(Call(lambda m, x: [None]), {})
    with pytest.raises(ConversionError, match=r"output \[0\] is None, not a tensor") as caught:
        export(model, format, (torch.ones(ROW),), tmp_path / f"net{FORMATS[format].suffix}")
    assert caught.value.exit_code == ExitCode.FILE
    assert not list(tmp_path.iterdir())


def test_what_float16_rounds_to_zero_is_said(tmp_path: Path) -> None:
    model, inputs = built("a token of 1e-6")
    lost = int((model.module.cls_token.half() == 0).sum())
    assert lost > 0
    path = export(model, "coreml", inputs, tmp_path / "net.mlpackage").path
    said = f"{lost} entries of 'cls_token' are below the smallest number of float16, and no zeros to prove"
    assert said in verify(path, model, inputs).notes


def test_what_float16_overflows_on_is_computed_in_float32(tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    model = CompressedModel(
        Call(lambda m, x: m.last(m.first(x * 1e6)), first=nn.Linear(8, 6), last=nn.Linear(6, 3)), {}
    )
    inputs = (torch.randn(ROW),)
    (artifact,), parities = export_and_verify(model, inputs, tmp_path, "net", ["coreml"])
    assert parities[artifact.path].passed
    assert "computed in float32: output 'output' is off by nan otherwise" in artifact.notes
    _, parities = export_and_verify(
        model, inputs, tmp_path, "net", ["coreml"], options={"coreml": {"precision": "float16"}}
    )
    assert not any(parity.passed for parity in parities.values())


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
