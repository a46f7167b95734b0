"""indexing: diagonals, borders, ranks and places between pixels, said in slices, sums and gathers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from idp_deploy.rewriting.images import circular_pad
from idp_deploy.rewriting.lines import topk
from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten


def bordered(x: Tensor, pads: list[int], mode: str = "constant", value: float | None = None) -> Tensor | None:
    """Borders of which some are negative: cut, then pad; circular ones as `circular_pad` has them."""
    if mode != "constant" or min(pads, default=0) >= 0:
        return circular_pad(x, pads, mode, value)
    for i, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        start, end = max(0, -before), x.shape[-1 - i] - max(0, -after)
        x = x.narrow(-1 - i, start, end - start) if min(before, after) < 0 else x
    left = [max(0, pad) for pad in pads]
    return F.pad(x, left, value=value or 0.0) if any(left) else x


def diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor | None:
    """Every (columns + 1)-th entry of the rows set one after the other: (…, rows, columns) → (…, length)."""
    x = x.movedim((dim1, dim2), (-2, -1))
    rows, columns = x.shape[-2:]
    start, length = (
        (offset, min(rows, columns - offset)) if offset >= 0 else (-offset * columns, min(rows + offset, columns))
    )
    if length < 1:
        return None
    step = columns + 1
    return x.flatten(-2)[..., start : start + (length - 1) * step + 1 : step]


def trace(x: Tensor) -> Tensor | None:
    """The sum of the diagonal."""
    found = diagonal(x)
    return None if found is None else found.sum()


def einsum(equation: str, operands: list[Tensor], *, path: list[int] | None = None) -> Tensor | None:
    """Letters twice in one term, alone in one term, or left to "...": diagonals, sums and letters of their own.

    Letters that two terms share in another order get one order, since litert-torch sums those over the wrong entries.
    None where there is none of these: converters hold the others.
    """
    terms, result = _terms(equation.replace(" ", ""), [x.dim() for x in operands])
    lone = {c for c in "".join(terms) if "".join(terms).count(c) == 1 and c not in result}
    if "..." not in equation and len(terms) > 1 and not lone and all(len(set(t)) == len(t) for t in terms):
        return _in_one_order(terms, result, operands)
    plain = []
    for x, term in zip(operands, terms, strict=True):
        while len(set(term)) < len(term):
            letter = next(c for c in term if term.count(c) > 1)
            first = term.index(letter)
            second = term.index(letter, first + 1)
            found = diagonal(x, 0, first, second)
            if found is None:
                return None
            x, term = found, term[:first] + term[first + 1 : second] + term[second + 1 :] + letter
        axes = [i for i, c in enumerate(term) if c in lone or (len(terms) == 1 and c not in result)]
        plain.append((x.sum(axes) if axes else x, "".join(c for i, c in enumerate(term) if i not in axes)))
    if len(plain) == 1:
        x, term = plain[0]
        return x.permute([term.index(c) for c in result]) if len(result) > 1 else x
    return torch.einsum(f"{','.join(term for _, term in plain)}->{result}", *(x for x, _ in plain))


def _in_one_order(terms: list[str], result: str, operands: list[Tensor]) -> Tensor | None:
    """The same sum with the letters that two terms share in the first one's order; None where they are."""
    if len(terms) != 2:
        return None
    first, second = terms
    shared = iter([c for c in first if c in second])
    turned = "".join(next(shared) if c in first else c for c in second)
    if turned == second:
        return None
    permuted = operands[1].permute([second.index(c) for c in turned])
    return torch.einsum(f"{first},{turned}->{result}", operands[0], permuted)


def _terms(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the result, with letters for what "..." stands for.

    >>> _terms("...ij,jk", [4, 2])
    (['ABij', 'jk'], 'ABik')
    """
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    hidden = max(
        rank - len(term.replace("...", "")) if "..." in term else 0 for term, rank in zip(terms, ranks, strict=True)
    )
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation][:hidden]
    spread = []
    for term, rank in zip(terms, ranks, strict=True):
        own = rank - len(term.replace("...", ""))
        spread.append(term.replace("...", "".join(free[hidden - own :])))
    if not arrow:
        once = sorted(c for c in set(left) - set(".,") if left.count(c) == 1)
        result = ("..." if "..." in left else "") + "".join(once)
    return spread, result.replace("...", "".join(free))


def kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The last of the k smallest, and its place."""
    if not x.dim():
        return x, torch.zeros_like(x, dtype=torch.int64)
    found = (part.select(dim, k - 1) for part in topk(x, k, dim, largest=False))
    values, places = (part.unsqueeze(dim) if keepdim else part for part in found)
    return values, places


def median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower one of two in the middle, as torch takes it."""
    return kthvalue(x, (x.shape[dim] + 1) // 2 if x.dim() else 1, dim, keepdim)


def nanmedian(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower one in the middle of those that are numbers; of none, what is none."""
    if not x.dim():
        return x, torch.zeros_like(x, dtype=torch.int64)
    missing = torch.isnan(x)
    _, order = topk(torch.where(missing, torch.full_like(x, torch.inf), x), x.shape[dim], dim, largest=False)
    found = torch.logical_not(missing).to(torch.int32).sum(dim, keepdim=True, dtype=torch.int32).to(torch.int64)
    pairs = torch.arange(2, 2 * x.shape[dim] + 1, 2).reshape([-1 if a == dim % x.dim() else 1 for a in range(x.dim())])
    half = (pairs < found).to(torch.int32).sum(dim, keepdim=True, dtype=torch.int32).to(torch.int64)  # (found − 1) // 2
    place = order.gather(dim, half)
    value = x.gather(dim, place)
    return (value, place) if keepdim else (value.squeeze(dim), place.squeeze(dim))


def take_along_dim(x: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """gather, of shapes spread to each other but along `dim`."""
    if dim is None:
        return x.flatten().gather(0, indices.flatten())
    dim %= x.dim()
    ours, theirs = list(x.shape), list(indices.shape)
    others = [[1 if axis == dim else extent for axis, extent in enumerate(shape)] for shape in (ours, theirs)]
    shared = list(torch.broadcast_shapes(*others))
    x, indices = (
        each.expand([extents[axis] if axis == dim else extent for axis, extent in enumerate(shared)])
        for each, extents in ((x, ours), (indices, theirs))
    )
    return x.gather(dim, indices)


def affine_grid(theta: Tensor, size: list[int], align_corners: bool) -> Tensor | None:
    """Where the pixels of (N, C, H, W) lie within ±1, turned by theta (N, 2, 3) → (N, H, W, 2)."""
    if len(size) != 4:
        return None
    rows, columns = (_pixels(extent, align_corners) for extent in size[2:])
    base = torch.tensor([[x, y, 1.0] for y in rows for x in columns], dtype=theta.dtype)
    return (base @ theta.transpose(1, 2)).reshape(size[0], size[2], size[3], 2)


def _pixels(extent: int, align_corners: bool) -> list[float]:
    if align_corners:
        return [-1 + 2 * i / (extent - 1) if extent > 1 else 0.0 for i in range(extent)]
    return [(2 * i + 1) / extent - 1 for i in range(extent)]


def grid_sample(x: Tensor, grid: Tensor, mode: int, padding: int, align_corners: bool) -> Tensor | None:
    """Pixels at `grid` (N, …, axes), each of its neighbours, two or four an axis, by a gather; the nearest one by one.

    Images and volumes; the last number of a place is that along the last axis.
    """
    axes, extents = x.dim() - 2, x.shape[2:]
    if axes not in (2, 3) or (axes == 3 and mode == 2):
        return None
    batch, channels = x.shape[:2]

    def held(place: Tensor, extent: int) -> Tensor:
        """Outside of the picture: nothing, its border, or its reflection."""
        place = _reflected(place, extent, align_corners) if padding == 2 else place
        return place.clamp(0, extent - 1) if padding else place

    places = []
    for axis, extent in enumerate(extents):
        place = grid[..., axes - 1 - axis]
        place = (place + 1) * ((extent - 1) / 2) if align_corners else ((place + 1) * extent - 1) / 2
        places.append(place if mode == 2 else held(place, extent))
    pixels = x.flatten(2)

    def at(entry: Sequence[Tensor]) -> Tensor:
        flat: Any = 0
        inside: Any = 1
        for place, extent in zip(entry, extents, strict=True):
            near = place.clamp(0, extent - 1)
            inside = inside * (near == place).to(x.dtype)
            flat = flat * extent + near.long()
        found = pixels.gather(2, flat.reshape(batch, 1, -1).expand(-1, channels, -1))
        return found.reshape(batch, channels, *grid.shape[1:-1]) * inside.unsqueeze(1)

    if mode == 1:
        return at([place.round() for place in places])
    neighbours = []
    for place, extent in zip(places, extents, strict=True):
        first = place.floor()
        if mode == 2:
            neighbours.append([(held(near, extent), by) for near, by in _cubic(first, place - first)])
        else:
            neighbours.append([(first, first + 1 - place), (first + 1, place - first)])
    total: Any = 0
    for corner in itertools.product(*neighbours):
        share = math.prod((by for _, by in corner[1:]), start=corner[0][1])
        total = total + at([near for near, _ in corner]) * share.unsqueeze(1)
    assert isinstance(total, Tensor)
    return total


def _reflected(place: Tensor, extent: int, align_corners: bool) -> Tensor:
    """Folded at the middle of the outer pixels, or at their edges, as often as it takes."""
    low, span = (0.0, extent - 1.0) if align_corners else (-0.5, float(extent))
    if not span:
        return torch.zeros_like(place)
    place = (place - low).abs()
    folds = (place / span).floor()
    odd = folds - 2 * (folds / 2).floor()
    rest = place - folds * span
    return rest + odd * (span - 2 * rest) + low


def _cubic(first: Tensor, beyond: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The four neighbours on an axis, of which the second is `first`, and the weight of each by torch's cubic."""
    a = -0.75

    def near(d: Tensor) -> Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Tensor) -> Tensor:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    weights = (far(beyond + 1), near(beyond), near(1 - beyond), far(2 - beyond))
    return [(first + i, weight) for i, weight in zip((-1, 0, 1, 2), weights, strict=True)]


RANKS: dict[Any, Row] = {
    aten.kthvalue.default: kthvalue,
    aten.median.dim: median,
    aten.median.default: lambda x: median(x.flatten(), 0)[0],
    aten.nanmedian.dim: nanmedian,
    aten.nanmedian.default: lambda x: nanmedian(x.flatten(), 0)[0],
}
PLACES: dict[Any, Row] = {
    aten.affine_grid_generator.default: affine_grid,
    aten.grid_sampler.default: grid_sample,
    aten.take_along_dim.default: take_along_dim,
    aten.diagonal.default: diagonal,
    aten.einsum.default: einsum,
}
