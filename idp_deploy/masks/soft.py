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
_ZERO, _ONE = torch.tensor(0.0), torch.tensor(1.0)
_MOST = torch.finfo(torch.float32).max  # an infinite q times 1 − m = 0 would be NaN
_NOTHING_ELSE = (None,) * 5  # the gradients of what is no weight


class _Soft(torch.autograd.Function):
    """ŵ = m(w)·w entry by entry. Only w is kept for backward: m is computed again there."""

    @staticmethod
    def forward(
        ctx: Any, w: Tensor, t2: Tensor, tau: Tensor, floor: Tensor, gain: float, full: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(w, t2, tau, floor, full)
        ctx.gain = gain
        exact = w.to(torch.promote_types(w.dtype, torch.float32))
        m = (exact * exact).sub_(t2).div_(tau).sigmoid_()
        return _ones(m, full).mul_(exact).to(w.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        w, t2, tau, floor, full = ctx.saved_tensors
        exact = w.to(torch.promote_types(w.dtype, torch.float32))
        square = exact * exact
        m = (square - t2).div_(tau).sigmoid_()
        slope = torch.addcmul(m, square.div_(tau), m * (1 - m), value=2)
        if ctx.gain < math.inf:
            slope.clamp_(max=ctx.gain)
        out = None if torch.is_grad_enabled() else slope  # of a gradient that is differentiated once more
        slope = _ones(torch.maximum(slope, floor, out=out), full)
        return slope.mul(grad).to(grad.dtype), None, None, None, None, None


class _SoftAtOnce(torch.autograd.Function):
    """The same for a weight of up to `CHUNK` entries on a CPU: few operations, whose number is what counts there.

    With s = 1/τ and b = −t²/τ, m = sigmoid(s·w² + b), which is kept for backward: with q = 2s·w·ŵ the derivative is
    m + q·(1 − m). It exceeds 1 exactly where q does. Between a floor of 1 and a bound of 1 it is 1, and nothing is
    computed or kept.
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor, s: float, b: Tensor, floor: float, gain: float, full: Tensor | None) -> Tensor:
        m = torch.addcmul(b, w, w, value=s).sigmoid_()
        masked = _ones(m, full) * w
        ctx.straight = floor >= gain
        if not ctx.straight:
            ctx.save_for_backward(w, masked, m, b, full)
        ctx.constants = s, floor, gain
        return masked

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.straight:
            return grad, *_NOTHING_ELSE
        w, masked, m, b, full = ctx.saved_tensors
        s, floor, gain = ctx.constants
        if torch.is_grad_enabled():
            return _slope(w, s, b, floor, gain, full) * grad, *_NOTHING_ELSE
        slope = torch.addcmul(_ZERO, w, masked, value=2 * s).clamp_(max=min(gain, _MOST))
        torch.lerp(m, _ONE, slope, out=slope)
        if floor > 0:
            slope.clamp_(min=floor)
        return slope.mul_(grad), *_NOTHING_ELSE


class _SoftByChunks(torch.autograd.Function):
    """The same for larger ones, in pieces: passes over all of w would wait for memory, as would one over m.

    Backward has ŵ, which the layer keeps anyway: m = ŵ/w, and the derivative is (ŵ + q·(w − ŵ))/w.
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor, s: float, b: Tensor, floor: float, gain: float, full: Tensor | None) -> Tensor:
        masked = torch.empty_like(w)
        for x, out in _chunks(w, masked):
            torch.addcmul(b, x, x, value=s, out=out).sigmoid_().mul_(x)
        ctx.empty_row = False
        if full is not None:
            best = w[tuple(full)]
            masked[tuple(full)] = best
            ctx.empty_row = not bool(best.all())  # ŵ/w is no number there
        ctx.straight = floor >= gain
        if not ctx.straight:
            ctx.save_for_backward(w, masked, b, full)
        ctx.constants = s, floor, gain
        return masked

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.straight:
            return grad, *_NOTHING_ELSE
        w, masked, b, full = ctx.saved_tensors
        s, floor, gain = ctx.constants
        if torch.is_grad_enabled():
            return _slope(w, s, b, floor, gain, full) * grad, *_NOTHING_ELSE
        at_zero = float(b.sigmoid())  # m where ŵ/w is 0/0, or w has been pruned since ŵ was computed
        result, most = torch.empty_like(w), min(gain, _MOST)
        if grad.stride() != w.stride():
            grad = torch.empty_like(w).copy_(grad)
        for x, y, g, out in _chunks(w, masked, grad, result):
            torch.addcmul(_ZERO, x, y, value=2 * s, out=out).clamp_(max=most)
            torch.lerp(y, x, out, out=out).div_(x).nan_to_num_(at_zero, at_zero, at_zero)
            if floor > at_zero:  # where the derivative is least
                out.clamp_(min=floor)
            out.mul_(g)
        if ctx.empty_row:
            result[tuple(full)] = grad[tuple(full)]
        return result, *_NOTHING_ELSE


def _slope(w: Tensor, s: float, b: Tensor, floor: float, gain: float, full: Tensor | None) -> Tensor:
    """The derivative where it is differentiated once more: a penalty on it, an inner step."""
    m = torch.sigmoid(s * w * w + b)
    pushed = (2 * s * w * w).clamp(max=_MOST) * m * (1 - m)
    return _ones((m + pushed).clamp(floor, gain), full)


def _ones(m: Tensor, full: Tensor | None) -> Tensor:
    """`m` with 1 where an entry is kept in full; in place where nobody differentiates it."""
    if full is None:
        return m
    put = torch.Tensor.index_put if torch.is_grad_enabled() else torch.Tensor.index_put_
    return put(m, tuple(full), m.new_ones(()))


def _chunks(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Pieces of tensors that lie in memory in the same order, whatever their axes are called."""
    order = _order(tensors[0])
    return zip(*(tensor.permute(order).view(-1).split(CHUNK) for tensor in tensors), strict=True)


def _order(w: Tensor) -> list[int]:
    """The axes from the outermost in memory to the innermost."""
    return sorted(range(w.dim()), key=w.stride, reverse=True)


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
    full: Tensor | None = None,
    numbers: tuple[float, Tensor, float] | None = None,
) -> Tensor:
    """ŵ = m(w)·w, differentiable in w with t and τ held constant; computed in float32 whatever autocast says.

    dŵ/dw = m + (2w²/τ)·m(1 − m). Its second term pushes weights away from the threshold and grows like t²/(2τ) there;
    `clip` bounds the derivative by 1, so that no weight learns faster than an unpruned one, and `floor` from below, so
    that a pruned weight goes on learning and may come back. Both leave ŵ as it is.

    Args:
        w: any shape; with `shared`, (..., n) whose rows have one mask each, scored by their root mean square.
        t, tau: scalars, or tensors that broadcast against w.
        elsewhere: added to s², what the rest of a unit in other weights contributes.
        full: entries that are kept as they are, m = 1 and the derivative too, by their coordinates: (dimensions, number
            of entries), not with `shared`.
        numbers: t, τ and the floor once more as `as_numbers` gives them, where they are at hand; not with `shared`.
        clip: bound the derivative (for `shared`, the Jacobian's largest eigenvalue) by 1.
        floor: the least derivative, 0 ≤ floor ≤ 1 (for `shared`, the Jacobian's least eigenvalue).
    """
    gain = 1.0 if clip else math.inf
    if is_transformed():
        return _in_plain_operators(w, t, tau, gain, torch.as_tensor(floor), shared, elsewhere, full)
    at_once = not shared and elsewhere is None and _on_cpu(w)
    if numbers is None and at_once and _single(t) and _single(tau):
        numbers = as_numbers(t, tau, floor)
    if numbers is not None and at_once:
        form = _SoftAtOnce if w.numel() <= CHUNK else _SoftByChunks
        masked: Tensor = form.apply(w, *numbers, gain, full)
        return masked
    t2, tau = _scalars(w, t, tau)
    if elsewhere is not None:
        t2 = t2 - elsewhere
    floor = torch.as_tensor(floor, dtype=t2.dtype, device=w.device)
    soft: Tensor = _SoftGroups.apply(w, t2, tau, floor, gain) if shared else _Soft.apply(w, t2, tau, floor, gain, full)
    return soft


def is_transformed() -> bool:
    """Whether `torch.func` (grad, vmap, jvp, …) computes at this moment, which cannot see into a `Function`."""
    return bool(torch._C._are_functorch_transforms_active())


def _in_plain_operators(
    w: Tensor,
    t: Tensor | float,
    tau: Tensor | float,
    gain: float,
    floor: Tensor,
    shared: bool,
    elsewhere: Tensor | None,
    full: Tensor | None,
) -> Tensor:
    """The same value and derivative by plain operators: ŵ + slope·(w − w), of which the second w alone is constant."""
    fixed = w.detach()
    exact = fixed.to(torch.promote_types(w.dtype, torch.float32))
    t2, tau = _scalars(exact, t, tau)
    if elsewhere is not None:
        t2 = t2 - elsewhere
    square = exact.square().mean(-1, keepdim=True) if shared else exact.square()
    m = torch.sigmoid((square - t2) / tau)
    moved = w - fixed
    boost = 2 * m * (1 - m) / tau
    if not shared:
        slope = torch.maximum((m + boost * square).clamp(max=min(gain, _MOST)), floor)
        m, slope = (x if full is None else x.index_put(tuple(full), x.new_ones(())) for x in (m, slope))
        return (m * exact).to(w.dtype) + slope.to(w.dtype) * moved
    least = torch.maximum(m, floor)
    if gain < math.inf:
        boost = torch.minimum(boost, (gain - least) / square.clamp_min(torch.finfo(square.dtype).tiny))
    along = (moved * exact).mean(-1, keepdim=True)
    return (m * exact).to(w.dtype) + (least * moved + boost * along * exact).to(w.dtype)


def as_numbers(t: Tensor | float, tau: Tensor | float, floor: Tensor | float) -> tuple[float, Tensor, float]:
    """What a mask on a CPU is computed from: 1/τ, −t²/τ and the floor."""
    tau = max(float(tau), SMALLEST_TEMPERATURE)
    return 1 / tau, torch.tensor(-(float(t) ** 2) / tau), float(floor)


def _single(x: Tensor | float) -> bool:
    return not isinstance(x, Tensor) or (x.dim() == 0 and x.is_cpu)


def _on_cpu(w: Tensor) -> bool:
    if torch.compiler.is_compiling() or not (w.is_cpu and w.dtype == torch.float32):
        return False  # compiled code fuses the passes itself
    return w.is_contiguous() or w.permute(_order(w)).is_contiguous()  # else: gaps, or entries that are one in memory


def _scalars(w: Tensor, t: Tensor | float, tau: Tensor | float) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(w.dtype, torch.float32)
    t = torch.as_tensor(t, dtype=dtype, device=w.device)
    tau = torch.as_tensor(tau, dtype=dtype, device=w.device)
    return t * t, tau.clamp_min(SMALLEST_TEMPERATURE)
