"""Changes tried one by one: the first that meets a limit, and the least of each kind that does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from idp_deploy.flow import Check, Remedy
from idp_deploy.gating import Evidence
from idp_deploy.units import METRICS

CHANNELS = tuple(0.02 * step for step in range(1, 46))  # up to 90 %: what is left beyond that is another network
SHARES = (*(0.02 * step for step in range(1, 45)), 0.9, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98)
AIM = 0.98  # of the limit: a prediction is not the file, which has alignment and names of its own
HELPS = 0.99  # of what it is now: what leaves more mends nothing that one would see
WHOLE = 0.96  # of that: channels go as a whole, so that a narrow layer keeps more than its share
Tried = Iterator[tuple[str, str, float]]  # (what, the command's words, the metric it would leave)


def best(check: Check, tried: Tried) -> Remedy | None:
    """The first that meets the limit; where none does, the one that comes nearest to it, if it helps at all."""
    limit, floor = check.budget.limit, METRICS[check.budget.metric].at_least
    near: Remedy | None = None
    for what, command, value in tried:
        meets = value >= limit if floor else value <= limit * AIM
        if meets:
            return Remedy(what, command, value, True)
        if value < (near.value if near else (check.value or 0.0) * HELPS):
            near = Remedy(what, command, value, False)
    return near


def least(values: Sequence[float], limit: float, at: Callable[[float], float]) -> tuple[float, float]:
    """(the least of `values` at which a falling function is safely within the limit, or the last; what it is there)."""
    limit *= AIM
    low, high = 0, len(values) - 1
    last = at(values[high])
    if last > limit:
        return values[high], last
    found = last
    while low < high:
        middle = (low + high) // 2
        value = at(values[middle])
        if value <= limit:
            high, found = middle, value
        else:
            low = middle + 1
    return values[high], found


def channels(share: float, evidence: Evidence, makers: Collection[str]) -> tuple[str, str]:
    """What removes this share of them and how: `prune` counts the weights that make them, not those that read them."""
    layers = ", ".join(slowest(evidence, 3, among=makers))
    what = f"remove {percent(share)} of the channels" + (f", first in {layers}" if layers else "")
    return what, f"prune --pattern channel --target {share:.2f}, then shrink"


def percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def slowest(evidence: Evidence, count: int, *, among: Collection[str] | None = None) -> list[str]:
    """Layers by their time; `among` such operators as have channels of their own, which depthwise ones have not."""
    ops = (
        op
        for op in evidence.estimate.ops
        if among is None or (op.name in among and op.op_class in ("conv", "conv1x1", "linear"))
    )
    timed = [op for op in ops if op.latency_ms is not None and op.weight_bytes]
    ranked = sorted(timed, key=lambda op: -(op.latency_ms or 0.0))
    return list(dict.fromkeys(op.layer or op.name for op in ranked))[:count]
