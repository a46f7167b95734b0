"""What would mend a broken budget: one change, with what it would leave of the metric, computed and not guessed.

A latency is simulated again with the work changed. A size is counted again, tensor by tensor: the file's own values,
cut down to the largest, in the cheapest layout. What a change does to accuracy is for training to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from math import prod

import numpy as np

from idp_deploy.encodings import size_bytes
from idp_deploy.facts import facts_of
from idp_deploy.flow import Check, Contents, Remedy, Report, StoredTensor
from idp_deploy.formats import FORMATS, Format
from idp_deploy.formats.prunable import prunable_tensors
from idp_deploy.gating import Evidence, sparsity
from idp_deploy.simulation.advice import narrowed
from idp_deploy.simulation.estimating import simulate
from idp_deploy.simulation.question import Loaded, load
from idp_deploy.simulation.targets import Target
from idp_deploy.simulation.work import WIDTHS, Workload, as_dtype
from idp_deploy.units import METRICS, show

CHANNELS = tuple(0.02 * step for step in range(1, 46))  # up to 90 %: what is left beyond that is another network
SHARES = (*(0.02 * step for step in range(1, 45)), 0.9, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98)
OPERATOR_BYTES = 256  # at most, of what turns the integers of a weight into floats again, with its names
AIM = 0.98  # of the limit: a prediction is not the file, which has alignment and names of its own
WHOLE = 0.96  # of that: channels go as a whole, so that a narrow layer keeps more than its share
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
        yield f"prune to {_percent(share)} zeros, which run sparse here", f"prune --target {share:.2f}", value
    yield "int8 throughout", "quantize --scheme int8", at(lambda work: as_dtype(work, "int8"))
    share, value = _least(CHANNELS, limit * WHOLE, lambda share: at(lambda work: narrowed(work, share)))
    yield *_channels(share, evidence), value


def _channels(share: float, evidence: Evidence) -> tuple[str, str]:
    """What removes this share of them and how: `prune` counts the weights that make them, not those that read them."""
    layers = ", ".join(_slowest(evidence, 3, but=("depthwise",)))  # whose channels are those of the layer before
    what = f"remove {_percent(share)} of the channels" + (f", first in {layers}" if layers else "")
    return what, f"prune --pattern channel --target {share:.2f}, then shrink"


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def thinned(work: Workload, left: float) -> Workload:
    """With this share left of the weights that are not zero, wherever zeros are skipped."""
    ops = (replace(op, nonzero=round(op.nonzero * left)) if op.sparse else op for op in work.ops)
    return replace(work, ops=tuple(ops))


def _slowest(evidence: Evidence, count: int, *, but: Sequence[str] = ()) -> list[str]:
    ops = (op for op in evidence.estimate.ops if op.op_class not in but)
    timed = [op for op in ops if op.latency_ms is not None and op.weight_bytes]
    ranked = sorted(timed, key=lambda op: -(op.latency_ms or 0.0))
    return list(dict.fromkeys(op.layer or op.name for op in ranked))[:count]


def _for_memory(check: Check, evidence: Evidence, target: Target) -> Remedy | None:
    loaded = load(evidence.contents)

    def at(change: Callable[[Workload], Workload]) -> float:
        then = simulate(loaded, target, runtime=evidence.estimate.runtime, change=change, transfer=False)
        return float(then.resident_weight_bytes + then.peak_activation_bytes)

    def tried() -> Tried:
        whole = WIDTHS["float32"] - WIDTHS["int8"]  # what goes in stays a float
        ends = 0 if loaded.work.dtype == "int8" else whole * _entries_in(evidence.contents)
        yield "int8 throughout", "quantize --scheme int8", at(lambda work: as_dtype(work, "int8")) + ends
        share, value = _least(CHANNELS, check.budget.limit * WHOLE, lambda share: at(lambda w: narrowed(w, share)))
        yield *_channels(share, evidence), value

    return _best(check, tried())


def _entries_in(contents: Contents) -> int:
    values = (contents.values.get(name) for name in contents.inputs)
    return sum(prod(max(extent, 1) for extent in value.shape) for value in values if value and "float" in value.dtype)


# ── size: the file's own values, priced in every layout ─────────────────────────────────────────────────────────────


def _for_size(check: Check, evidence: Evidence, target: Target) -> Remedy | None:
    contents, value = evidence.contents, check.value or 0.0
    scale = value / max(contents.size_bytes, 1)  # of a download: it shrinks as the file does
    row = FORMATS[contents.format]
    prunable = [tensor for tensor in prunable_tensors(contents) if tensor.dtype.startswith("float")]
    magnitudes = {tensor.name: _Magnitudes(np.abs(_decoded(tensor)).ravel()) for tensor in prunable}

    entries = sum(found.values.size for found in magnitudes.values())
    now = 1 - sum(found.nonzero for found in magnitudes.values()) / max(entries, 1)

    def saved(share: float = now, bits: float | None = None) -> float:
        left = (1 - share) / max(1 - now, 1e-9)
        new = sum(_priced(t, magnitudes[t.name], row, left, bits or t.value_bits) for t in prunable)
        return (contents.size_bytes - sum(tensor.size_bytes for tensor in prunable) + new) * scale

    def tried() -> Tried:
        if any(not tensor.is_sparse and tensor.zeros for tensor in prunable):
            restored = f"restore {contents.path}, or " if row.restore else ""
            yield "leave out the zeros that are stored", f"{restored}export --encoding auto", saved()
        more = [share for share in SHARES if share > now]
        if more:
            share, least = _least(more, check.budget.limit, saved)
            if share <= ROOM:
                yield f"prune to {_percent(share)} zeros", f"prune --target {share:.2f}", least
        yield "int8 weights", "quantize --scheme int8-weights", saved(bits=8)
        if more:
            share, least = _least(more, check.budget.limit, lambda share: saved(share, 8))
            both = f"prune --target {share:.2f}, then quantize --scheme int8-weights"
            yield f"prune to {_percent(share)} zeros, with int8 weights", both, least

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


def _priced(tensor: StoredTensor, magnitudes: _Magnitudes, row: Format, left: float, bits: float) -> float:
    """Bytes with this share of the non-zero entries left, the largest; as floats never more than it takes now."""
    mask = magnitudes.largest(left)
    ends = 0  # what a layout takes beside its entries, such as where rows begin
    if tensor.is_sparse:
        now, whole = magnitudes.values != 0, round(tensor.value_bits)
        taken = min((size_bytes(kind, now, whole) for kind in row.layouts), default=tensor.size_bytes)
        ends = min(max(tensor.size_bytes - taken, 0), 4 * (tensor.shape[0] + 1) if tensor.shape else 0)
    sparse = min((size_bytes(kind, mask, round(bits)) + ends for kind in row.layouts), default=tensor.size_bytes)
    least = min(sparse, size_bytes("dense", mask, round(bits)))
    if bits < tensor.value_bits and tensor.shape:
        return least + row.scale_bytes * tensor.shape[0] + OPERATOR_BYTES
    return min(least, tensor.size_bytes)


def _for_sparsity(check: Check, evidence: Evidence, target: Target) -> Remedy:
    limit = check.budget.limit
    return Remedy(f"prune to {_percent(limit)} zeros", f"prune --target {limit:g}", limit, True)


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
        f"prune to {_percent(check.budget.limit)} zeros",
        f"prune --target {check.budget.limit:g}",
        check.budget.limit,
        True,
    ),
}
LAYERS: Mapping[str, Callable[[Evidence], str]] = {
    **dict.fromkeys(("size", "gzip", "brotli", "memory"), _heaviest),
    "latency": lambda evidence: next(iter(_slowest(evidence, 1)), ""),
    "sparsity": _densest,
}
