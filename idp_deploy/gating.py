"""gate: what was read, simulated and verified × budgets → Report.

A budget holds when its value is on the right side of the limit; a latency is compared by the middle of its interval,
and the detail says when the interval crosses the limit. What could not be measured fails its budget, and so does every
metric of a file that the target's runtime refuses or computes wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from idp_deploy import files
from idp_deploy.errors import GateError, UsageError
from idp_deploy.facts import facts_of
from idp_deploy.flow import Budget, Check, Contents, Estimate, Parity, Report, StoredTensor
from idp_deploy.formats import FORMATS
from idp_deploy.formats.prunable import prunable_tensors
from idp_deploy.units import METRICS, like, show

if TYPE_CHECKING:
    from idp_deploy.simulation.targets import Target

_BASELINE_FIX = "write it again with 'check --json -o FILE' where these budgets are configured, or pass --allow-missing"


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything known about one artifact on one target."""

    contents: Contents
    estimate: Estimate
    parity: Parity | None = None


def gate(budgets: Sequence[Budget], evidence: Sequence[Evidence], *, strict: bool = False) -> Report:
    """Check every budget against the artifacts of its target and format.

    Args:
        strict: a budget that no artifact answers fails; otherwise it is left out, and `missing` tells which.
    """
    if wrong := [one for one in ([None] if budgets is None else budgets) if not isinstance(one, Budget)]:
        raise UsageError(f"{wrong[0]!r} is no budget", way_out='give Budget("pixel-4", "onnx", "size", 600e3)')
    checks = [
        _check(budget, item)
        for budget in budgets
        for item in evidence
        if (item.estimate.target, item.contents.format) == (budget.target, budget.format)
        and budget.is_for(item.contents.path)
    ]
    if strict:
        checks += [_absent(budget) for budget in missing(budgets, evidence)]
    parities = {e.contents.path: e.parity for e in evidence if e.parity}
    files = {e.contents.path: e.contents for e in evidence}
    return Report(
        checks,
        [e.estimate for e in evidence],
        list(parities.values()),
        files=[facts_of(contents) for contents in files.values()],
    )


def pairs(
    contents: Sequence[Contents], targets: Sequence[Target], budgets: Sequence[Budget]
) -> list[tuple[Contents, Target]]:
    """Every file with every target that runs its format, and where a budget insists, with those that do not."""
    insisted = {(budget.target, budget.format) for budget in budgets}
    return [
        (one, target)
        for one in contents
        for target in targets
        if target.runtime(one.format) is not None or (target.name, one.format) in insisted
    ]


def missing(budgets: Sequence[Budget], evidence: Sequence[Evidence]) -> tuple[Budget, ...]:
    """Budgets that no given artifact answers."""
    at_hand = {(e.estimate.target, e.contents.format, e.contents.path) for e in evidence}
    return tuple(
        b for b in budgets if not any((b.target, b.format) == place[:2] and b.is_for(place[2]) for place in at_hand)
    )


def _absent(budget: Budget) -> Check:
    if budget.artifact:
        absent, way_out = f"{budget.artifact} is not among the files", "name it, too, or write the baseline again"
    else:
        absent, way_out = "there is no artifact in this format", "export it, or remove the budget"
    return Check(budget, Path(), None, "not estimable", absent, way_out)


def ungated(
    baseline: Path, earlier: Sequence[Budget], budgets: Sequence[Budget], evidence: Sequence[Evidence]
) -> tuple[Check, ...]:
    """What is budgeted of the files at hand, and the baseline has no value for: each a failed check.

    Raises:
        GateError: the baseline has no value for any of the files, so that it would hold them to nothing.
    """
    at_hand = [(e.estimate.target, e.contents.format, e.contents.path) for e in evidence]
    answering = ((b, at) for b in earlier for at in at_hand if (b.target, b.format) == at[:2] and b.is_for(at[2]))
    known = {(*place, b.metric) for b, place in answering}
    if not known:
        what = "no checks" if not earlier else "no check of these files on these targets"
        raise GateError(f"{baseline} holds {what}, so nothing is held against it", way_out=_BASELINE_FIX)
    return tuple(
        Check(b, path, None, "not estimable", f"{baseline.name} has no value for it", _BASELINE_FIX)
        for b in budgets
        for target, format, path in at_hand
        if (b.target, b.format) == (target, format) and (target, format, path, b.metric) not in known
    )


def _check(budget: Budget, evidence: Evidence) -> Check:
    metric = METRICS[budget.metric]
    value, reason = VALUES[budget.metric](evidence)
    if value is None:
        said = evidence.estimate.vendor is None and " --" in reason  # a reason that names a command says the way out
        way_out = "" if said else UNKNOWN.get(budget.metric, "remove the budget")
        return Check(budget, evidence.contents.path, None, "not estimable", reason, way_out)
    if evidence.estimate.unfit:  # no limit holds of a file that does not run as it is meant
        return Check(budget, evidence.contents.path, value, "fail", evidence.estimate.unfit, evidence.estimate.way_out)
    slack = 0.5 / sparsity(evidence.contents)[2] if metric.at_least else 0.0  # a share is a count rounded
    passed = value >= budget.limit - slack if metric.at_least else value <= budget.limit
    detail = _crossing(budget, evidence, passed) if budget.metric == "latency" else ""
    if passed:
        return Check(budget, evidence.contents.path, value, "pass", detail, marginal=bool(detail))
    responsible, fix = BLAME[budget.metric](evidence)
    told = "; ".join(filter(None, (detail, responsible)))
    return Check(budget, evidence.contents.path, value, "fail", told, fix, marginal=bool(detail))


def _crossing(budget: Budget, evidence: Evidence, passed: bool) -> str:
    interval = evidence.estimate.latency_ms
    if interval is None or not interval.low <= budget.limit <= interval.high:
        return ""
    axis = like(interval.middle)
    low, high, way = axis.number(interval.low), axis.text(interval.high), "over" if passed else "under"
    return f"the {interval.coverage * 100:.0f} % interval, {low} to {high}, reaches {way} the limit"


# ── metric → its value, and the reason where there is none ──────────────────────────────────────────────────────────


def _latency(evidence: Evidence) -> tuple[float | None, str]:
    if evidence.estimate.vendor is not None:
        return _vendor("latency_ms")(evidence)
    interval = evidence.estimate.latency_ms
    return (interval.middle, "") if interval else (None, evidence.estimate.reason)


def _vendor(figure: str) -> Callable[[Evidence], tuple[float | None, str]]:
    """A figure of the vendor's software: a number, or as many as it lists."""

    def value(evidence: Evidence) -> tuple[float | None, str]:
        estimate, vendor = evidence.estimate, evidence.estimate.vendor
        if vendor is None:
            return None, estimate.reason or f"no vendor's software answers for {estimate.target}"
        found = getattr(vendor, figure)
        if found is None:
            return None, f"{vendor.software} does not say"
        return (len(found) if isinstance(found, tuple) else found), ""

    return value


def _memory(evidence: Evidence) -> tuple[float | None, str]:
    if reason := evidence.contents.unsized:
        return None, reason
    return evidence.estimate.resident_weight_bytes + evidence.estimate.peak_activation_bytes, ""


def sparsity(contents: Contents) -> tuple[float, int, int]:
    """(share, zeros, entries) of the prunable weights, counted in the file.

    Prunable is what `prunable_tensors` says: no metadata of the file has a part in it.
    """
    chosen = prunable_tensors(contents)
    zeros, entries = sum(t.zeros for t in chosen), sum(t.size for t in chosen)
    return (zeros / entries if entries else 0.0), zeros, entries


def _share(evidence: Evidence) -> tuple[float | None, str]:
    share, _, entries = sparsity(evidence.contents)
    if not entries:
        return None, "no convolution, product or recurrence of the file reads a weight stored in it"
    return share, ""


def _error(evidence: Evidence) -> tuple[float | None, str]:
    if evidence.parity is None or not evidence.parity.outputs:
        return None, "no model was given to compare with"
    return max(output.max_relative_error for output in evidence.parity.outputs), ""


UNKNOWN = {  # what makes a number of none
    "latency": "remove the budget, or calibrate the device with a measurement of yours ('idp-deploy targets --help')",
    "error": "'idp-deploy run' compares files with the model; 'check' alone does not: there, remove the budget",
}
VALUES: Mapping[str, Callable[[Evidence], tuple[float | None, str]]] = {
    "size": lambda e: (e.estimate.size_bytes, ""),
    "gzip": lambda e: (files.transfer_bytes(e.contents.path)[0], ""),
    "brotli": lambda e: (files.transfer_bytes(e.contents.path)[1], ""),
    "latency": _latency,
    "memory": _memory,
    "sparsity": _share,
    "flash": _vendor("flash_bytes"),
    "sram": _vendor("sram_bytes"),
    "arena": _vendor("arena_bytes"),
    "cpu_operators": _vendor("cpu_operators"),
    "error": _error,
}


# ── metric → (what is most responsible, one suggestion) ─────────────────────────────────────────────────────────────


def _blame_size(evidence: Evidence) -> tuple[str, str]:
    tensors = evidence.contents.tensors
    if not tensors:
        return "the file holds no weights", "drop what the graph does not need"
    heaviest = max(tensors, key=lambda t: t.size_bytes)
    detail = f"largest weight {heaviest.name}: {show(heaviest.size_bytes, 'bytes')}, {heaviest.encoding}"
    dense = [t for t in tensors if not t.is_sparse and t.zeros > t.size / 2]
    if dense:
        wasted = sum(t.zeros * t.value_bits / 8 for t in dense)
        restorable = FORMATS[evidence.contents.format].restore
        way_out = f"idp-deploy restore {evidence.contents.path}, or " if restorable else ""
        return detail, f"{show(wasted, 'bytes')} of zeros are stored densely: {way_out}export with --encoding auto"
    if heaviest.zeros < heaviest.size / 2:
        return detail, f"{heaviest.name} is {show(heaviest.zeros / heaviest.size, 'share')} zero: prune it further"
    return detail, "prune further" if _is_integer(heaviest) else "quantize (--scheme int8-weights), or prune further"


def _is_integer(tensor: StoredTensor) -> bool:
    return tensor.dtype.startswith(("int", "uint"))


def _blame_latency(evidence: Evidence) -> tuple[str, str]:
    if vendor := evidence.estimate.vendor:
        binds = max((c for c in vendor.cycles if c != "total"), key=lambda c: vendor.cycles[c], default="npu")
        if binds == "npu":
            return "arithmetic takes most cycles", "remove channels (--pattern channel), or 2:4 on an Ethos-U85"
        return f"{binds} traffic takes most cycles", "prune further: zeros cut the bytes read"
    timed = [op for op in evidence.estimate.ops if op.latency_ms is not None]
    if not timed:
        return "", "remove channels: --pattern channel"
    slowest = max(timed, key=lambda op: op.latency_ms or 0.0)
    detail = f"slowest: {slowest.layer or slowest.name} ({slowest.op_class}), {show(slowest.latency_ms, 'ms')}"
    if any(op.runs_sparse for op in timed):
        return detail, "prune further: this target runs the zeros as sparse kernels"
    return detail, "zeros do not make this runtime faster here: remove channels (--pattern channel) or quantize"


def _blame_memory(evidence: Evidence) -> tuple[str, str]:
    weights = show(evidence.estimate.resident_weight_bytes, "bytes")
    peak = show(evidence.estimate.peak_activation_bytes, "bytes")
    return f"weights {weights} resident, activations {peak} at the peak", "quantize, or lower the input resolution"


def _blame_flash(evidence: Evidence) -> tuple[str, str]:
    vendor = evidence.estimate.vendor
    if vendor is None or vendor.encoded_weight_bytes is None:
        return _blame_size(evidence)
    encoded, stored = (show(n, "bytes") for n in (vendor.encoded_weight_bytes, vendor.original_weight_bytes))
    return f"weights take {encoded}, encoded from {stored}", "prune further: Vela's encoding takes few bytes for zeros"


def _blame_cpu(evidence: Evidence) -> tuple[str, str]:
    vendor = evidence.estimate.vendor
    left = vendor.cpu_operators if vendor else None
    if not left:
        return "", ""
    ends = {op.kind for op in left} <= {"Quantize", "Dequantize"}
    fix = "export with --io int8" if ends else "quantize --scheme int8, or replace the operator"
    return f"{left[0].kind} {left[0].name!r} stays on the CPU: {left[0].reason}", fix


def _blame_activations(evidence: Evidence) -> tuple[str, str]:
    return "activations of the largest layers", "lower the input resolution, or remove channels (--pattern channel)"


def _blame_error(evidence: Evidence) -> tuple[str, str]:
    """Which output in which runtime, and what computes more finely than the file does."""
    outputs = evidence.parity.outputs if evidence.parity else ()
    worst = max(outputs, key=lambda one: one.max_relative_error, default=None)
    detail = f"output {worst.output} in {worst.runtime}" if worst else ""
    manifest, format = evidence.contents.manifest, evidence.contents.format
    row, options = FORMATS[format], manifest.get("options")
    precision = options.get("precision") if isinstance(options, Mapping) else None
    if manifest.get("scheme") == "int8" and row.integers:
        return detail, "quantize --scheme int8-weights, which keeps activations float, then export again"
    if row.finer and precision != row.finer:
        return detail, f"export --to {format} --precision {row.finer}"
    return detail, f"the file computes in {row.finer or 'float32'}, and nothing finer is written: raise the budget"


BLAME: Mapping[str, Callable[[Evidence], tuple[str, str]]] = {
    "size": _blame_size,
    "gzip": _blame_size,
    "brotli": _blame_size,
    "latency": _blame_latency,
    "memory": _blame_memory,
    "sparsity": lambda e: ("", "prune to a higher --target, or skip fewer weights"),
    "flash": _blame_flash,
    "sram": _blame_activations,
    "arena": _blame_activations,
    "cpu_operators": _blame_cpu,
    "error": _blame_error,
}
