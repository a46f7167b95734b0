"""What layers and functions of PyTorch do to shapes; None stands for an extent that is not known.

Conv2d(3, 8, 3, 2, 1)   (1, 3, 32, 32) → (1, 8, 16, 16)      flatten(1)   (1, 8, 16, 16) → (1, 2048)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

Shape = tuple[int | None, ...]


class OddError(Exception):
    """Shapes that do not go together.

    Args:
        extents: what there is and what there should be.
    """

    def __init__(self, extents: tuple[int, int] | None = None) -> None:
        self.extents = extents


# what leaves a shape as it is, as a layer, a function and a method
_SAME = """
    relu relu6 gelu silu selu elu celu mish tanh sigmoid hardsigmoid hardswish hardtanh leaky_relu prelu
    softplus softsign softmax log_softmax dropout dropout1d dropout2d dropout3d alphadropout identity
    instancenorm1d instancenorm2d groupnorm batchnorm1d batchnorm2d batchnorm3d layernorm rmsnorm
    localresponsenorm normalize contiguous float double half to cuda cpu clone detach exp log abs sqrt square
    clamp clip sin cos relu_ sigmoid_ tanh_ type type_as requires_grad_ neg pow rsqrt logsigmoid logsoftmax
    leakyrelu flip roll tril triu checkpoint dropout_ droppath stochasticdepth transformerencoder masked_fill
    transformerencoderlayer zeros_like ones_like layer_norm group_norm instance_norm batch_norm
"""
SAME = frozenset(_SAME.split())
BINARY = frozenset(("add", "sub", "mul", "div", "maximum", "minimum", "add_", "mul_"))
REDUCED = frozenset(("mean", "sum", "amax", "amin", "max", "min", "std", "var", "logsumexp", "norm", "prod"))


def spread(value: object, count: int) -> tuple[int | None, ...]:
    """An argument for each of `count` dimensions.

    >>> spread(3, 2), spread([1, 2], 2), spread(..., 2)
    ((3, 3), (1, 2), (None, None))
    """
    given = tuple(value) if isinstance(value, list | tuple) else (value,) * count
    known = tuple(one if isinstance(one, int) else None for one in given)
    return known * count if len(known) == 1 else known if len(known) == count else (None,) * count


def slid(
    shape: Shape, kernel: object, stride: object, padding: object, dilation: object = 1, *, up: bool = False
) -> Shape:
    """The dimensions after (batch, channels) as a window goes over them.

    >>> slid((1, 8, 9, 9), 3, 2, 1), slid((1, 8, 4, 4), 2, 2, 0, up=True)
    ((1, 8, 5, 5), (1, 8, 8, 8))
    """
    count = len(shape) - 2
    if padding == "same":
        return shape
    padding = 0 if padding == "valid" else padding
    found: list[int | None] = []
    sizes = (spread(value, count) for value in (kernel, stride, padding, dilation))
    for extent, k, s, p, d in zip(shape[2:], *sizes, strict=True):
        if extent is None or k is None or s is None or p is None or d is None or not s:
            found.append(None)
            continue
        reach = d * (k - 1) + 1
        after = (extent - 1) * s - 2 * p + reach if up else (extent + 2 * p - reach) // s + 1
        if after < 1:
            raise OddError
        found.append(after)
    return (*shape[:2], *found)


def flattened(shape: Shape, start: int = 0, end: int = -1) -> Shape:
    """
    >>> flattened((1, 8, 4, 4), 1), flattened((1, 8, 4, 4), 2)
    ((1, 128), (1, 8, 16))
    """
    start, end = start % len(shape), end % len(shape)
    return (*shape[:start], _product(shape[start : end + 1]), *shape[end + 1 :])


def viewed(shape: Shape, wanted: Sequence[object]) -> Shape | None:
    """A shape as it is asked for, with at most one -1 in it.

    >>> viewed((1, 8, 4, 4), [..., 128]), viewed((1, 6, 4), [-1, 8])
    ((1, 128), (3, 8))
    """
    asked = [one if isinstance(one, int) and not isinstance(one, bool) else None for one in wanted]
    total = _product(shape)
    if asked.count(-1) > 1:
        return None
    rest = [one for one in asked if one != -1]
    if len(asked) > 1 and asked[0] is None and -1 not in asked:  # what is not told first is the batch
        asked[0], rest = 1, [1, *rest[1:]]
    told = _product(rest)
    if -1 in asked:
        if total is not None and told is not None and (not told or total % told):
            raise OddError
        left = total // told if total is not None and told else None
        return tuple(left if one == -1 else one for one in asked)
    if total is not None and told is not None and total != told:
        raise OddError
    return tuple(asked)


def joined(shapes: Sequence[Shape], axis: int) -> Shape:
    """Of `cat`.

    >>> joined([(1, 8, 4), (1, 2, 4)], 1)
    (1, 10, 4)
    """
    first = shapes[0]
    if any(len(shape) != len(first) for shape in shapes):
        raise OddError
    axis %= len(first)
    found: list[int | None] = []
    for place, extents in enumerate(zip(*shapes, strict=True)):
        known = {extent for extent in extents if extent is not None}
        if place == axis:
            found.append(sum(known_ for known_ in extents if known_ is not None) if None not in extents else None)
        elif len(known) > 1:
            raise OddError
        else:
            found.append(next(iter(known), None))
    return tuple(found)


def broadcast(first: Shape, second: Shape) -> Shape:
    """
    >>> broadcast((1, 8, 4, 4), (8, 1, 1))
    (1, 8, 4, 4)
    """
    length = max(len(first), len(second))
    pairs = zip((1,) * (length - len(first)) + first, (1,) * (length - len(second)) + second, strict=True)
    found: list[int | None] = []
    for one, other in pairs:
        if one is None or other is None:
            known = other if one is None else one
            found.append(None if known == 1 else known)
        elif one != other and 1 not in (one, other):
            raise OddError((one, other))
        else:
            found.append(max(one, other))
    return tuple(found)


def without(shape: Shape, axes: object, keep: bool) -> Shape:
    """Of a mean over some axes.

    >>> without((1, 8, 4, 4), [2, 3], False), without((1, 8, 4), -1, True)
    ((1, 8), (1, 8, 1))
    """
    given = axes if isinstance(axes, list | tuple) else [axes]
    places = {axis % len(shape) for axis in given if isinstance(axis, int)}
    kept = [(1 if place in places else extent, place in places) for place, extent in enumerate(shape)]
    return tuple(extent for extent, gone in kept if keep or not gone)


def multiplied(first: Shape, second: Shape) -> Shape:
    """Of `a @ b`.

    >>> multiplied((1, 4, 8), (8, 3))
    (1, 4, 3)
    """
    if len(first) < 2 or len(second) < 2:
        return (None,) * max(len(first), len(second))
    if None not in (first[-1], second[-2]) and first[-1] != second[-2]:
        raise OddError
    return (*broadcast(first[:-2], second[:-2]), first[-2], second[-1])


def resized(shape: Shape, size: object, factor: object) -> Shape:
    """The dimensions after (batch, channels) as `interpolate` leaves them."""
    count = len(shape) - 2
    if size not in (None, ...):
        return (*shape[:2], *spread(size, count))
    factors = tuple(factor) if isinstance(factor, list | tuple) else (factor,) * count
    pairs = zip(shape[2:], factors, strict=False)
    known = [int(e * f) if e is not None and isinstance(f, int | float) else None for e, f in pairs]
    return (*shape[:2], *known)


def _product(extents: Sequence[int | None]) -> int | None:
    known = [extent for extent in extents if extent is not None]
    return prod(known) if len(known) == len(extents) else None
