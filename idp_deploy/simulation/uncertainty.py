"""How sure the cost model is: what its effects leave open, and how much a measurement on the device closes.

An effect is known as well as groups speak for it, not rows: devices for what devices share, networks for what one
device has alone. Of an effect with standard deviation a (all terms alike) and b (each term by itself), seen in G groups
whose times lay in a term by the squared shares I,

    variance left = a² / (1 + a² · G / s²)   and   b² / (1 + b² · I / s²)

with s the disagreement between groups. A term that no group of a runtime spent time in keeps its whole variance, so an
interval is wider by the share of time spent in what was never calibrated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from idp_deploy.simulation.cost_model import TERM_FREEDOM, TERMS, Effect

DISAGREE = 0.12  # s: between groups that share an effect, in log
FREEDOM = np.array([TERM_FREEDOM[term] for term in TERMS])
ALONE = frozenset({"device", "group", "device-precision", "device-threads"})  # effects that only networks speak for

CPU_KINDS = frozenset({"single", "cpu"})  # fits that speak of the same cores
Levels = Mapping[str, tuple[float, float]]
Seen = Mapping[tuple[str, str], np.ndarray]  # effect → number of groups, then squared shares by term: (1 + terms,)


def situation(family: str, precision: str, threads: int) -> str:
    """Where errors are alike: one runtime, arithmetic and kind of threads.

    >>> situation("ncnn", "int8-dot", 4)
    'ncnn|int8|threads'
    """
    return f"{family}|{precision.partition('-')[0]}|{'threads' if threads > 1 else 'one thread'}"


def seen(situations: Iterable[tuple[Sequence[Effect], str, str, np.ndarray]]) -> dict[tuple[str, str], np.ndarray]:
    """What groups say about each effect, from (effects, device, network, shares of time by term) of calibrated rows."""
    groups: dict[tuple[str, str], dict[str, list[np.ndarray]]] = {}
    for effects, device, network, shares in situations:
        for level, identity, _ in effects:
            by_group = groups.setdefault((level, identity), {})
            by_group.setdefault(network if level in ALONE else device, []).append(shares**2)
    return {
        effect: np.concatenate([[len(found)], np.sum([np.mean(rows, axis=0) for rows in found.values()], axis=0)])
        for effect, found in groups.items()
    }


def covariance(effects: Sequence[Effect], levels: Levels, known: Seen) -> np.ndarray:
    """Of c in a situation.  → (terms, terms)"""
    common, each = 0.0, np.zeros(len(TERMS))
    for level, identity, times in effects:
        in_common, of_each = _left_open(levels[level], known.get((level, identity)))
        common += times**2 * in_common
        each += times**2 * of_each
    return common + np.diag(each)


def _left_open(free: tuple[float, float], groups: np.ndarray | None) -> tuple[float, np.ndarray]:
    """Variance of an effect that `groups` leave: in all terms alike, and in each by itself.  → (), (terms,)"""
    a, b = free[0] ** 2, (free[1] * FREEDOM) ** 2
    known = np.zeros(1 + len(TERMS)) if groups is None else groups / DISAGREE**2
    return a / (1 + a * float(known[0])), b / (1 + b * known[1:])


def together(situations: Sequence[Sequence[Effect]], levels: Mapping[str, Levels], known: Seen) -> np.ndarray:
    """Of c in several situations at once; what two of them have in common is one doubt, not two.

    The two fits of CPU cores tell of one device by two numbers; its doubt is the same in both.

    → (situations · terms, situations · terms)
    """
    size = len(TERMS)
    joint = np.zeros((len(situations), size, len(situations), size))
    parts: list[dict[tuple[str, str, str], tuple[float, np.ndarray]]] = []
    for effects in situations:
        found = {}
        for level, identity, times in effects:
            kind, _, name = identity.partition("/")
            in_common, of_each = _left_open(levels[kind][level], known.get((level, identity)))
            key = ("cpu" if kind in CPU_KINDS else kind, level, name)
            found[key] = times * in_common**0.5, times * of_each**0.5
        parts.append(found)
    for i, one in enumerate(parts):
        for j, other in enumerate(parts):
            for key in one.keys() & other.keys():
                (a, b), (c, d) = one[key], other[key]
                joint[i, :, j, :] += a * c + np.diag(b * d)
    return joint.reshape(len(situations) * size, len(situations) * size)


@dataclass(frozen=True, eq=False)
class Observation:
    """A measured latency of some work: milliseconds at peak by term, and the milliseconds met."""

    peak_ms: np.ndarray  # (terms,)
    latency_ms: float
    where: int = 0  # which of the situations it was met in


def adapted(
    log_cost: np.ndarray, uncertain: np.ndarray, met: Sequence[Observation], noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Move c to agree with measurements on the device itself, as far as its covariance allows; and what that leaves.

    Gauss-Newton on  Σ (log predicted − log measured)² / noise² + (c − c₀)ᵀ covariance⁻¹ (c − c₀).

    Args:
        log_cost: of one situation or of several, one after the other, as `together` orders them.

    → (situations · terms,), (situations · terms, situations · terms)
    """
    current, size = log_cost.copy(), len(TERMS)
    where = [o.where for o in met]
    gain, shares = np.zeros((len(log_cost), len(met))), np.zeros((len(met), len(log_cost)))
    for _ in range(8):
        times = np.array([o.peak_ms for o in met]) * np.exp(current.reshape(-1, size)[where])
        totals = times.sum(1)
        for row, at in enumerate(where):
            shares[row, at * size : (at + 1) * size] = times[row] / totals[row]
        target = np.log([o.latency_ms for o in met]) - np.log(totals) + shares @ (current - log_cost)
        gain = np.linalg.solve(shares @ uncertain @ shares.T + noise**2 * np.eye(len(met)), shares @ uncertain).T
        moved = log_cost + gain @ target
        settled = float(np.abs(moved - current).max()) < 1e-4
        current = moved
        if settled:
            break
    return current, uncertain - gain @ shares @ uncertain


def spread(uncertain: np.ndarray, shares: np.ndarray, noise: float) -> float:
    """Standard deviation of a predicted log latency whose time lies in the terms by `shares`."""
    return float(np.sqrt(max(shares @ uncertain @ shares, 0.0) + noise**2))
