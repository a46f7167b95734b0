"""transforms: Fourier's, forth and back, as products with sines and as convolutions of overlapping frames."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from idp_deploy.rewriting.pairs import Pair, Row, paired, times

aten = torch.ops.aten
_NORMS = {None: (0.0, 1.0), "backward": (0.0, 1.0), "ortho": (0.5, 0.5), "forward": (1.0, 0.0)}


def _turns(rows: int, columns: int, period: int) -> tuple[np.ndarray, np.ndarray]:
    """(cos, sin) of 2π·i·j / period, in float64."""
    angle = 2 * math.pi * (np.outer(np.arange(rows), np.arange(columns)) % period) / period
    return np.cos(angle), np.sin(angle)


def _constant(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _scale(count: int, norm: str | None, inverse: bool) -> float:
    """What the sums are multiplied by."""
    return float(count ** -_NORMS[norm][int(inverse)])


def _sized(x: Tensor, n: int | None) -> Tensor:
    """The last axis cut or filled up with zeros to n; in one piece, which torch wants of products with a free batch."""
    if n is not None and n != x.shape[-1]:
        x = x[..., :n] if n < x.shape[-1] else F.pad(x, (0, n - x.shape[-1]))
    return x.contiguous()


def fft(x: Any, n: int | None = None, dim: int = -1, norm: str | None = None, *, inverse: bool = False) -> Pair:
    """Σ x·e^(∓2πi·t·k/n) along `dim`, of real or complex numbers."""
    both = paired(x).each(lambda part: _sized(part.transpose(dim, -1), n))
    count = both.re.shape[-1]
    cos, sin = _turns(count, count, count)
    scale = _scale(count, norm, inverse)
    wave = Pair(_constant(cos * scale), _constant((1 if inverse else -1) * sin * scale))
    found = times(both if isinstance(x, Pair) else both.re, wave, F.linear)
    return found.each(lambda part: part.transpose(dim, -1))


def rfft(x: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Pair:
    """The first n/2 + 1 of them."""
    x = _sized(x.transpose(dim, -1), n)
    count = x.shape[-1]
    cos, sin = _turns(count // 2 + 1, count, count)
    scale = _scale(count, norm, inverse=False)
    found = times(x, Pair(_constant(cos * scale), _constant(-sin * scale)), F.linear)
    return found.each(lambda part: part.transpose(dim, -1))


def irfft(x: Any, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """n real numbers from n/2 + 1 complex ones, of which all but the first and the middle one count twice."""
    both = paired(x).each(lambda part: part.transpose(dim, -1))
    count = n if n is not None else 2 * (both.re.shape[-1] - 1)
    both = both.each(lambda part: _sized(part, count // 2 + 1))
    re, im = _backward(count, _scale(count, norm, inverse=True))
    return (F.linear(both.re, _constant(re.T)) + F.linear(both.im, _constant(im.T))).transpose(dim, -1)


def _backward(count: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """What the real and the imaginary parts are multiplied by: (n/2 + 1, n) each."""
    cos, sin = _turns(count // 2 + 1, count, count)
    often = np.full((count // 2 + 1, 1), 2.0)
    often[0] = 1
    if count % 2 == 0:
        often[-1] = 1
    return often * cos * scale, -often * sin * scale


def _axes(x: Any, sizes: Any, dims: Any) -> list[tuple[int | None, int]]:
    rank = (x.re if isinstance(x, Pair) else x).dim()
    dims = list(dims) if dims is not None else list(range(-len(sizes) if sizes else -rank, 0))
    return list(zip(sizes or [None] * len(dims), dims, strict=True))


def _many(first: Any, others: Any, x: Any, sizes: Any = None, dims: Any = None, norm: str | None = None) -> Any:
    """Axis after axis; `first` on the last one, before the others or, where it gives real numbers, behind them."""
    *rest, (size, last) = _axes(x, sizes, dims)
    if first is not irfft:
        x = first(x, size, last, norm)
    for n, dim in rest:
        x = others(x, n, dim, norm)
    return irfft(x, size, last, norm) if first is irfft else x


def stft(
    x: Tensor,
    n_fft: int,
    hop: int | None = None,
    length: int | None = None,
    window: Tensor | None = None,
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align: bool | None = None,
) -> Any:
    """Spectra of overlapping frames, as one convolution: (…, samples) → (…, frequencies, frames)."""
    count = n_fft // 2 + 1 if onesided is not False else n_fft
    cos, sin = _turns(count, n_fft, n_fft)
    scale = n_fft**-0.5 if normalized else 1.0
    waves = _constant(np.concatenate([cos, -sin]) * scale)
    if (shape := _window(window, n_fft, length)) is not None:
        waves = waves * shape
    samples = x.reshape(1 if x.dim() == 1 else x.shape[0], 1, x.shape[-1])
    found = F.conv1d(samples, waves.unsqueeze(1), stride=hop or n_fft // 4)
    parts = Pair(*(half if x.dim() > 1 else half.squeeze(0) for half in found.split(count, 1)))
    return parts if return_complex is not False else parts.real_pair


def _window(window: Tensor | None, n_fft: int, length: int | None) -> Tensor | None:
    """Centred in a frame."""
    short = n_fft - (length or n_fft)
    if window is None:
        if not short:
            return None
        window = torch.ones(n_fft - short)
    return F.pad(window, (short // 2, short - short // 2)) if short else window


def istft(
    x: Any,
    n_fft: int,
    hop: int | None = None,
    length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    samples: int | None = None,
    return_complex: bool = False,
) -> Tensor | None:
    """The frames back, added up where they overlap and divided by what the windows add up to."""
    if onesided is False or return_complex:
        return None
    batched = x if x.re.dim() == 3 else x.each(lambda part: part.unsqueeze(0))
    hop, frames = hop or n_fft // 4, batched.re.shape[-1]
    re, im = _backward(n_fft, n_fft**-0.5 if normalized else 1 / n_fft)
    shape = _window(window, n_fft, length)
    shape = torch.ones(n_fft) if shape is None else shape
    waves = (_constant(np.concatenate([re, im])) * shape).unsqueeze(1)
    total = F.conv_transpose1d(torch.cat([batched.re, batched.im], 1), waves, stride=hop)
    weight = F.conv_transpose1d(torch.ones(1, 1, frames), shape.square().reshape(1, 1, -1), stride=hop)
    start = n_fft // 2 if center else 0
    end = total.shape[-1] - start
    end = min(end if samples is None else start + samples, total.shape[-1])
    result = total[:, 0, start:end] / weight[:, 0, start:end]
    if samples is not None and samples > end - start:
        result = F.pad(result, (0, samples - (end - start)))
    return result if x.re.dim() == 3 else result.squeeze(0)


_INVERSE = partial(fft, inverse=True)
TRANSFORMS: dict[Any, Row] = {
    aten.fft_fft: fft,
    aten.fft_ifft: partial(fft, inverse=True),
    aten.fft_rfft: rfft,
    aten.fft_irfft: irfft,
    aten.fft_fft2: lambda x, s=None, dim=(-2, -1), norm=None: _many(fft, fft, x, s, dim, norm),
    aten.fft_fftn: partial(_many, fft, fft),
    aten.fft_rfft2: lambda x, s=None, dim=(-2, -1), norm=None: _many(rfft, fft, x, s, dim, norm),
    aten.fft_rfftn: partial(_many, rfft, fft),
    aten.stft: stft,
    aten.istft: istft,
    aten.fft_ifft2: lambda x, s=None, dim=(-2, -1), norm=None: _many(_INVERSE, _INVERSE, x, s, dim, norm),
    aten.fft_ifftn: partial(_many, _INVERSE, _INVERSE),
    aten.fft_irfft2: lambda x, s=None, dim=(-2, -1), norm=None: _many(irfft, _INVERSE, x, s, dim, norm),
    aten.fft_irfftn: partial(_many, irfft, _INVERSE),
}
