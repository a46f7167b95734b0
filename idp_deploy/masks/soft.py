"""The soft mask of IDP as one differentiable operation.

For a threshold t and a temperature τ (IDP, ICLR 2023 submission; PDP, arXiv 2305.11203):

    m = softmax([t², w²] / τ)[keep] = sigmoid((w² − t²) / τ)         ŵ = m · w
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

SMALLEST_TEMPERATURE = 1e-24  # keeps w²/τ finite in float32; below it the mask is hard anyway
CHUNK = 1 << 18  # entries: few enough for intermediate values to stay in a processor's cache


class _Soft(torch.autograd.Function):
    """ŵ = m(w)·w entry by entry. Only w is kept for backward: m is computed again there."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, t2: Tensor, tau: Tensor, floor: Tensor, gain: float) -> Tensor:
        ctx.save_for_backward(w, t2, tau, floor)
        ctx.gain = gain
        exact = w.to(torch.promote_types(w.dtype, torch.float32))
        m = (exact * exact).sub_(t2).div_(tau).sigmoid_()
        return m.mul_(exact).to(w.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        w, t2, tau, floor = ctx.saved_tensors
        exact = w.to(torch.promote_types(w.dtype, torch.float32))
        square = exact * exact
        m = (square - t2).div_(tau).sigmoid_()
        slope = torch.addcmul(m, square.div_(tau), m * (1 - m), value=2)
        if ctx.gain < math.inf:
            slope.clamp_(max=ctx.gain)
        out = None if torch.is_grad_enabled() else slope  # of a gradient that is differentiated once more
        return torch.maximum(slope, floor, out=out).mul(grad).to(grad.dtype), None, None, None, None


class _SoftByChunks(torch.autograd.Function):
    """The same for large weights on a CPU, where passes over all of w would wait for memory.

    With s = 1/τ and b = −t²/τ, m = sigmoid(s·w² + b). Backward has ŵ, which the layer keeps anyway, so that it needs no
    exponential: m = ŵ/w, and with q = 2s·w·ŵ the derivative is m + q·(1 − m), or (ŵ + q·(w − ŵ))/w. It exceeds 1
    exactly where q does. Between a floor of 1 and a bound of 1 it is 1, and nothing is computed or kept.
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor, s: float, b: float, floor: float, gain: float) -> Tensor:
        masked, border = torch.empty_like(w), torch.tensor(b)
        for x, out in _chunks(w, masked):
            torch.addcmul(border, x, x, value=s, out=out).sigmoid_().mul_(x)
        ctx.straight = floor >= gain
        if not ctx.straight:
            ctx.save_for_backward(w, masked)
        ctx.constants = s, b, floor, gain
        return masked

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        if ctx.straight:
            return grad, None, None, None, None
        w, masked = ctx.saved_tensors
        s, b, floor, gain = ctx.constants
        if torch.is_grad_enabled():  # the gradient is differentiated once more: a penalty on it, an inner step
            m = torch.sigmoid(s * w * w + b)
            pushed = (2 * s * w * w).clamp(max=torch.finfo(w.dtype).max) * m * (1 - m)
            return (m + pushed).clamp(floor, gain) * grad, None, None, None, None
        at_zero = 1 / (1 + math.exp(min(-b, 700.0)))  # m where ŵ/w is 0/0
        most = min(gain, torch.finfo(w.dtype).max)  # an infinite q times w − ŵ = 0 would be NaN
        result, nothing = torch.empty_like(w), torch.tensor(0.0)
        for x, y, g, out in _chunks(w, masked, grad.contiguous(), result):
            torch.addcmul(nothing, x, y, value=2 * s, out=out).clamp_(max=most)
            torch.lerp(y, x, out, out=out).div_(x).nan_to_num_(nan=at_zero)
            if floor > at_zero:  # where the derivative is least
                out.clamp_(min=floor)
            out.mul_(g)
        return result, None, None, None, None


def _chunks(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    if tensors[0].numel() <= CHUNK:
        return (tensors,)
    return zip(*(tensor.view(-1).split(CHUNK) for tensor in tensors), strict=True)


class _SoftGroups(torch.autograd.Function):
    """ŵ = m(s)·w where a row of w shares s² = mean of w² over it.

    ∂ŵᵢ/∂wⱼ = m·δᵢⱼ + wᵢwⱼ·(2/(nτ))·m(1 − m), whose largest eigenvalue, along w, is m + (2s²/τ)·m(1 − m).
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor, t2: Tensor, tau: Tensor, floor: Tensor, gain: float) -> Tensor:
        ctx.save_for_backward(w, t2, tau, floor)
        ctx.gain = gain
        exact = w.to(torch.promote_types(w.dtype, torch.float32))
        m = exact.square().mean(-1, keepdim=True).sub_(t2).div_(tau).sigmoid_()
        return (m * exact).to(w.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        w, t2, tau, floor = ctx.saved_tensors
        exact = w.to(torch.promote_types(w.dtype, torch.float32))
        square = exact.square().mean(-1, keepdim=True)
        m = (square - t2).div_(tau).sigmoid_()
        gain = ctx.gain
        boost = 2 * m * (1 - m) / tau
        m = m.clamp_min(floor)
        if gain < math.inf:
            tiny = torch.finfo(square.dtype).tiny
            boost = torch.minimum(boost, (gain - m) / square.clamp_min(tiny))
        along = (grad * exact).mean(-1, keepdim=True)
        return (m * grad + boost * along * exact).to(grad.dtype), None, None, None, None


def soft_mask(w: Tensor, t: Tensor | float, tau: Tensor | float) -> Tensor:
    """m = sigmoid((w² − t²)/τ), the weight that IDP's two-way softmax gives to keeping w.

    Args:
        w: any shape. t: threshold, same unit as w. tau: temperature, that unit squared.

    Returns:
        m in [0, 1], in float32 at least, shape of w.

    >>> soft_mask(torch.tensor([0.0, 0.1, 0.2]), t=0.1, tau=0.001)
    tensor([4.5398e-05, 5.0000e-01, 1.0000e+00])
    """
    exact = w.to(torch.promote_types(w.dtype, torch.float32))
    t2, tau = _scalars(exact, t, tau)
    return torch.sigmoid((exact.square() - t2) / tau)


def apply_soft_mask(
    w: Tensor,
    t: Tensor | float,
    tau: Tensor | float,
    *,
    clip: bool = False,
    floor: Tensor | float = 0.0,
    shared: bool = False,
    elsewhere: Tensor | None = None,
) -> Tensor:
    """ŵ = m(w)·w, differentiable in w with t and τ held constant; computed in float32 whatever autocast says.

    dŵ/dw = m + (2w²/τ)·m(1 − m). Its second term pushes weights away from the threshold and grows like t²/(2τ) there;
    `clip` bounds the derivative by 1, so that no weight learns faster than an unpruned one, and `floor` from below, so
    that a pruned weight goes on learning and may come back. Both leave ŵ as it is.

    Args:
        w: any shape; with `shared`, (..., n) whose rows have one mask each, scored by their root mean square.
        t, tau: scalars, or tensors that broadcast against w.
        elsewhere: added to s², what the rest of a unit in other weights contributes.
        clip: bound the derivative (for `shared`, the Jacobian's largest eigenvalue) by 1.
        floor: the least derivative, 0 ≤ floor ≤ 1 (for `shared`, the Jacobian's least eigenvalue).
    """
    gain = 1.0 if clip else math.inf
    if not shared and elsewhere is None and _by_chunks(w, t, tau):
        plain_tau = max(float(tau), SMALLEST_TEMPERATURE)
        masked: Tensor = _SoftByChunks.apply(w, 1 / plain_tau, -(float(t) ** 2) / plain_tau, float(floor), gain)
        return masked
    t2, tau = _scalars(w, t, tau)
    if elsewhere is not None:
        t2 = t2 - elsewhere
    floor = torch.as_tensor(floor, dtype=t2.dtype, device=w.device)
    return (_SoftGroups if shared else _Soft).apply(w, t2, tau, floor, gain)


def _by_chunks(w: Tensor, t: Tensor | float, tau: Tensor | float) -> bool:
    # compiled code fuses the passes itself
    if torch.compiler.is_compiling() or not (w.is_cpu and w.dtype == torch.float32 and w.is_contiguous()):
        return False
    return not any(isinstance(x, Tensor) and (x.dim() or not x.is_cpu) for x in (t, tau))


def _scalars(w: Tensor, t: Tensor | float, tau: Tensor | float) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(w.dtype, torch.float32)
    t = torch.as_tensor(t, dtype=dtype, device=w.device)
    tau = torch.as_tensor(tau, dtype=dtype, device=w.device)
    return t * t, tau.clamp_min(SMALLEST_TEMPERATURE)
