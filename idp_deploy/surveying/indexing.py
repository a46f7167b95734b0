"""What is left of a tensor's shape where parts of it are taken: `x[:, 0]`, `x[..., None]`, `x[:, :n]`."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from idp_deploy.surveying.effects import OddError, Shape
from idp_deploy.surveying.plain import between

Part = Any  # None for a new axis, `...` for all that are left, an int, a slice, or an ast node where nothing tells it


def taken(shape: Shape, parts: Sequence[Part]) -> Shape | None:
    """The shape of what is taken; None where that is not known.

    >>> taken((1, 8, 4), [slice(None), 0]), taken((1, 8), [..., None]), taken((1, 8, 4), [slice(None), slice(None, 3)])
    ((1, 4), (1, 8, 1), (1, 3, 4))

    Raises:
        OddError: it has not as many axes.
    """
    left, found = list(shape), list[int | None]()
    if sum(one is not None and one is not ... for one in parts) > len(shape):
        raise OddError
    for place, one in enumerate(parts):
        if one is None:
            found.append(1)
        elif one is ...:
            after = len(left) - sum(other is not None for other in parts[place + 1 :])
            found += left[: max(0, after)]
            left = left[max(0, after) :]
        elif isinstance(one, slice):
            found.append(_sliced(one, left.pop(0)))
        elif isinstance(one, int) and not isinstance(one, bool):
            extent = left.pop(0)
            if extent is not None and not -extent <= one < extent:
                raise OddError
        else:
            return None
    return (*found, *left)


def _sliced(part: slice, extent: int | None) -> int | None:
    ends = (part.start, part.stop, part.step)
    if extent is None or ends == (None, None, None):
        return extent
    inside = between(range(extent), ends)
    return len(inside) if isinstance(inside, range) else None


def is_whole(node: ast.expr) -> bool:
    """Whether a part takes nothing away."""
    return isinstance(node, ast.Slice) or (isinstance(node, ast.Constant) and node.value in (None, ...))
