"""Complex numbers and Fourier transforms, said in real numbers: the same numbers, in every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.capturing import capture
from idp_deploy.errors import ConversionError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS
from idp_deploy.quantization import quantize
from idp_deploy.rewriting.complexes import without_complex
from idp_deploy.verification import verify
from tests.formats_here import HERE

WINDOW = torch.hann_window(16)


class Net(nn.Module):
    """A function of 2 × 4 × 24 numbers behind a layer, and of a filter."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.function, self.layer = function, nn.Linear(24, 24)
        self.filter = nn.Parameter(torch.randn(4, 13, dtype=torch.cfloat))
        self.register_buffer("window", WINDOW)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, self.layer(x))


def neural_operator(net: Any, x: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(x)
    kept = torch.zeros_like(spectrum)
    kept[..., :5] = torch.einsum("bix,ox->box", spectrum[..., :5], net.filter[:, :5])
    return torch.fft.irfft(kept, n=x.shape[-1])


def rotated(net: Any, x: Tensor) -> Tensor:
    angles = torch.polar(torch.ones(4, 12), torch.outer(torch.arange(4.0), torch.arange(12.0) / 12))
    turned = torch.view_as_complex(x.reshape(2, 4, 12, 2)) * angles
    return torch.view_as_real(turned).flatten(-2)


def denoised(net: Any, x: Tensor) -> Tensor:
    sound = x.flatten(1)
    spectrum = torch.stft(sound, 16, 4, window=net.window, return_complex=True)
    return torch.istft(spectrum * spectrum.abs().sigmoid(), 16, 4, window=net.window, length=sound.shape[-1])


def algebra(net: Any, x: Tensor) -> tuple[Tensor, ...]:
    a, b = torch.complex(x[..., :12], x[..., 12:]), net.filter[:, :12]
    c = (a * b - 2.0 * b.conj() + 1j) / (b + 3) + a.mean(-1, keepdim=True) / 2
    d = torch.cat([c, -a], 1).transpose(1, 2)[:, 1:, ::2]
    return d.real, d.imag, torch.exp(d * 0.1).abs(), (d.transpose(1, 2) @ d).angle()


def layers_of_complex(net: Any, x: Tensor) -> tuple[Tensor, ...]:
    z = torch.complex(x[..., :12], x[..., 12:])
    kernel = net.filter[:, :12].reshape(4, 4, 3)
    chosen = torch.where(net.window[:12] > 0.5, z, 2 * z).masked_fill(net.window[4:] > 0.9, 0)
    return (
        F.linear(z, net.filter[:, :12], net.filter[:, 12]).abs(),
        F.conv1d(z, kernel, net.filter[:, 0], padding=1).real,
        torch.view_as_real(chosen.cumsum(-1)),
        z[0].T.imag,
    )


def spectra(net: Any, x: Tensor) -> tuple[Tensor, ...]:
    f = torch.fft
    plane = x.reshape(2, 4, 4, 6)
    return (
        f.fft(f.fft(x, dim=-1), dim=-2).real,
        f.irfft2(f.rfft2(plane, norm="ortho"), s=(4, 6), norm="ortho"),
        f.ifft(f.fft(x, n=20, norm="forward"), norm="forward").real,
        f.irfft(f.rfft(x, n=30, dim=1, norm="ortho"), n=7, dim=1),
        f.fftn(plane, dim=(1, 3)).imag,
        f.ifft2(f.fftshift(f.fft2(plane), dim=(-2, -1))).abs(),
    )


def rotated_by_places(net: Any, x: Tensor) -> tuple[Tensor, ...]:
    """By a table of turns of which each place takes its row, as decoders with a cache do."""
    turns = torch.polar(torch.ones(9, 6), torch.outer(torch.arange(9.0), 10 ** -torch.arange(0, 1.2, 0.2)))
    places = (x[..., 0] > 0).long().cumsum(-1)
    z = torch.view_as_complex(x[..., :12].reshape(2, 4, 6, 2)) * turns[places]
    return torch.view_as_real(z), turns[:4].tile(2, 1).imag, (z + 2).log().imag, torch.reciprocal(z + 3).real


NETS: dict[str, Callable[[Any, Tensor], Any]] = {
    "a neural operator": neural_operator,
    "rotary embeddings": rotated,
    "rotary embeddings by places": rotated_by_places,
    "a denoiser": denoised,
    "algebra": algebra,
    "layers of complex numbers": layers_of_complex,
    "spectra": spectra,
    "features of sound": lambda net, x: torch.stft(
        F.pad(x.flatten(1), (8, 8)), 32, 8, 16, net.window, center=False, normalized=True, return_complex=True
    ).abs(),
    "casts and powers": lambda net, x: torch.view_as_real(
        torch.fft.fft2(x.to(torch.complex64)).square().to(torch.complex64) + torch.fft.fft(x) ** 2
    ),
    "a circular product": lambda net, x: torch.fft.irfft(torch.fft.rfft(x) * net.filter, n=24),
}


def built(name: str) -> tuple[CompressedModel, tuple[Tensor]]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        net = Net(NETS[name]).eval()
        mask = torch.rand(24, 24) > 0.5
        net.layer.weight.data.mul_(mask)
        return CompressedModel(net, {"layer.weight": mask}), (torch.randn(2, 4, 24),)


@pytest.mark.wide
@pytest.mark.parametrize("name", NETS)
def test_the_numbers_stay_the_same(name: str) -> None:
    model, inputs = built(name)
    captured = capture(model, inputs)
    without_complex(captured.module)
    for node in captured.module.graph.nodes:
        assert not any(isinstance(v, Tensor) and v.is_complex() for v in (node.meta.get("val"),)), node
    with torch.no_grad():
        torch.testing.assert_close(captured.module(*inputs), model.module(*inputs), atol=2e-5, rtol=1e-4)


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("name", ["a neural operator", "a denoiser", "rotary embeddings", "layers of complex numbers"])
def test_the_file_is_right(name: str, format: FormatName, tmp_path: Path) -> None:
    model, inputs = built(name)
    parity = verify(export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path, model, inputs)
    assert parity.passed, (parity.outputs, parity.notes)


@pytest.mark.parametrize(
    ("function", "said"),
    {
        "an operator": (
            lambda net, x: torch.linalg.svdvals(torch.fft.rfft(x)),
            "svd.* on complex numbers in",
        ),
        "an output": (lambda net, x: torch.fft.rfft(x), "the model returns complex numbers.*view_as_real"),
    }.values(),
)
def test_what_cannot_be_said_is_named(function: Callable[[Any, Tensor], Any], said: str) -> None:
    captured = capture(CompressedModel(Net(function).eval(), {}), (torch.randn(2, 4, 24),))
    with pytest.raises(ConversionError, match=said):
        without_complex(captured.module)


class Split(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.view_as_real(x)[..., 0])  # type: ignore[no-any-return]


def test_complex_inputs_calibrate_and_are_named_by_the_file() -> None:
    example = (torch.randn(2, 4, dtype=torch.cfloat),)
    quantized = quantize(CompressedModel(Split().eval(), {}), "int8", example_inputs=example)
    with pytest.raises(ConversionError, match=r"the model takes complex numbers.*view_as_real"):
        without_complex(capture(quantized, example).module)
