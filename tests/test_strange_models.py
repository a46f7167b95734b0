"""What people publish and the zoo lacks: writes through views, mapped functions, experts, bags by offsets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.errors import UsageError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import left_dense, one_shot
from idp_deploy.quantization import quantize
from idp_deploy.verification import run_file, verify
from tests.formats_here import HERE

MATRICES = {"rules": {"matrix": "unstructured"}}


class Head(nn.Module):
    """A convolution, and whatever follows."""

    def __init__(self, rest: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)
        self.linear, self.rest = nn.Linear(6, 6), rest

    def forward(self, x: Tensor) -> Any:
        return self.rest(self, self.norm(self.conv(x)))


def through_a_view(net: Head, x: Tensor) -> Tensor:
    row = x.view(len(x), -1)
    row[:, ::2] = row[:, ::2].relu()
    row.mul_(1.5)
    return net.out(x)


def seen_by_a_view(net: Head, x: Tensor) -> tuple[Tensor, Tensor]:
    row = x.view(len(x), -1)
    x.relu_()
    x[:, 1] += 1
    return row, net.out(x)


def between_numbers(net: Head, x: Tensor) -> tuple[Tensor, ...]:
    x = net.out(x)
    return x.clamp(0, 1.5), torch.clamp(x, -0.5, 1), F.hardtanh(x, 0, 1.5), x.clamp(max=1)


def mapped(net: Head, x: Tensor) -> Tensor:
    return torch.vmap(lambda plane: net.linear(torch.tanh(plane)))(net.out(x)[0])


class Experts(nn.Module):
    """The two best of four perceptrons for every row, whose matrices lie in stacks."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.out = nn.Linear(8, 4), nn.Linear(8, 3)
        self.up, self.down = nn.Parameter(torch.randn(4, 8, 16) / 3), nn.Parameter(torch.randn(4, 16, 8) / 4)

    def forward(self, x: Tensor) -> Tensor:
        best, places = self.gate(x).softmax(-1).topk(2, -1)
        gates = torch.zeros(len(x), 4).scatter(1, places, best / best.sum(-1, keepdim=True))
        hidden = torch.einsum("nd,edh->neh", x, self.up).relu()
        return self.out((torch.einsum("neh,ehd->ned", hidden, self.down) * gates[..., None]).sum(1))


class Bags(nn.Module):
    """Three kinds of bags that begin where an input says."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(20, 6, mode=m, padding_idx=p) for m, p in (("mean", 3), ("sum", 2)))
        self.bags.append(nn.EmbeddingBag(20, 6, mode="max"))
        self.out = nn.Linear(18, 3)

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        return self.out(torch.cat([bag(ids, offsets) for bag in self.bags], -1))


class Modulated(nn.Module):
    """StyleGAN's convolution: its kernel times a style, brought back to unit energy."""

    def __init__(self) -> None:
        super().__init__()
        self.style, self.kernel, self.out = nn.Linear(4, 4), nn.Parameter(torch.randn(8, 4, 3, 3)), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.kernel[None] * (1 + self.style(x.mean((2, 3))))[:, None, :, None, None] / math.sqrt(36)
        kernels = kernels * (kernels.square().sum((2, 3, 4)) + 1e-8).rsqrt()[:, :, None, None, None]
        x = F.conv2d(x.flatten(0, 1)[None], kernels.flatten(0, 1), padding=1, groups=len(x))
        return self.out(F.leaky_relu(x, 0.2))


class Upwards(nn.Module):
    """A transposed convolution between two of 1."""

    def __init__(self, axes: int, *sizes: Any, outputs: int = 4, **more: Any) -> None:
        super().__init__()
        plain, turned = getattr(nn, f"Conv{axes}d"), getattr(nn, f"ConvTranspose{axes}d")
        self.net = nn.Sequential(
            plain(2, 6, 1), nn.ReLU(), turned(6, outputs, *sizes, **more), nn.ReLU(), plain(outputs, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Asking(nn.Module):
    """Adds its bias where that is trained, as SpeechBrain's complex and quaternion layers do."""

    def __init__(self, trained: bool) -> None:
        super().__init__()
        self.linear, self.bias = nn.Linear(6, 6), nn.Parameter(torch.ones(6), requires_grad=trained)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return x + self.bias if self.bias.requires_grad else x


class Trying(nn.Module):
    """Gives layers what only some of them take, as SpeechBrain's containers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.ReLU(), nn.Linear(6, 6)))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            try:
                x = layer(x, lengths=None)
            except TypeError:
                x = layer(x)
        return x


class Vectors(nn.Module):
    """Products of which one side is a vector, on either side and with any number of axes on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.wide, self.high = nn.Linear(6, 6), nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.linear(x)
        row, column = x[0, 0, 0], x.mean((0, 1, 3))
        sums = torch.mv(x[0, 0], self.wide), torch.dot(row, self.wide), row @ self.wide
        return x @ self.wide, self.high @ x, self.high @ x[0], x[0] @ row, column @ x[0, 0], *sums


IMAGE, PLANE, VOLUME = (1, 4, 6, 6), (1, 2, 6, 5), (1, 2, 3, 4, 5)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, Any]]] = {
    "written through a view": (lambda: Head(through_a_view), IMAGE, {}),
    "seen by a view": (lambda: Head(seen_by_a_view), IMAGE, {}),
    "between an integer and a float": (lambda: Head(between_numbers), IMAGE, {}),
    "mapped": (lambda: Head(mapped), IMAGE, {}),
    "experts": (Experts, (6, 8), MATRICES),
    "asking whether it is trained": (lambda: Asking(True), (2, 6), {}),
    "asking, and frozen": (lambda: Asking(False), (2, 6), {}),
    "vectors": (Vectors, (2, 3, 4, 6), {}),
    "trying": (Trying, (2, 6), {}),
    "modulated": (Modulated, (1, 4, 8, 8), MATRICES),
    "upwards in channels": (lambda: Upwards(2, 4, 2, 1, outputs=6, groups=6, bias=False), PLANE, {"depthwise": True}),
    "upwards in twice the channels": (lambda: Upwards(2, 3, 2, outputs=12, groups=6), PLANE, {"depthwise": True}),
    "upwards in groups": (lambda: Upwards(2, 3, 2, 1, output_padding=1, groups=2), PLANE, {}),
    "upwards with gaps": (lambda: Upwards(2, 3, 2, 0, dilation=(2, 3)), PLANE, {}),
    "upwards on a line": (lambda: Upwards(1, 4, 2, 1, outputs=9, groups=3), (1, 2, 6), {}),
    "a volume beyond": (lambda: Upwards(3, 3, 2, 1, output_padding=1), VOLUME, {}),
    "a volume of every size": (
        lambda: Upwards(3, (3, 2, 4), (1, 2, 3), (1, 0, 0), output_padding=(0, 1, 2)), VOLUME, {}),
    "a volume cut": (lambda: Upwards(3, 2, 1, 2), (1, 2, 5, 6, 7), {}),
    "a volume with gaps": (lambda: Upwards(3, 3, 2, dilation=2), VOLUME, {}),
    "a volume in groups": (lambda: Upwards(3, 3, 2, groups=2), VOLUME, {}),
}  # fmt: skip


def pruned(build: Callable[[], nn.Module], options: dict[str, Any]) -> CompressedModel:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return one_shot(Model(build().eval()), Recipe(0.5, options=options))


def checked(
    model: CompressedModel, format: FormatName, inputs: tuple[Tensor, ...], folder: Path, proved: bool = True
) -> Path:
    path = export(model, format, inputs, folder / f"m{FORMATS[format].suffix}").path
    parity = verify(path, model, inputs)
    assert parity.passed, [p for p in (*parity.outputs, *parity.weights) if not p.passed]
    assert bool(parity.weights) == proved
    assert all(proof.zeros == int((~model.masks[proof.parameter]).sum()) for proof in parity.weights)
    return path


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("name", MODELS)
def test_the_file_is_right(name: str, format: FormatName, tmp_path: Path) -> None:
    build, shape, options = MODELS[name]
    checked(pruned(build, options), format, (torch.randn(shape),), tmp_path)


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
def test_integers_inside_of_a_mapped_function(format: FormatName, tmp_path: Path) -> None:
    model = quantize(pruned(lambda: Head(mapped), {}), "int8", example_inputs=(torch.randn(IMAGE),))
    assert model.quantization is not None
    assert model.quantization.activation_db["linear.weight"] > 20
    checked(model, format, (torch.randn(IMAGE),), tmp_path)


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
def test_bags_begin_where_their_input_says(format: FormatName, tmp_path: Path) -> None:
    """Also where those of the example are all of one length."""
    model = pruned(Bags, {})
    path = checked(model, format, (torch.arange(12), torch.tensor([0, 4, 8])), tmp_path)
    ids, offsets = torch.arange(12) % 5, torch.tensor([0, 1, 1])
    wanted = model.module(ids, offsets).detach().numpy()
    for outputs in run_file(path, [(ids.numpy(), offsets.numpy())]).values():
        assert np.allclose(outputs[0][0], wanted, atol=5e-3)


class Normed(nn.Module):
    """Divided by what may be zero, each with the little that keeps it from that."""

    little: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3, bias=False)
        nn.init.uniform_(self.layer.weight, 0.1, 1.0)  # of one sign: what cancels is rounded otherwise by each runtime
        self.register_buffer("little", torch.tensor(1e-9))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.layer(x)
        size = y.abs().sum(-1, keepdim=True)
        return y / (size + 1e-8), y / (size + self.little), size - 1e-8, y / (1e-10 + size).sqrt(), size * 1.000004


@pytest.mark.parametrize("format", [format for format in HERE if format in ("onnx", "tflite")])
def test_what_keeps_from_dividing_by_zero_stays(format: FormatName, tmp_path: Path) -> None:
    model = CompressedModel(Normed().eval(), {})
    path = export(model, format, (torch.randn(2, 3),), tmp_path / f"m{FORMATS[format].suffix}").path
    for x in (torch.zeros(2, 3), torch.full((2, 3), 1e4)):
        wanted = [y.detach().numpy() for y in model.module(x)]
        for outputs in run_file(path, [(x.numpy(),)]).values():
            for found, value in zip(outputs[0], wanted, strict=True):
                assert np.allclose(found, value, rtol=1e-6, atol=1e-12)


@dataclass
class Found:
    boxes: Tensor
    count: int
    kind: str = "box"


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
def test_numbers_and_words_that_forward_returns_are_left_out_and_said(format: FormatName, tmp_path: Path) -> None:
    model = CompressedModel(Head(lambda net, x: Found(net.out(x), 3)).eval(), {})
    inputs = (torch.randn(IMAGE),)
    artifact = export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}")
    said = {"output .count is 3: the file has no such output", "output .kind is 'box': the file has no such output"}
    assert said <= set(artifact.notes)
    parity = verify(artifact.path, model, inputs)
    assert parity.passed
    assert {output.output for output in parity.outputs} == {"boxes"}


class Cache:
    """What a generating model hands to its next step; torch cannot take it apart."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = [keys]


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
def test_objects_that_forward_returns_beside_tensors_are_left_out_and_said(format: FormatName, tmp_path: Path) -> None:
    model = CompressedModel(Head(lambda net, x: {"cache": Cache(x), "logits": net.out(x)}).eval(), {})
    inputs = (torch.randn(IMAGE),)
    artifact = export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}")
    assert "output ['cache'] is 'Cache': the file has no such output" in artifact.notes
    parity = verify(artifact.path, model, inputs)
    assert parity.passed
    assert {output.output for output in parity.outputs} == {"logits"}
    assert isinstance(model.module(*inputs)["cache"], Cache)


class Padded(nn.Module):
    """An encoder of torch's, which in inference alone gives zeros for what is padded."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True), 1)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        return self.encoder(x, src_key_padding_mask=padded)


def test_an_encoder_that_packs_what_is_not_padded_is_compared_as_it_is_trained(tmp_path: Path) -> None:
    model, x = CompressedModel(Padded().eval(), {}), torch.randn(2, 5, 8)
    padded = torch.arange(5) >= torch.tensor([[5], [3]])
    parity = verify(export(model, "onnx", (x, padded), tmp_path / "m.onnx").path, model, (x, padded))
    assert parity.passed
    assert any("nn.TransformerEncoder gives zeros for what is padded" in note for note in parity.notes)
    assert torch.backends.mha.get_fastpath_enabled()


class Wide(nn.Module):
    """Weights in float64, and an image that lies channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 8).double()

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.conv(image).mean((2, 3)).double()).float()


@pytest.mark.parametrize("format", ["onnx", "coreml"])
def test_weights_in_float64_and_images_channels_last(format: FormatName, tmp_path: Path) -> None:
    image = torch.randn(2, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    checked(pruned(Wide, {}), format, (image,), tmp_path)


class Doubling(nn.Linear):
    """Writes into what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2.0)) + x


def test_what_forward_writes_into_its_input_is_written_into_a_copy(tmp_path: Path) -> None:
    model, x = CompressedModel(Doubling(6, 6).eval(), {}), torch.randn(2, 6)
    before = x.clone()
    path = export(model, "onnx", (x,), tmp_path / "m.onnx").path
    assert verify(path, model, (x,)).passed
    assert torch.equal(x, before)


class Capsules(nn.Module):
    """Nothing but matrices that forward itself multiplies by, some with an axis for the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.votes, self.places = nn.Parameter(torch.randn(1, 6, 3, 4, 5)), nn.Parameter(torch.randn(1, 6, 5))
        self.both = nn.Bilinear(4, 4, 2)


def test_a_model_of_matrices_alone_is_told_the_rule() -> None:
    with pytest.raises(UsageError, match=r"nothing to prune: 2 .*: votes, both.weight") as caught:
        one_shot(Model(Capsules()), Recipe(0.5))
    assert "--rule 'matrix=unstructured', or prune.rules.matrix = " in str(caught.value.way_out)
    assert set(one_shot(Model(Capsules()), Recipe(0.5, options=MATRICES)).masks) == {"votes", "both.weight"}
    assert set(left_dense(Experts(), Recipe(0.5))) == {"up", "down"}
