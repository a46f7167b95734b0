"""How many zeros each weight gets. It decides more about accuracy than the pruning method does.

Budgets are integers that add up to round(sparsity · prunable) exactly (to the nearest whole unit where a pattern prunes
in larger units), and leave every output row at least one unit wherever the target allows that.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from idp_deploy.errors import UsageError
from idp_deploy.masks import NM, Channel, Pattern
from idp_deploy.pruning.layers import Layer
from idp_deploy.pruning.rounding import whole_units

_BLOCK = 1 << 12  # entries whose sums are added up anew where one is asked for
LAMP_FROM = 0.9  # zeros, from which LAMP keeps more accuracy than ERK


def usual_allocation(mode: str, sparsity: float, patterns: Sequence[Pattern]) -> str:
    """What "auto" stands for: the paper's in paper mode, else what kept most accuracy (docs/pruning.md).

    ERK below 90 % zeros, where both do equally well and ERK leaves fewer multiplications; LAMP from there. Whole
    channels are taken evenly.

    >>> [usual_allocation("auto", sparsity, [Pattern()]) for sparsity in (0.8, 0.9)]
    ['erk', 'lamp']
    """
    if all(isinstance(pattern, Channel) for pattern in patterns):
        return "uniform"
    return "global" if mode == "paper" else "lamp" if sparsity >= LAMP_FROM else "erk"


def allocate(layers: Sequence[Layer], sparsity: float, how: str = "erk", multiple: int | None = None) -> dict[str, int]:
    """Zeros by weight name.

    Args:
        sparsity: wanted share of zeros over all `layers`, 0 ≤ sparsity < 1. N:M layers take what their pattern means,
            those with a share of their own take that, and the others what is then missing.
        how: a row of ALLOCATIONS.
        multiple: what channels that stay are a multiple of; None: of what runtimes compute together (`widths`).

    Raises:
        UsageError: unknown allocation, a sparsity that would leave some weight without a single entry, or one below
            what N:M layers bring by themselves.

    >>> import torch
    >>> layers = [Layer("wide", torch.randn(64, 64)), Layer("thin", torch.randn(8, 64))]
    >>> budgets = allocate(layers, 0.9, "erk")
    >>> budgets, sum(budgets.values()) == round(0.9 * (64 * 64 + 8 * 64))
    ({'wide': 3801, 'thin': 346}, True)
    """
    if how not in ALLOCATIONS:
        raise UsageError(f"unknown allocation '{how}'", way_out=f"known are {', '.join(ALLOCATIONS)}")
    fixed = {layer.name: _own_zeros(layer) for layer in layers if _has_own(layer)}
    free = [layer for layer in layers if layer.name not in fixed]
    caps = {layer.name: layer.most_zeros for layer in free}
    entries = sum(layer.entries for layer in layers)
    # where every layer is N:M, the pruner holds the target against the pattern
    total = round(sparsity * entries) - sum(fixed.values()) if free else 0
    if total < 0:
        least = math.ceil(1000 * sum(fixed.values()) / entries) / 1000
        raise UsageError(
            f"the N:M weights and those with shares of their own make {least:.1%} of the prunable weights zero, more "
            f"than {sparsity:.1%}",
            way_out=f"raise the target to {least} or more, or leave some of them out with skip",
        )
    if total > sum(caps.values()):
        caps = {layer.name: layer.entries - layer.unit for layer in free}
    coarsest = max((layer.unit for layer in free), default=1)
    if total > sum(caps.values()) + coarsest:
        most = math.floor(1000 * (sum(caps.values()) + sum(fixed.values())) / entries) / 1000
        raise UsageError(
            f"a sparsity of {sparsity} leaves fewer entries than the {len(layers)} prunable weights need to survive"
            + (", with N:M weights among them" if fixed else ""),
            way_out=f"lower the target to {most} or less",
        )
    budgets = fixed | (whole_units(free, ALLOCATIONS[how](free, total, caps), total, caps, multiple) if free else {})
    return {layer.name: budgets[layer.name] for layer in layers}


def _has_own(layer: Layer) -> bool:
    return isinstance(layer.pattern, NM) or layer.share is not None


def _own_zeros(layer: Layer) -> int:
    if isinstance(layer.pattern, NM):
        return layer.entries // layer.pattern.of * (layer.pattern.of - layer.pattern.kept)
    return min(round((layer.share or 0.0) * layer.entries / layer.unit), layer.entries // layer.unit - 1) * layer.unit


def erk(layers: Sequence[Layer], total: int, caps: Mapping[str, int]) -> dict[str, float]:
    """Erdős–Rényi-Kernel: a layer keeps a share ∝ (out + in + Σ kernel) / (out · in · Π kernel), capped at all of it.

    The gates of a recurrent layer are matrices of their own, however they are stacked.
    Source: Evci et al. 2020 (RigL), arXiv 1911.11134, appendix on sparsity distribution.
    """
    shares = [float(layer.weight.shape[0] + layer.gates * sum(layer.weight.shape[1:])) for layer in layers]
    return _fill(layers, shares, total, caps)


def uniform(layers: Sequence[Layer], total: int, caps: Mapping[str, int]) -> dict[str, float]:
    """The same share everywhere."""
    return _fill(layers, [float(layer.entries) for layer in layers], total, caps)


def global_magnitude(layers: Sequence[Layer], total: int, caps: Mapping[str, int]) -> dict[str, float]:
    """One ranking of |w| over all layers; a layer's zeros are what falls below (the IDP paper's choice)."""
    return _rank(layers, [_Ordered(_ascending(_magnitudes(layer))) for layer in layers], total, caps)


def lamp(layers: Sequence[Layer], total: int, caps: Mapping[str, int]) -> dict[str, float]:
    """One ranking of w² / Σ (v² of the same layer with |v| ≥ |w|).

    Source: Lee et al. 2021, arXiv 2010.07611.
    """
    ordered = [_ascending(_magnitudes(layer)) for layer in layers]
    return _rank(layers, [_Ordered(values, _squares_behind(values)) for values in ordered], total, caps)


def sensitivity(layers: Sequence[Layer], total: int, caps: Mapping[str, int]) -> dict[str, float]:
    """One ranking of (w · ∂L/∂w)², what the loss on calibration data would change by without w, to first order.

    It needs data, and no scale: a layer before a batch norm can be multiplied by anything without a change.
    Source: Molchanov et al. 2019, arXiv 1906.10771.

    Raises:
        UsageError: a layer without its gradient.
    """
    scores = []
    for layer in layers:
        if layer.gradient is None:
            raise UsageError(
                "allocation sensitivity looks at calibration data",
                way_out="give the pruner loss=callable, or use `prune` with a task",
            )
        importance = layer.weight.detach().double().mul_(layer.gradient).square_()
        scores.append(_Ordered(_ascending(layer.pattern.unit_scores(importance, layer.output_axis))))
    return _rank(layers, scores, total, caps)


Allocation = Callable[[Sequence[Layer], int, Mapping[str, int]], dict[str, float]]

ALLOCATIONS: dict[str, Allocation] = {
    "erk": erk,
    "global": global_magnitude,
    "lamp": lamp,
    "uniform": uniform,
    "sensitivity": sensitivity,
}


def _fill(layers: Sequence[Layer], shares: Sequence[float], total: int, caps: Mapping[str, int]) -> dict[str, float]:
    """Zeros such that kept entries are ∝ `shares`, between each layer's floor and its size, and add up."""
    floors = [layer.entries - caps[layer.name] for layer in layers]
    kept = sum(layer.entries for layer in layers) - total

    def at(scale: float) -> list[float]:
        return [
            min(float(layer.entries), max(float(low), scale * share))
            for layer, share, low in zip(layers, shares, floors, strict=True)
        ]

    low, high = 0.0, max(layer.entries / share for layer, share in zip(layers, shares, strict=True))
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle)) < kept else (low, middle)
    return {layer.name: layer.entries - value for layer, value in zip(layers, at(high), strict=True)}


class _Ordered:
    """A layer's scores, ascending, at 4 bytes a unit: magnitudes and, for LAMP, the sum of squares behind each block.

    Scores are computed where they are asked for: a few thousand times, whatever the size of the net.
    """

    def __init__(self, values: np.ndarray, behind: np.ndarray | None = None) -> None:
        self.values, self.behind = values, behind

    def __len__(self) -> int:
        return len(self.values)

    def score(self, k: int) -> float:
        value = float(self.values[k])
        if self.behind is None:
            return value
        block = k // _BLOCK
        squares = _squares(self.values[k : (block + 1) * _BLOCK], self.behind[block])
        return value * value / max(squares, 1e-300)


def _magnitudes(layer: Layer) -> Tensor:
    return layer.pattern.scores(layer.weight.detach(), layer.output_axis)


def _ascending(scores: Tensor) -> np.ndarray:
    """The entries in order; sorts the tensor's own memory where that is on the CPU."""
    values = scores.detach().flatten().cpu().numpy()
    values.sort()
    return values


def _squares(values: np.ndarray, behind: float) -> float:
    """Σ v² of `values` and of what comes behind them, added up from the last one down."""
    squares = np.square(values[::-1].astype(np.float64))
    squares[0] += behind
    return float(np.cumsum(squares)[-1])


def _squares_behind(values: np.ndarray) -> np.ndarray:
    """Σ v² of all that comes behind each block of `_BLOCK` entries.

    >>> _squares_behind(np.arange(_BLOCK + 2) == _BLOCK)
    array([1., 0.])
    """
    behind = np.zeros(-(-len(values) // _BLOCK))
    for block in range(len(behind) - 1, 0, -1):
        behind[block - 1] = _squares(values[block * _BLOCK : (block + 1) * _BLOCK], behind[block])
    return behind


def _rank(layers: Sequence[Layer], scores: Sequence[_Ordered], total: int, caps: Mapping[str, int]) -> dict[str, float]:
    """Zeros a layer when the units of all layers go in one order, each layer's best ones excepted.

    The score at which `total` is passed is found by halving the order of floating-point numbers, in which neighbours
    are neighbouring integers. Units of that very score go in the order of the layers.
    """
    units = [layer.unit for layer in layers]
    may_go = [
        max(0, len(score) - (layer.entries - caps[layer.name]) // layer.unit)
        for layer, score in zip(layers, scores, strict=True)
    ]

    def gone(bits: int) -> list[int]:
        bound = float(np.int64(bits).view(np.float64))
        pairs = zip(scores, may_go, strict=True)
        return [bisect_right(range(most), bound, key=score.score) for score, most in pairs]

    low, high = -1, (infinite := int(np.float64(np.inf).view(np.int64)))
    while high - low > 1:  # at `low` everything fits, at `high` it is too much or all
        middle = (low + high) // 2
        if sum(unit * count for unit, count in zip(units, gone(middle), strict=True)) <= total:
            low = middle
        else:
            high = middle
    counts = gone(low) if low >= 0 else [0] * len(layers)
    room = total - sum(unit * count for unit, count in zip(units, counts, strict=True))
    for i, most in enumerate(gone(high) if high < infinite else []):
        tied = min(most - counts[i], room // units[i])
        room -= tied * units[i]
        all_of_them = counts[i] + tied == most
        counts[i] += tied
        if not all_of_them:
            break
    return {layer.name: float(unit * count) for layer, unit, count in zip(layers, units, counts, strict=True)}
