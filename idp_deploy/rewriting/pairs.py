"""pairs: complex numbers as their real and imaginary parts, and what the operators on them become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
Row = Callable[..., Any]


@dataclass(frozen=True)
class Pair:
    """A complex value."""

    re: Tensor
    im: Tensor

    @property
    def real_pair(self) -> Tensor:
        """(…) → (…, 2)"""
        return torch.stack([self.re, self.im], -1)

    def each(self, function: Callable[[Tensor], Tensor]) -> Pair:
        """What acts on both parts alike."""
        return Pair(function(self.re), function(self.im))


def paired(x: Any) -> Pair:
    if isinstance(x, Pair):
        return x
    if isinstance(x, complex):
        return Pair(torch.tensor(x.real), torch.tensor(x.imag))
    return Pair(
        x if isinstance(x, Tensor) else torch.tensor(float(x)),
        torch.zeros_like(x) if isinstance(x, Tensor) else torch.tensor(0.0),
    )


def times(x: Any, y: Any, product: Callable[[Any, Any], Tensor] = torch.mul) -> Any:
    """A product of any kind that is linear in both."""
    if isinstance(x, Pair) and isinstance(y, Pair):
        return Pair(product(x.re, y.re) - product(x.im, y.im), product(x.re, y.im) + product(x.im, y.re))
    if isinstance(x, complex) or isinstance(y, complex):
        return times(paired(x), paired(y), product)
    if isinstance(x, Pair):
        return x.each(lambda part: product(part, y))
    return y.each(lambda part: product(x, part)) if isinstance(y, Pair) else product(x, y)


def _plus(x: Any, y: Any, *, alpha: float = 1, sign: int = 1) -> Pair:
    first, second = paired(x), paired(y)
    factor = sign * alpha
    return Pair(first.re + factor * second.re, first.im + factor * second.im)


def _over(x: Any, y: Any) -> Any:
    if not isinstance(y, Pair):
        return x.each(lambda part: part / y)
    return times(x, _inverse(y))


def _size(x: Pair) -> Tensor:
    return (x.re.square() + x.im.square()).sqrt()


def _polar(size: Tensor, angle: Tensor) -> Pair:
    return Pair(size * torch.cos(angle), size * torch.sin(angle))


def _sums(equation: str, operands: list[Any], *, path: Any = None) -> Any:
    if len(operands) == 1:
        return operands[0].each(lambda part: torch.einsum(equation, part))
    if len(operands) != 2:
        return None
    return times(operands[0], operands[1], lambda a, b: torch.einsum(equation, a, b))


def _both(operator: Any) -> Callable[..., Pair]:
    """What moves entries, or adds them up."""
    return lambda x, *args, **kwargs: x.each(lambda part: operator(part, *args, **kwargs))


def _joined(operator: Any) -> Callable[..., Pair]:
    def row(parts: list[Any], *args: Any) -> Pair:
        every = [paired(part) for part in parts]
        return Pair(operator([p.re for p in every], *args), operator([p.im for p in every], *args))

    return row


def _layer(operator: Any, x: Any, weight: Any, bias: Any = None, *others: Any) -> Any:
    """A linear layer or a convolution: the product alone, and the bias along the channels."""
    product = times(x, weight, lambda a, b: operator(a, b, None, *others))
    if bias is None:
        return product
    axes = 0 if operator is torch.nn.functional.linear else paired(weight).re.dim() - 2
    return _plus(product, paired(bias).each(lambda part: part.reshape([-1] + [1] * axes)))


def _where(condition: Tensor, x: Any, y: Any) -> Pair:
    first, second = paired(x), paired(y)
    return Pair(torch.where(condition, first.re, second.re), torch.where(condition, first.im, second.im))


def _zeros(x: Any, *args: Any, **kwargs: Any) -> Pair:
    like = x.re if isinstance(x, Pair) else torch.zeros(x if isinstance(x, list) else args[0])
    return Pair(torch.zeros_like(like), torch.zeros_like(like))


def _cast(x: Any, *how: Any, **named: Any) -> Any:
    """To complex numbers of a width, or to real ones, which leaves the imaginary parts out."""
    kinds = [kind for kind in (*how, *named.values()) if isinstance(kind, torch.dtype)]
    if not kinds:
        return x
    return paired(x).each(lambda part: part.to(kinds[0].to_real())) if kinds[0].is_complex else x.re.to(kinds[0])


def _inverse(x: Pair) -> Pair:
    size = x.re.square() + x.im.square()
    return Pair(x.re / size, -x.im / size)


def _power(x: Pair, exponent: Any) -> Pair | None:
    return times(x, x) if exponent == 2 else None


ROWS: dict[Any, Row] = {
    aten.view_as_complex: lambda x: Pair(x[..., 0], x[..., 1]),
    aten.view_as_real: lambda x: x.real_pair,
    aten.complex: Pair,
    aten.polar: _polar,
    aten.real: lambda x: x.re,
    aten.imag: lambda x: x.im,
    aten.abs: _size,
    aten.angle: lambda x: torch.atan2(x.im, x.re),
    aten.conj: lambda x: Pair(x.re, -x.im),
    aten._conj: lambda x: Pair(x.re, -x.im),
    aten.conj_physical: lambda x: Pair(x.re, -x.im),
    aten.resolve_conj: lambda x: x,
    aten.to: _cast,
    aten._to_copy: _cast,
    aten.pow: _power,
    aten.square: lambda x: times(x, x),
    aten.mul: times,
    aten.add: _plus,
    aten.sub: partial(_plus, sign=-1),
    aten.div: _over,
    aten.reciprocal: _inverse,
    aten.log: lambda x: Pair(torch.log(_size(x)), torch.atan2(x.im, x.re)),
    aten.index: lambda x, indices: x.each(lambda part: aten.index.Tensor(part, indices)),
    aten.exp: lambda x: _polar(torch.exp(x.re), x.im),
    aten.matmul: partial(times, product=torch.matmul),
    aten.bmm: partial(times, product=torch.bmm),
    aten.einsum: _sums,
    aten.linear: partial(_layer, torch.nn.functional.linear),
    aten.conv1d: partial(_layer, torch.conv1d),
    aten.conv2d: partial(_layer, torch.conv2d),
    aten.where: _where,
    aten.cat: _joined(torch.cat),
    aten.stack: _joined(torch.stack),
    aten.zeros: _zeros,
    aten.zeros_like: _zeros,
    aten.new_zeros: _zeros,
}
_ALIKE = (
    aten.view, aten.reshape, aten.unsqueeze, aten.squeeze, aten.transpose, aten.permute,
    aten.expand, aten.clone, aten.contiguous, aten.flip, aten.roll, aten.index_select, aten.flatten, aten.unflatten,
    aten.neg, aten.sum, aten.mean, aten.repeat, aten.t, aten.mT, aten.movedim, aten.fft_fftshift, aten.fft_ifftshift,
    aten.detach, aten.alias, aten.constant_pad_nd, aten.numpy_T, aten.cumsum, aten.gather, aten.masked_fill,
    aten.tile,
)  # fmt: skip
ROWS |= {operator: _both(operator) for operator in _ALIKE}
