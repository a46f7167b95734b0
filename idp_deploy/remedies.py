"""What would mend a broken budget: one change, with what it would leave of the metric, computed and not guessed.

A latency is simulated again with the work changed. A size is counted again, tensor by tensor: the file's own values,
cut down to the largest, in the cheapest layout. What a change does to accuracy is for training to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from idp_deploy.encodings import size_bytes
from idp_deploy.facts import facts_of
from idp_deploy.flow import Check, Remedy, Report, StoredTensor
from idp_deploy.formats import FORMATS
from idp_deploy.formats.prunable import prunable_tensors
from idp_deploy.gating import Evidence, sparsity
from idp_deploy.simulation.advice import narrowed
from idp_deploy.simulation.estimating import simulate
from idp_deploy.simulation.question import Loaded, load
from idp_deploy.simulation.targets import Target
from idp_deploy.simulation.work import Workload, as_dtype
from idp_deploy.units import METRICS, show

SHARES = (*(0.02 * step for step in range(1, 45)), 0.9, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98)
SCALE_BYTES = 4  # an output channel, where integers take the place of floats
AIM = 0.98  # of the limit: a prediction is not the file, which has alignment and names of its own
ROOM = 0.95  # zeros beyond which other means are tried first
Tried = Iterator[tuple[str, str, float]]  # (what, the command's words, the metric it would leave)


def remedied(report: Report, evidence: Sequence[Evidence], targets: Sequence[Target]) -> Report:
    """The report, every failed check with the layer most responsible and the change that would mend it."""
    at = {(item.contents.path, item.estimate.target): item for item in evidence}
    known = {target.name: target for target in targets}
    checks = []
    for check in report.checks:
        item = at.get((check.artifact, check.budget.target))
        if check.verdict == "fail" and item is not None:
            check = _with_remedy(check, item, known[check.budget.target])
        checks.append(check)
    return replace(report, checks=checks)


def _with_remedy(check: Check, evidence: Evidence, target: Target) -> Check:
    metric = check.budget.metric
    found = REMEDIES[metric](check, evidence, target) if metric in REMEDIES else None
    layer = LAYERS[metric](evidence) if metric in LAYERS else ""
    if found is None:
        return replace(check, layer=layer)
    unit = METRICS[metric].unit
    end = "within the limit" if found.meets else "not enough alone"
    fix = f"{found.change} ({found.command}): {metric} {show(found.value, unit)} by prediction, {end}"
    return replace(check, layer=layer, remedy=found, fix=fix)


def _best(check: Check, tried: Tried) -> Remedy | None:
    """The first that meets the limit; where none does, the one that comes nearest to it, if it helps at all."""
    limit, floor = check.budget.limit, METRICS[check.budget.metric].at_least
    near: Remedy | None = None
    for what, command, value in tried:
        meets = value >= limit if floor else value <= limit * AIM
        if meets:
            return Remedy(what, command, value, True)
        if value < (near.value if near else check.value or 0.0):
            near = Remedy(what, command, value, False)
    return near


def _least(values: Sequence[float], limit: float, at: Callable[[float], float]) -> tuple[float, float]:
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


# ── latency and memory: the simulator, asked about other work ───────────────────────────────────────────────────────


def _for_latency(check: Check, evidence: Evidence, target: Target) -> Remedy | None:
    loaded = load(evidence.contents)
    return _best(check, _faster(check.budget.limit, loaded, evidence, target))


def _faster(limit: float, loaded: Loaded, evidence: Evidence, target: Target) -> Tried:
    def at(change: Callable[[Workload], Workload]) -> float:
        then = simulate(loaded, target, runtime=evidence.estimate.runtime, change=change, transfer=False).latency_ms
        return then.middle if then else float("inf")

    now = sparsity(evidence.contents)[0]
    more = [share for share in SHARES if share > now]
    if any(op.runs_sparse for op in evidence.estimate.ops) and more:
        share, value = _least(more, limit, lambda share: at(lambda work: thinned(work, (1 - share) / (1 - now))))
        yield f"prune to {share:.0%} zeros, which run sparse here", f"prune --target {share:.2f}", value
    yield "int8 throughout", "quantize --scheme int8", at(lambda work: as_dtype(work, "int8"))
    share, value = _least(SHARES, limit, lambda share: at(lambda work: narrowed(work, share)))
    weights = (sum(op.weights for op in work.ops) for work in (narrowed(loaded.work, share), loaded.work))
    zeros = 1 - next(weights) / max(next(weights), 1)
    layers = ", ".join(_slowest(evidence, 3))
    what = f"remove {share:.0%} of the channels, first in {layers}" if layers else f"remove {share:.0%} of the channels"
    yield what, f"prune --pattern channel --target {zeros:.2f}", value


def thinned(work: Workload, left: float) -> Workload:
    """With this share left of the weights that are not zero, wherever zeros are skipped."""
    ops = (replace(op, nonzero=round(op.nonzero * left)) if op.sparse else op for op in work.ops)
    return replace(work, ops=tuple(ops))


def _slowest(evidence: Evidence, count: int) -> list[str]:
    timed = [op for op in evidence.estimate.ops if op.latency_ms is not None and op.weight_bytes]
    ranked = sorted(timed, key=lambda op: -(op.latency_ms or 0.0))
    return list(dict.fromkeys(op.layer or op.name for op in ranked))[:count]


def _for_memory(check: Check, evidence: Evidence, target: Target) -> Remedy | None:
    then = simulate(evidence.contents, target, change=lambda work: as_dtype(work, "int8"), transfer=False)
    value = then.resident_weight_bytes + then.peak_activation_bytes
    return _best(check, iter([("int8 throughout", "quantize --scheme int8", float(value))]))


# ── size: the file's own values, priced in every layout ─────────────────────────────────────────────────────────────


def _for_size(check: Check, evidence: Evidence, target: Target) -> Remedy | None:
    contents, value = evidence.contents, check.value or 0.0
    scale = value / max(contents.size_bytes, 1)  # of a download: it shrinks as the file does
    layouts = FORMATS[contents.format].layouts
    prunable = [tensor for tensor in prunable_tensors(contents) if tensor.dtype.startswith("float")]
    magnitudes = {tensor.name: _Magnitudes(np.abs(_decoded(tensor)).ravel()) for tensor in prunable}

    entries = sum(found.values.size for found in magnitudes.values())
    now = 1 - sum(found.nonzero for found in magnitudes.values()) / max(entries, 1)

    def saved(share: float = now, bits: float | None = None) -> float:
        left = (1 - share) / max(1 - now, 1e-9)
        new = sum(_priced(t, magnitudes[t.name], layouts, left, bits or t.value_bits) for t in prunable)
        return (contents.size_bytes - sum(tensor.size_bytes for tensor in prunable) + new) * scale

    def tried() -> Tried:
        if any(not tensor.is_sparse and tensor.zeros for tensor in prunable):
            restored = f"restore {contents.path}, or " if FORMATS[contents.format].restore else ""
            yield "leave out the zeros that are stored", f"{restored}export --encoding auto", saved()
        more = [share for share in SHARES if share > now]
        if more:
            share, least = _least(more, check.budget.limit, saved)
            if share <= ROOM:
                yield f"prune to {share:.0%} zeros", f"prune --target {share:.2f}", least
        yield "int8 weights", "quantize --scheme int8-weights", saved(bits=8)
        if more:
            share, least = _least(more, check.budget.limit, lambda share: saved(share, 8))
            both = f"prune --target {share:.2f}, then quantize --scheme int8-weights"
            yield f"prune to {share:.0%} zeros, with int8 weights", both, least

    return _best(check, tried()) if prunable else None


def _decoded(tensor: StoredTensor) -> np.ndarray:
    return np.asarray((tensor.dequantize or tensor.values)(), np.float32)


class _Magnitudes:
    """|w| of one tensor, put in order once however many shares of it are asked for."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.nonzero = int(np.count_nonzero(values))

    @cached_property
    def ordered(self) -> np.ndarray:
        """The entries that are not zero, ascending."""
        return np.sort(self.values[self.values != 0])

    def largest(self, share: float) -> np.ndarray:
        """Where the largest of them are, that many of those that are not zero; those equal to the last one, too."""
        kept = round(self.nonzero * share)
        if share >= 1 or not kept:
            return self.values != 0 if kept else np.zeros(self.values.size, bool)
        mask: np.ndarray = self.values >= self.ordered[self.nonzero - kept]
        return mask


def _priced(tensor: StoredTensor, magnitudes: _Magnitudes, layouts: Sequence[str], left: float, bits: float) -> float:
    """Bytes with this share of the non-zero entries left, the largest; never more than the tensor takes now."""
    mask = magnitudes.largest(left)
    least = min(size_bytes(kind, mask, round(bits)) for kind in ("dense", *layouts))
    scales = SCALE_BYTES * tensor.shape[0] if bits < tensor.value_bits and tensor.shape else 0
    return min(least + scales, tensor.size_bytes)


def _heaviest(evidence: Evidence) -> str:
    layers = facts_of(evidence.contents).layers
    return max(layers, key=lambda layer: layer.size_bytes).name if layers else ""


def _densest(evidence: Evidence) -> str:
    layers = facts_of(evidence.contents).layers
    return max(layers, key=lambda layer: layer.entries - layer.zeros).name if layers else ""


REMEDIES: Mapping[str, Callable[[Check, Evidence, Target], Remedy | None]] = {
    **dict.fromkeys(("size", "gzip", "brotli"), _for_size),
    "latency": _for_latency,
    "memory": _for_memory,
    "sparsity": lambda check, evidence, target: Remedy(
        f"prune to {check.budget.limit:.1%} zeros", f"prune --target {check.budget.limit:g}", check.budget.limit, True
    ),
}
LAYERS: Mapping[str, Callable[[Evidence], str]] = {
    **dict.fromkeys(("size", "gzip", "brotli", "memory"), _heaviest),
    "latency": lambda evidence: next(iter(_slowest(evidence, 1)), ""),
    "sparsity": _densest,
}
