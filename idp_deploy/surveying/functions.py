"""Functions of torch, methods of tensors and layers without weights: what they do to the shapes that they are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from idp_deploy.surveying import effects
from idp_deploy.surveying.effects import OddError, Shape
from idp_deploy.surveying.tensors import T

Values = Sequence[Any]
Words = Mapping[str, Any]


def is_function(name: str) -> bool:
    """Whether `applied` knows it."""
    low = name.lower()
    return low in effects.SAME or low in effects.BINARY or low in effects.REDUCED or _canonical(low) in _FUNCTIONS


def applied(name: str, values: Values, words: Words) -> Any:
    """What a function makes of its arguments, the first a tensor or a list of these; None where nothing tells.

    Raises:
        OddError: their shapes do not go together.
    """
    low = name.lower()
    first = values[0] if values else words.get("input", words.get("x"))
    values = values or ([first] if first is not None else [])
    if low in effects.SAME:
        return first if isinstance(first, T) else None
    if low in effects.BINARY or low in ("matmul", "bmm", "mm"):
        tensors = [one for one in values[:2] if isinstance(one, T)]
        if len(tensors) == 1 and low in effects.BINARY:
            return tensors[0]
        shapes = [one.shape for one in tensors if one.shape is not None]
        ranks = {"mm": {2}, "bmm": {3}}.get(low)
        if ranks and any(len(shape) not in ranks for shape in shapes):
            raise OddError
        join = effects.broadcast if low in effects.BINARY else effects.multiplied
        return T(join(*shapes)) if len(shapes) == 2 else T()
    if low in ("cat", "concat", "concatenate", "stack"):
        return _together(low, values, words)
    if not isinstance(first, T):
        return None
    if first.shape is None:
        return T(of=first.of if low in _STAYS else "")
    if low in effects.REDUCED:
        return _reduced(low, first, values, words)
    axes = int(low[-2]) + 2 if low[-2:] in ("1d", "2d", "3d") else len(first.shape)
    if len(first.shape) not in (axes, axes - 1):
        raise OddError
    if len(first.shape) != axes:  # without a batch
        whole = applied(name, [T((1, *first.shape)), *values[1:]], words)
        return T(whole.shape[1:]) if isinstance(whole, T) and whole.shape else whole
    function = _FUNCTIONS.get(_canonical(low))
    shape = function(first.shape, list(values[1:]), words) if function else None
    if isinstance(shape, list):
        return [T(one) for one in shape]
    return T(shape) if shape is not None else T() if function else None


_STAYS = {"flatten", "transpose", "permute", "unsqueeze", "squeeze", "view", "reshape", "t", "swapaxes", "pad"}


def _together(name: str, values: Values, words: Words) -> Any:
    given = values[0] if values and isinstance(values[0], list | tuple) else words.get("tensors")
    axis = values[1] if len(values) > 1 else words.get("dim", words.get("axis", 0))
    shapes = [one.shape for one in given or () if isinstance(one, T) and one.shape is not None]
    if not given or len(shapes) != len(given) or not isinstance(axis, int):
        return T()
    if name == "stack":
        at = axis % (len(shapes[0]) + 1)
        return T((*shapes[0][:at], len(shapes), *shapes[0][at:]))
    return T(effects.joined(shapes, axis))


def _reduced(name: str, first: T, values: Values, words: Words) -> Any:
    axes = values[1] if len(values) > 1 else words.get("dim", words.get("axis"))
    if name == "norm" and "dim" in words:
        axes = words["dim"]
    keep = words.get("keepdim", values[2] if len(values) > 2 else False) is True
    if isinstance(axes, T):
        return T()
    if axes is None or first.shape is None:
        return T(())
    reduced = T(effects.without(first.shape, axes, keep))
    return [reduced, reduced] if name in ("max", "min") else reduced


def _canonical(low: str) -> str:
    """`maxpool` of `MaxPool2d` and of `max_pool2d`."""
    return low.replace("_", "").rstrip("_") if low[-2:] not in ("1d", "2d", "3d") else low[:-2].replace("_", "")


def _word(values: Values, words: Words, place: int, name: str, usual: Any) -> Any:
    return values[place] if len(values) > place else words.get(name, usual)


def _pooled(shape: Shape, values: Values, words: Words) -> Shape | None:
    kernel = _word(values, words, 0, "kernel_size", ...)
    stride = _word(values, words, 1, "stride", None)
    if words.get("ceil_mode"):
        return (*shape[:2], *[None] * (len(shape) - 2))
    return effects.slid(shape, kernel, kernel if stride is None else stride, _word(values, words, 2, "padding", 0))


def _adapted(shape: Shape, values: Values, words: Words) -> Shape:
    return (*shape[:2], *effects.spread(_word(values, words, 0, "output_size", ...), len(shape) - 2))


def _transposed(shape: Shape, values: Values, words: Words) -> Shape | None:
    axes = [_word(values, words, place, f"dim{place}", ...) for place in (0, 1)]
    if not all(isinstance(axis, int) and -len(shape) <= axis < len(shape) for axis in axes):
        return None
    order = list(shape)
    order[axes[0]], order[axes[1]] = order[axes[1]], order[axes[0]]
    return tuple(order)


def _permuted(shape: Shape, values: Values, words: Words) -> Shape | None:
    axes = values[0] if values and isinstance(values[0], list | tuple) else values or words.get("dims", ())
    fine = sorted(axis % len(shape) for axis in axes if isinstance(axis, int)) == list(range(len(shape)))
    return tuple(shape[axis] for axis in axes) if fine else None


def _viewed(shape: Shape, values: Values, words: Words) -> Shape | None:
    return effects.viewed(shape, values[0] if values and isinstance(values[0], list | tuple) else values)


def _flattened(shape: Shape, values: Values, words: Words) -> Shape:
    return effects.flattened(shape, _word(values, words, 0, "start_dim", 0), _word(values, words, 1, "end_dim", -1))


def _squeezed(shape: Shape, values: Values, words: Words) -> Shape | None:
    axis = _word(values, words, 0, "dim", None)
    if axis is None:
        return None if None in shape else tuple(extent for extent in shape if extent != 1)
    at = axis % len(shape) if isinstance(axis, int) else -1
    return tuple(e for place, e in enumerate(shape) if place != at or e != 1) if at >= 0 else None


def _unsqueezed(shape: Shape, values: Values, words: Words) -> Shape | None:
    axis = _word(values, words, 0, "dim", None)
    at = axis % (len(shape) + 1) if isinstance(axis, int) else -1
    return (*shape[:at], 1, *shape[at:]) if at >= 0 else None


def _shuffled(shape: Shape, values: Values, words: Words) -> Shape | None:
    factor = _word(values, words, 0, "upscale_factor", ...)
    if not isinstance(factor, int) or len(shape) != 4 or shape[1] is None:
        return None
    height, width = (extent * factor if extent is not None else None for extent in shape[2:])
    return (shape[0], shape[1] // factor**2, height, width)


def _padded(shape: Shape, values: Values, words: Words) -> Shape | None:
    given = _word(values, words, 0, "pad", words.get("padding"))
    given = [given] * (2 * len(shape) - 4) if isinstance(given, int) else given
    if not isinstance(given, list | tuple) or not all(isinstance(one, int) for one in given) or len(given) % 2:
        return (*shape[:1], *[None] * (len(shape) - 1))
    extents = list(shape)
    for place in range(len(given) // 2):
        extent = extents[-1 - place] if place < len(extents) else None
        extents[-1 - place] = extent + given[2 * place] + given[2 * place + 1] if extent is not None else None
    return tuple(extents)


def _resized(shape: Shape, values: Values, words: Words) -> Shape:
    size, factor = _word(values, words, 0, "size", None), _word(values, words, 1, "scale_factor", None)
    return effects.resized(shape, size, factor)


def _chunked(shape: Shape, values: Values, words: Words) -> list[Shape] | None:
    count, axis = _word(values, words, 0, "chunks", ...), _word(values, words, 1, "dim", 0)
    if not isinstance(count, int) or not isinstance(axis, int) or not 0 < count <= 64:
        return None
    at, extent = axis % len(shape), shape[axis]
    return [(*shape[:at], extent // count if extent is not None else None, *shape[at + 1 :])] * count


def _expanded(shape: Shape, values: Values, words: Words) -> Shape | None:
    asked = values[0] if values and isinstance(values[0], list | tuple) else values
    if len(asked) < len(shape):
        return None
    pairs = zip((None,) * (len(asked) - len(shape)) + shape, asked, strict=True)
    return tuple(extent if one == -1 else one if isinstance(one, int) else None for extent, one in pairs)


def _unbound(shape: Shape, values: Values, words: Words) -> list[Shape] | None:
    axis = _word(values, words, 0, "dim", 0)
    count = shape[axis] if isinstance(axis, int) and -len(shape) <= axis < len(shape) else None
    if count is None or not 0 < count <= 64:
        return None
    return [shape[: axis % len(shape)] + shape[axis % len(shape) + 1 :]] * count


_Effect = Callable[[Shape, Values, Words], Any]
_FUNCTIONS: Mapping[str, _Effect] = {
    **dict.fromkeys(("maxpool", "avgpool"), _pooled),
    **dict.fromkeys(("adaptiveavgpool", "adaptivemaxpool"), _adapted),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transposed),
    **dict.fromkeys(("view", "reshape"), _viewed),
    **dict.fromkeys(("upsample", "interpolate"), _resized),
    **dict.fromkeys(("pad", "zeropad", "reflectionpad", "replicationpad", "constantpad"), _padded),
    "permute": _permuted,
    "expand": _expanded,
    "unbind": _unbound,
    "flatten": _flattened,
    "squeeze": _squeezed,
    "unsqueeze": _unsqueezed,
    "pixelshuffle": _shuffled,
    "chunk": _chunked,
    "t": lambda shape, values, words: shape[::-1],
    "matmul": lambda shape, values, words: None,
    "bmm": lambda shape, values, words: None,
    "mm": lambda shape, values, words: None,
    "cat": lambda shape, values, words: None,
    "concat": lambda shape, values, words: None,
    "stack": lambda shape, values, words: None,
}
