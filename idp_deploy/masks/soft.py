"""The soft mask of IDP as one differentiable operation.

For a threshold t and a temperature τ (IDP, ICLR 2023 submission; PDP, arXiv 2305.11203):

    m = softmax([t², w²] / τ)[keep] = sigmoid((w² − t²) / τ)         ŵ = m · w
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

SMALLEST_TEMPERATURE = 1e-24  # keeps w²/τ finite in float32; below it the mask is hard anyway


CHUNK = 1 << 17  # entries: few enough for their intermediate values to stay in a core's cache


class _Soft(torch.autograd.Function):
    """ŵ = m(w)·w entry by entry. Only w is kept for backward: m is computed again there."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, t2: Tensor, tau: Tensor, gain: float) -> Tensor:
        ctx.save_for_backward(w, t2, tau)
        ctx.gain = gain
        if _by_chunks(w, t2, tau):
            masked, scale = torch.empty_like(w), 1 / float(tau)
            border = torch.full((min(CHUNK, w.numel()),), -float(t2 / tau))
            for x, out in zip(w.view(-1).split(CHUNK), masked.view(-1).split(CHUNK), strict=True):
                torch.addcmul(border[: len(x)], x, x, value=scale, out=out).sigmoid_().mul_(x)
            return masked
        exact = w.to(torch.promote_types(w.dtype, torch.float32))
        m = (exact * exact).sub_(t2).div_(tau).sigmoid_()
        return m.mul_(exact).to(w.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        w, t2, tau = ctx.saved_tensors
        if _by_chunks(w, t2, tau) and grad.dtype == w.dtype:
            result, scale = torch.empty_like(w), 1 / float(tau)
            border = torch.full((min(CHUNK, w.numel()),), -float(t2 / tau))
            square, m = torch.empty_like(border), torch.empty_like(border)
            pieces = (w.view(-1), grad.contiguous().view(-1), result.view(-1))
            for x, g, out in zip(*(piece.split(CHUNK) for piece in pieces), strict=True):
                kept = torch.addcmul(border[: len(x)], x, x, value=scale, out=m[: len(x)]).sigmoid_()
                _slope(torch.mul(x, x, out=square[: len(x)]), scale, kept, ctx.gain, out).mul_(g)
            return result, None, None, None
        exact = w.to(torch.promote_types(w.dtype, torch.float32))
        square = exact * exact
        m = (square - t2).div_(tau).sigmoid_()
        return (
            _slope(square.div_(tau), 1.0, m, ctx.gain, torch.empty_like(m)).mul_(grad).to(grad.dtype),
            None,
            None,
            None,
        )


def _slope(square: Tensor, scale: float, m: Tensor, gain: float, out: Tensor) -> Tensor:
    """m + 2w²·scale·m·(1 − m), at most `gain`; overwrites `square`, which is w². A sigmoid's backward is m·(1 − m)."""
    torch.ops.aten.sigmoid_backward.grad_input(square, m, grad_input=square)
    torch.add(m, square, alpha=2 * scale, out=out)
    return out.clamp_(max=gain) if gain < math.inf else out


def _by_chunks(w: Tensor, t2: Tensor, tau: Tensor) -> bool:
    """On a CPU the passes over a large weight wait for memory, unless they are made piece by piece."""
    plain = w.device.type == "cpu" and w.dtype == torch.float32 and w.is_contiguous()
    return plain and t2.dim() == 0 and tau.dim() == 0 and not torch.compiler.is_compiling()


class _SoftGroups(torch.autograd.Function):
    """ŵ = m(s)·w where a row of w shares s² = mean of w² over it.

    ∂ŵᵢ/∂wⱼ = m·δᵢⱼ + wᵢwⱼ·(2/(nτ))·m(1 − m), whose largest eigenvalue, along w, is m + (2s²/τ)·m(1 − m).
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor, t2: Tensor, tau: Tensor, gain: float) -> Tensor:
        ctx.save_for_backward(w, t2, tau)
        ctx.gain = gain
        exact = w.to(torch.promote_types(w.dtype, torch.float32))
        m = exact.square().mean(-1, keepdim=True).sub_(t2).div_(tau).sigmoid_()
        return (m * exact).to(w.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        w, t2, tau = ctx.saved_tensors
        exact = w.to(torch.promote_types(w.dtype, torch.float32))
        square = exact.square().mean(-1, keepdim=True)
        m = (square - t2).div_(tau).sigmoid_()
        boost = 2 * m * (1 - m) / tau
        if ctx.gain < math.inf:
            tiny = torch.finfo(square.dtype).tiny
            boost = torch.minimum(boost, (ctx.gain - m) / square.clamp_min(tiny))
        along = (grad * exact).mean(-1, keepdim=True)
        return (m * grad + boost * along * exact).to(grad.dtype), None, None, None


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
    shared: bool = False,
    elsewhere: Tensor | None = None,
) -> Tensor:
    """ŵ = m(w)·w, differentiable in w with t and τ held constant; computed in float32 whatever autocast says.

    dŵ/dw = m + (2w²/τ)·m(1 − m). Its second term pushes weights away from the threshold and grows like t²/(2τ) there;
    `clip` bounds the derivative by 1, so that no weight learns faster than an unpruned one, and leaves ŵ as it is.

    Args:
        w: any shape; with `shared`, (..., n) whose rows have one mask each, scored by their root mean square.
        t, tau: scalars, or tensors that broadcast against w.
        elsewhere: added to s², what the rest of a unit in other weights contributes.
        clip: bound the derivative (for `shared`, the Jacobian's largest eigenvalue) by 1.
    """
    t2, tau = _scalars(w, t, tau)
    if elsewhere is not None:
        t2 = t2 - elsewhere
    return (_SoftGroups if shared else _Soft).apply(w, t2, tau, 1.0 if clip else math.inf)


def _scalars(w: Tensor, t: Tensor | float, tau: Tensor | float) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(w.dtype, torch.float32)
    t = torch.as_tensor(t, dtype=dtype, device=w.device)
    tau = torch.as_tensor(tau, dtype=dtype, device=w.device)
    return t * t, tau.clamp_min(SMALLEST_TEMPERATURE)
