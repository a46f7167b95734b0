"""simulate: a file or a description × a device → Estimate. It is computed, never measured, and says how sure it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from idp_deploy.errors import UsageError
from idp_deploy.flow import Basis, Contents, Estimate, Interval, OpEstimate
from idp_deploy.formats import FORMATS
from idp_deploy.formats.onnx import runtimes as tools
from idp_deploy.formats.operators import classes_of
from idp_deploy.formats.sparse_kernels import SparseLint
from idp_deploy.simulation.anchoring import Anchor, anchored, anchors_on
from idp_deploy.simulation.cost_model import (
    ACCELERATOR_FAMILIES,
    SPARSE_FAMILIES,
    Coefficients,
    Core,
    Effect,
    at_peak,
    effects_of,
    kind_of,
    load_coefficients,
    precision_of,
)
from idp_deploy.simulation.evidence import OWN_FAMILIES, PUBLISHED_ISA, behind, reason_for_none
from idp_deploy.simulation.question import Loaded, Question, load
from idp_deploy.simulation.size import estimated_transfer_bytes
from idp_deploy.simulation.targets import VENDORS, Runtime, Target, folder
from idp_deploy.simulation.uncertainty import covariance, situation
from idp_deploy.simulation.uncertainty import spread as expected_spread
from idp_deploy.simulation.work import Workload, as_dtype, with_sparse
from idp_deploy.units import scale

COVERAGE = 0.9
NINE_IN_TEN = 1.645  # standard deviations of a normal distribution
SPARSE_IN_ORDER = frozenset(
    {"a53", "a55", "a55-bare"}
)  # in-order cores of which sparse timings, or their close relatives', are known
# Weights stay as stored until they are used: sparse and palettized ones cost less traffic. Checked against Apple's
# published 75 %-sparse ResNet50 (1.19 times faster on an A16) and MobileNetV2 (1.04 times).
COMPRESSED_IN_MEMORY = frozenset({"coreml-ane"})
UNKNOWN_FAMILY = 0.6  # least half-width in log where no measurement of the runtime exists: published runtimes differ so
ARITHMETIC = ("convolution", "depthwise", "transposed", "product")
UNLIKELY = 30  # times as slow or fast as its cores say: no device of those that were measured is
UNKNOWN_SHARE = 0.1  # of the activation traffic, and of the MACs: above it no latency is given


def simulate(
    artifact: Path | Contents | Loaded,
    target: Target,
    *,
    runtime: str | None = None,
    threads: int = 1,
    anchor: Mapping[str, float] | None = None,
    change: Callable[[Workload], Workload] | None = None,
    coefficients: Coefficients | None = None,
    transfer: bool = True,
) -> Estimate:
    """How long one inference takes on a device, and what it needs there.

    Args:
        artifact: a model file, its contents, a workload description (`descriptions`), or what `load` made of one.
        runtime: one of the target's, or a CPU runtime family; the target's own for the format by default.
        threads: on the device, at most its cores.
        anchor: latencies in ms that were measured on the device with the same runtime and threads, by published
            architecture (`mobilenet_v1_1.0_224`, or `mobilenet_v1_1.0_224@int8`) or by the path of a file. One
            measurement removes most of what is unknown about a device.
        change: what if the work were another: applied after what runs sparse has been marked.
        coefficients: of another calibration than the committed one.
        transfer: also say what a download takes, for which the file is compressed; 0 where not.

    Raises:
        UsageError: unknown runtime or anchor, or more threads than cores. FileError: a broken file.
    """
    loaded = artifact if isinstance(artifact, Loaded) else load(artifact)
    chosen = target.runtime(loaded.format, runtime)
    if chosen is not None and target.is_tool:
        reason = f"{target.device} runs on many devices: no latency is estimated"
        notes = list(loaded.work.notes)
        return _taken(loaded, _answer(loaded, target, chosen.name, loaded.work, None, reason, (), notes, transfer))
    if chosen is not None and chosen.family in VENDORS:
        from idp_deploy.simulation.vendor import vendor_estimate  # which brings the pipe to a child with it

        return vendor_estimate(loaded.contents, target, chosen, transfer=transfer)
    cores = sum(group.count for group in target.cores)
    if chosen is not None and not 1 <= threads <= cores:
        raise UsageError(f"threads is {threads}; '{target.name}' has {cores} cores", way_out=f"--threads 1 to {cores}")
    work, notes = loaded.work, list(loaded.work.notes)
    if chosen is None:
        missing = f"has no {runtime}: it runs {', '.join(r.name for r in target.runtimes)}"
        none = FORMATS[loaded.format].no_latency if loaded.format in FORMATS else ""
        reason = f"{target.device} {missing if runtime else f'runs no {loaded.format} files'}"
        reason = none if none and not runtime else reason
        return _answer(loaded, target, runtime or "none", work, None, reason, (), notes, transfer)
    core = target.core(chosen)
    used, note = _threads(threads, target, chosen, core)
    notes += note
    if chosen.family in ACCELERATOR_FAMILIES and work.dtype == "float32":
        work = as_dtype(work, "float16")  # these engines compute in float16 whatever the file holds
    dense = work
    if chosen.family in COMPRESSED_IN_MEMORY:
        work = replace(
            work, ops=tuple(replace(op, resident_bytes=min(op.resident_bytes, op.stored_bytes)) for op in work.ops)
        )
    if loaded.lint is not None:
        work, note = _sparse(work, loaded.lint, chosen, core)
        notes += note
    work, dense = (work, dense) if change is None else (change(work), change(dense))
    model = coefficients or load_coefficients(folder() / "coefficients.json")
    anchors = anchors_on(target, chosen, threads, anchor or {})
    precision = precision_of(work.dtype, core)
    basis = behind(model.rows, chosen.family, core, target.measured_as, precision, used)
    reason = loaded.contents.unsized if loaded.contents else ""
    reason = reason or _not_estimable(work, chosen, core, classes_of(loaded.format))
    if basis is None and not any(one.says_of(chosen, used, work.dtype) for one in anchors):
        reason = reason or reason_for_none(model.rows, chosen.family, core, work.dtype)
    if reason:
        return _answer(loaded, target, chosen.name, work, None, reason, (), notes, transfer)
    core = core if anchors else _as_measured(core, target, chosen, model)

    def over_threads(what: Workload) -> tuple[_Situation, np.ndarray]:
        """Fits of one thread and of more may not contradict each other, nor may clocks: more are never slower.

        Nor is int8 slower than float32 where the core has dot products. What was measured with so many threads stands.
        """
        first = used if any(one.says_of(chosen, used, what.dtype) for one in anchors) else 1
        cases = [_Situation(target, chosen, core, n, model, what, anchors) for n in range(first, used + 1)]
        limits = cases
        if precision in ("int8-dot", "int8-i8mm") and not anchors:
            wide = as_dtype(what, "float32")
            limits = cases + [_Situation(target, chosen, core, n, model, wide, ()) for n in range(1, used + 1)]
        times = cases[-1].by_op
        return cases[-1], times * min(1.0, min(float(other.by_op.sum()) for other in limits) / float(times.sum()))

    case, by_op = over_threads(work)
    dense_by_op = by_op if dense == work else over_threads(dense)[1]
    interval = _interval(by_op, math.hypot(case.error, model.little_too if used < threads and case.threaded else 0.0))
    if anchors and basis is not None:
        free = _Situation(target, chosen, _as_measured(core, target, chosen, model), used, model, work, ())
        without = _interval(free.by_op, free.error)
        axis = scale((interval.middle,), "ms")  # as the estimate is told
        low, high = axis.number(without.low), axis.number(without.high)
        moved = interval.middle / without.middle
        doubt = "" if 1 / UNLIKELY < moved < UNLIKELY else ": no device is that far off, is it in milliseconds?"
        notes.append(
            f"without the anchor: {axis.text(without.middle)} ({low} to {high}); "
            f"the anchor moves it by {moved - 1:+.0%}{doubt}"
        )
    basis = replace(basis or Basis("anchored", 0, 0), expected_error=case.typical)
    basis = replace(basis, origin="anchored") if anchors else basis
    notes += case.notes
    return _answer(loaded, target, chosen.name, work, interval, "", by_op, notes, transfer, basis, dense_by_op)


def estimates(question: Question) -> list[Estimate]:
    """What the cost model says of every file on every device."""
    runtime, threads, anchor = question.runtime, question.threads, question.anchor
    return [simulate(f, device, runtime=runtime, threads=threads, anchor=anchor) for f, device in question.pairs]


def _interval(by_op: np.ndarray, error: float) -> Interval:
    total, spread = float(by_op.sum()), math.exp(error)
    return Interval(total / spread, total, total * spread, COVERAGE)


def _sparse(work: Workload, found: SparseLint, runtime: Runtime, core: Core) -> tuple[Workload, list[str]]:
    """Mark what runs sparse, and say why nothing does where zeros are plenty."""
    zeros = sum(op.weights - op.nonzero for op in work.ops)
    share = zeros / max(1, sum(op.weights for op in work.ops))
    if runtime.sparse and runtime.family in SPARSE_FAMILIES and found.runs_sparse:
        notes = ["an in-order core: sparse kernels can be slower than dense ones here"] if core.in_order else []
        if core.in_order and core.calibrated_as not in SPARSE_IN_ORDER:
            notes.append(f"no evidence of what sparse kernels take on {core.name}: taken as on the A53")
        return with_sparse(work, frozenset(found.sparse_ops)), notes
    if share < 0.3:
        return work, []
    if runtime.sparse and found.findings:
        first = found.findings[0]
        return work, [f"runs dense: {first.op}: {first.message} — {first.fix}"]
    return work, [f"runs dense: {runtime.name} has no sparse kernels; zeros save bytes here, not time"]


def _threads(threads: int, target: Target, runtime: Runtime, core: Core) -> tuple[int, list[str]]:
    """How many threads count, and a note where that is not what was asked for."""
    if runtime.family in OWN_FAMILIES:
        note = f"{runtime.name} brings threads of its own: {threads} threads change nothing here"
        return 1, [note] if threads > 1 else []
    alike = max(1, target.alike(core))
    if threads <= alike:
        return threads, []
    return alike, [
        f"{threads} threads count as {alike}: {target.device} has {alike} cores of the kind that runs "
        f"{runtime.name}, and work spread over big and little cores waits for the little ones"
    ]


def _not_estimable(work: Workload, runtime: Runtime, core: Core, classes: Mapping[str, str]) -> str:
    if runtime.family == "paddle-lite-armv7" and not core.aarch32:
        return f"a 32-bit build does not run on {core.name}, which has no 32-bit instructions"
    if runtime.family in ACCELERATOR_FAMILIES and work.dtype in ("int8", "uint8"):
        return f"no number for int8 on {runtime.core}: published latencies there do not follow the work"
    if not work.ops:
        return "the file holds no operator that costs time"
    loops = sorted({kind for kind in work.unknown if classes.get(kind) == "loop"})
    if loops:
        return f"how often the inside of {', '.join(loops)} runs is not written in the file"
    blind = sorted({kind for kind in work.unknown if classes.get(kind) in ARITHMETIC})
    if blind:
        return f"the file does not say what shapes {', '.join(blind)} reads and writes"
    unknown = [op for op in work.ops if op.op_class == "unknown"]
    kinds = ", ".join(sorted(set(work.unknown)))
    if {classes.get(kind) for kind in work.unknown} == {"recurrence"}:
        kinds += " (no publication says what a recurrence takes)"
    moved = sum(op.activation_bytes for op in unknown) / max(1, sum(op.activation_bytes for op in work.ops))
    if moved > UNKNOWN_SHARE:
        return f"operators of unknown cost move {moved:.0%} of the activations: {kinds}"
    multiplied = sum(op.macs for op in unknown) / max(1, work.macs)
    if multiplied > UNKNOWN_SHARE:  # a recurrence moves little and computes much
        return f"operators of unknown cost do {multiplied:.0%} of the multiplications: {kinds}"
    return ""


def _as_measured(core: Core, target: Target, runtime: Runtime, model: Coefficients) -> Core:
    """At the clock of the publication that calibrated it, where that is known and another (overclocked boards)."""
    prefix = f"{runtime.family}|{target.measured_as}|{core.calibrated_as}|"
    clocks = [ghz for name, ghz in model.clocks.items() if target.measured_as and name.startswith(prefix)]
    return replace(core, ghz=sum(clocks) / len(clocks)) if clocks else core


class _Situation:
    """What one work takes on one runtime of one device with so many threads, and the error to expect."""

    def __init__(
        self,
        target: Target,
        runtime: Runtime,
        core: Core,
        threads: int,
        model: Coefficients,
        work: Workload,
        anchors: Sequence[Anchor],
    ) -> None:
        core = target.using(core, threads) if core.kind == "cpu" else core
        precision = precision_of(work.dtype, core)
        kind = kind_of(runtime.family, precision, threads)
        device = target.measured_as
        effects = effects_of(kind, runtime.family, core, device, "", precision, threads)
        prefix = f"{kind}/{runtime.family}|{device}|{core.calibrated_as}|"
        groups = [name for level, name in model.effects if level == "group" and name.startswith(prefix)]
        groups = groups if device else []
        if groups and not anchors:
            spread: list[Effect] = [("group", name, 1 / len(groups)) for name in groups]
            effects = [effect for effect in effects if effect[0] != "group"] + spread
        log_cost, uncertain = model.log_cost(effects), covariance(effects, model.levels[kind], model.known)
        penalty, penalty_spread = model.sparse_penalty_of(runtime.family, core)
        if anchors:
            log_cost, uncertain = anchored(effects, anchors, target, work.dtype, model)
        times = at_peak(work, runtime.family, core, penalty) * np.exp(log_cost)
        self.by_op = times.sum(1)
        measured = model.models.get(work.name)
        new_model = measured is None or abs(measured - work.macs) > 0.01 * measured
        if groups:
            cell = "model" if new_model else "same"
            clock = f" at {core.ghz:.3g} GHz" if core.kind == "cpu" else ""
            says = f"calibrated on published measurements of {device} with {runtime.family}{clock}"
        else:
            near = any(one.says_of(runtime, threads, work.dtype) for one in anchors)
            cell = ("both" if new_model else "device") + ("+anchor" if near else "")
            says = f"no published measurement of this device with {runtime.family}: from specifications"
        if anchors:
            says += f", anchored by {', '.join(map(str, anchors))}"
        where = situation(runtime.family, precision, threads)
        half = model.of_cell(model.error, kind, cell, where)
        total = float(times.sum())
        sparse = sum(float(ms) for op, ms in zip(work.ops, self.by_op, strict=True) if op.sparse) / total
        dense_error = half * expected_spread(uncertain, times.sum(0) / total, model.noise)
        self.error = math.hypot(dense_error, NINE_IN_TEN * sparse * penalty_spread)
        self.typical: float | None = model.of_cell(model.typical, kind, cell, where)
        if ("family", f"{kind}/{runtime.family}") not in model.effects:
            self.error = max(self.error, UNKNOWN_FAMILY)
            says += f"; {runtime.family} itself was never measured"
        if core.isa != PUBLISHED_ISA:  # nothing there could check a width, nor an error
            self.error, self.typical = max(self.error, UNKNOWN_FAMILY), None
            says += f"; no publication speaks of {core.name}"
        self.notes = [says]
        self.threaded = runtime.family not in OWN_FAMILIES


def _answer(
    loaded: Loaded,
    target: Target,
    runtime: str,
    work: Workload,
    interval: Interval | None,
    reason: str,
    by_op: Sequence[float] | np.ndarray,
    notes: Sequence[str],
    transfer: bool,
    basis: Basis | None = None,
    dense_by_op: Sequence[float] | np.ndarray = (),
) -> Estimate:
    contents = loaded.contents
    gzip_bytes, brotli_bytes = estimated_transfer_bytes(loaded.path) if contents and transfer else (0, 0)
    ops = tuple(
        OpEstimate(
            name=op.name, op_class=op.op_class, macs=op.macs, executed_macs=op.executed_macs,
            weight_bytes=op.resident_bytes, activation_bytes=op.activation_bytes,
            latency_ms=float(by_op[index]) if len(by_op) else None, runs_sparse=op.sparse, layer=op.layer or op.name,
            dense_latency_ms=float(dense_by_op[index]) if len(dense_by_op) else None,
        )
        for index, op in enumerate(work.ops)
    )  # fmt: skip
    return Estimate(
        artifact=loaded.path, format=loaded.format, target=target.name, runtime=runtime, latency_ms=interval,
        reason=reason, size_bytes=contents.size_bytes if contents else sum(op.stored_bytes for op in work.ops),
        gzip_bytes=gzip_bytes, brotli_bytes=brotli_bytes, resident_weight_bytes=work.resident_bytes,
        peak_activation_bytes=work.peak_activation_bytes, macs=work.macs, executed_macs=work.executed_macs, ops=ops,
        notes=tuple(notes), basis=basis, dense_latency_ms=float(sum(dense_by_op)) if len(dense_by_op) else None,
    )  # fmt: skip


def _taken(loaded: Loaded, answer: Estimate) -> Estimate:
    """With what a tool would not run as it is meant, the way out of that, and what else is to be told of it."""
    if loaded.contents is None or loaded.format != tools.FORMAT:
        return answer
    from idp_deploy.formats.onnx.tools import lint  # which brings onnx with it

    found = lint(loaded.path, answer.runtime)
    if not found.findings:
        return answer
    worst = found.findings[0]
    text = f"{found.title} {found.version}: {found.verdict}: {worst.op}: {worst.message}"
    told = replace(answer, notes=(*answer.notes, f"{text} — {worst.fix}"))
    return replace(told, unfit=text, way_out=worst.fix) if found.verdict in tools.UNFIT else told
