"""What would mend a broken budget: one change, with what it would leave of the metric, computed and not guessed.

A latency is simulated again with the work changed. A size is counted again, tensor by tensor: the file's own values,
cut down to the largest, in the cheapest layout. What a change does to accuracy is for training to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from idp_deploy.flow import Check, Remedy, Report
from idp_deploy.formats import FORMATS
from idp_deploy.formats.prunable import prunable_tensors
from idp_deploy.gating import Evidence, sparsity
from idp_deploy.simulation.estimating import simulate
from idp_deploy.simulation.question import Loaded
from idp_deploy.simulation.targets import Target
from idp_deploy.simulation.work import Workload
from idp_deploy.trying import CHANNELS, SHARES, WHOLE, Tried, best, channels, least, percent, slowest
from idp_deploy.units import METRICS, show
from idp_deploy.vendor_remedies import for_activations, for_flash, for_vendor_latency
from idp_deploy.weighing import Asked

ROOM = 0.95  # zeros beyond which other means are tried first


def remedied(report: Report, evidence: Sequence[Evidence], targets: Sequence[Target]) -> Report:
    """The report, every failed check with the layer most responsible and the change that would mend it."""
    at = {(item.contents.path, item.estimate.target): item for item in evidence}
    known = {target.name: target for target in targets}
    asked = {item.contents.path: Asked(item.contents) for item in evidence}
    checks = []
    for check in report.checks:
        item = at.get((check.artifact, check.budget.target))
        if check.verdict == "fail" and item is not None:
            check = _with_remedy(check, item, known[check.budget.target], asked[check.artifact])
        checks.append(check)
    return replace(report, checks=checks)


def _with_remedy(check: Check, evidence: Evidence, target: Target, asked: Asked) -> Check:
    metric = check.budget.metric
    found = REMEDIES[metric](check, evidence, target, asked) if metric in REMEDIES else None
    layer = LAYERS[metric](evidence, asked) if metric in LAYERS else ""
    if found is None:
        asks = metric in USELESS and check.value is not None and evidence.estimate.vendor is None
        return replace(check, layer=layer, fix=USELESS[metric](asked) if asks else check.fix)
    scheme = evidence.contents.manifest.get("scheme")
    if scheme and "prune" in found.command and "quantize" not in found.command:  # what prunes starts from floats
        found = replace(found, command=f"{found.command}, then quantize --scheme {scheme}")
    unit = METRICS[metric].unit
    close = not METRICS[metric].at_least and found.value <= check.budget.limit
    end = "within the limit" if found.meets else "too close to it to be sure" if close else "not enough alone"
    fix = f"{found.change} ({found.command}): {metric} {show(found.value, unit)} by prediction, {end}"
    return replace(check, layer=layer, remedy=found, fix=fix)


def _no_narrower(asked: Asked) -> str:
    return "neither int8 nor fewer channels make" if asked.removable.makers else "int8 does not make"


def _no_faster(asked: Asked) -> str:
    way_out = "measure it on the device (targets new --anchor), or raise the limit"
    return f"{_no_narrower(asked)} it faster by prediction: {way_out}"


def _no_leaner(asked: Asked) -> str:
    return f"{_no_narrower(asked)} it less by prediction: lower the input resolution, or raise the limit"


def _no_smaller(asked: Asked) -> str:
    weights = sum(tensor.size_bytes for tensor in asked.contents.tensors)
    rest = show(max(asked.contents.size_bytes - weights, 0), "bytes")
    return f"neither more zeros nor int8 weights make it smaller by prediction ({rest} is no weights): raise the limit"


# ── latency and memory: the simulator, asked about other work ───────────────────────────────────────────────────────


def _for_latency(check: Check, evidence: Evidence, target: Target, asked: Asked) -> Remedy | None:
    if evidence.estimate.vendor is not None:
        return for_vendor_latency(check, evidence, asked)
    return best(check, _faster(check.budget.limit, asked, evidence, target))


def _faster(limit: float, asked: Asked, evidence: Evidence, target: Target) -> Tried:
    loaded = asked.loaded

    def at(change: Callable[[Workload], Workload] | None, loaded: Loaded = loaded) -> float:
        then = simulate(loaded, target, runtime=evidence.estimate.runtime, change=change, transfer=False).latency_ms
        return then.middle if then else float("inf")

    now = sparsity(evidence.contents)[0]
    more = [share for share in SHARES if share > now]
    if any(op.runs_sparse for op in evidence.estimate.ops) and more:
        share, value = least(more, limit, lambda share: at(lambda work: thinned(work, (1 - share) / (1 - now))))
        yield f"prune to {percent(share)} zeros, which run sparse here", f"prune --target {share:.2f}", value
    yield "int8 where it can be", "quantize --scheme int8", at(None, asked.in_int8)
    yield from _narrower(limit, evidence, asked, lambda loaded: at(None, loaded))


def _narrower(limit: float, evidence: Evidence, asked: Asked, at: Callable[[Loaded], float]) -> Tried:
    """Without channels, as it is and then in int8."""
    makers = asked.removable.makers
    if not makers:
        return
    share, value = least(CHANNELS, limit * WHOLE, lambda share: at(asked.without(share)))
    yield *channels(share, evidence, makers), value
    if (narrow := asked.narrow) is not None and narrow.removable.makers:
        share, value = least(CHANNELS, limit * WHOLE, lambda share: at(narrow.without(share)))
        what, command = channels(share, evidence, makers)
        yield f"{what}, with int8 where it can be", f"{command}, then quantize --scheme int8", value


def thinned(work: Workload, left: float) -> Workload:
    """With this share left of the weights that are not zero, wherever zeros are skipped."""
    ops = (replace(op, nonzero=round(op.nonzero * left)) if op.sparse else op for op in work.ops)
    return replace(work, ops=tuple(ops))


def _for_memory(check: Check, evidence: Evidence, target: Target, asked: Asked) -> Remedy | None:
    def at(loaded: Loaded) -> float:
        then = simulate(loaded, target, runtime=evidence.estimate.runtime, transfer=False)
        return float(then.resident_weight_bytes + then.peak_activation_bytes)

    def tried() -> Tried:
        yield "int8 where it can be", "quantize --scheme int8", at(asked.in_int8)
        yield from _narrower(check.budget.limit, evidence, asked, at)

    return best(check, tried())


# ── size: the file's own values, priced in every layout ─────────────────────────────────────────────────────────────


def _for_size(check: Check, evidence: Evidence, target: Target, asked: Asked) -> Remedy | None:
    contents = evidence.contents
    scale = (check.value or 0.0) / max(contents.size_bytes, 1)  # of a download: it shrinks as the file does
    row, prunable, now = FORMATS[contents.format], asked.prunable, asked.zeros
    floats = any(tensor.dtype.startswith("float") for tensor in (*prunable, *asked.apart))

    def saved(share: float = now, bits: float | None = None) -> float:
        return asked.size_bytes(share, bits) * scale

    def tried() -> Tried:
        if floats and asked.stores_zeros:
            restored = f"restore {contents.path}, or " if row.restore else ""
            yield "leave out the zeros that are stored", f"{restored}export --encoding auto", saved()
        more = [share for share in SHARES if share > now]
        alone = least(more, check.budget.limit, saved) if more else (1.0, float("inf"))
        if more and (alone[0] <= ROOM or not floats):
            yield *_prune(alone[0]), alone[1]
        if not floats:
            return
        yield "int8 weights", "quantize --scheme int8-weights", saved(bits=8)
        if more:
            share, value = least(more, check.budget.limit, lambda share: saved(share, 8))
            what, command = _prune(share)
            yield f"{what}, with int8 weights", f"{command}, then quantize --scheme int8-weights", value
        if more and alone[0] > ROOM:  # where floats are few, integers take more with their scales
            yield *_prune(alone[0]), alone[1]

    return best(check, tried())


def _prune(share: float) -> tuple[str, str]:
    return f"prune to {percent(share)} zeros", f"prune --target {share:.2f}"


def _for_sparsity(limit: float) -> Remedy | None:
    """Nothing where all were to be zero, which `prune` does not do."""
    return Remedy(f"prune to {percent(limit)} zeros", f"prune --target {limit:g}", limit, True) if limit < 1 else None


def _heaviest(evidence: Evidence, asked: Asked) -> str:
    return max(asked.layers, key=lambda layer: layer.size_bytes).name if asked.layers else ""


def _densest(evidence: Evidence, asked: Asked) -> str:
    """With the most weights that could be zero and are not: a table of embeddings is not pruned."""
    prunable = {tensor.name for tensor in prunable_tensors(evidence.contents)}
    layers = [layer for layer in asked.layers if not prunable.isdisjoint(layer.tensors)]
    return max(layers, key=lambda layer: layer.entries - layer.zeros).name if layers else ""


def _for_flash(check: Check, evidence: Evidence, target: Target, asked: Asked) -> Remedy | None:
    encoded = evidence.estimate.vendor and evidence.estimate.vendor.encoded_weight_bytes
    return for_flash(check, evidence, target) if encoded else _for_size(check, evidence, target, asked)


REMEDIES: Mapping[str, Callable[[Check, Evidence, Target, Asked], Remedy | None]] = {
    **dict.fromkeys(("size", "gzip", "brotli"), _for_size),
    "latency": _for_latency,
    "memory": _for_memory,
    "flash": _for_flash,
    **dict.fromkeys(("sram", "arena"), lambda check, evidence, target, asked: for_activations(check, evidence, asked)),
    "sparsity": lambda check, evidence, target, asked: _for_sparsity(check.budget.limit),
}
USELESS: Mapping[str, Callable[[Asked], str]] = {  # what is said where nothing that was computed helps
    **dict.fromkeys(("size", "gzip", "brotli"), _no_smaller),
    "latency": _no_faster,
    "memory": _no_leaner,
}
LAYERS: Mapping[str, Callable[[Evidence, Asked], str]] = {
    **dict.fromkeys(("size", "gzip", "brotli", "memory", "flash"), _heaviest),
    "latency": lambda evidence, asked: next(iter(slowest(evidence, 1)), ""),
    "sparsity": _densest,
}
