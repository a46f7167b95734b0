"""The pictures of reports, made from what the stages return: each is drawn by HTML and PNG alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from idp_deploy.flow import Check, Estimate, FileFacts, FormatName, Parity
from idp_deploy.formats.layer_names import key_of
from idp_deploy.rendering.document import Bar, Chart, Journey, Picture, Step, Table
from idp_deploy.units import METRICS, scale, show

WITHOUT_WEIGHTS = "without weights"
_FAR = 2.0  # times its limit: what lies beyond is cut, it would flatten every other bar


def report_pictures(
    files: Sequence[FileFacts],
    estimates: Sequence[Estimate],
    checks: Sequence[Check] = (),
    parities: Sequence[Parity] = (),
    facts: Mapping[str, Any] | None = None,
) -> list[Picture]:
    """Everything that can be drawn of some files on some targets, the most telling first."""
    limits = {(c.budget.target, c.budget.format): c.budget.limit for c in checks if c.budget.metric == "latency"}
    return [
        *([journey(files, estimates, parities, facts or {})] if files else []),
        budget_chart(checks, estimates),
        latency_chart(estimates, limits),
        size_chart(files),
        *layer_charts(files, estimates),
    ]


def journey(
    files: Sequence[FileFacts], estimates: Sequence[Estimate], parities: Sequence[Parity], facts: Mapping[str, Any]
) -> Journey:
    """From the dense model to each shipped file: accuracy, zeros, size, proof and time."""
    stages = []
    left = facts.get("parameters", 0)
    whole = facts.get("dense_parameters", left)
    for stage, value in facts.get("accuracy", {}).items():
        said = [f"{facts['metric']} {show(value, 'share')}"]
        if stage == "dense":
            said.append(f"{whole:,} parameters" if whole else "")
        if stage == "hardened":
            said.append(f"{show(facts['zeros'] / max(facts['prunable'], 1), 'share')} zeros")
            said.append(f"{left:,} parameters left" if left != whole else "")
        stages.append(Step({"hardened": "pruned"}.get(stage, stage), [fact for fact in said if fact]))
    largest = max(one.dense_bytes for one in files)
    names = told_apart((one.format, one.path) for one in files)
    if not stages:
        dense = max(files, key=lambda one: one.dense_bytes)
        whose = [names[dense.path]] if names[dense.path] else []
        stages = [Step("stored dense", [*whose, show(dense.dense_bytes, "bytes")], dense.dense_bytes / largest)]
        stages.append(Step("zeros", [*whose, f"{show(dense.sparsity, 'share')} of {dense.prunable:,} prunable"]))
    proofs = {parity.artifact.path: parity for parity in parities}
    shown = {one.path for one in files}
    axis = scale([e.latency_ms.middle for e in estimates if e.latency_ms and e.artifact in shown], "ms")
    ends = []
    for one in files:
        said = [f"{show(one.size_bytes, 'bytes')} of {show(one.dense_bytes, 'bytes')} dense"]
        proof = proofs.get(one.path)
        if proof is not None:
            proved = sum(weight.passed for weight in proof.weights)
            said.append(f"{proved} of {len(proof.weights)} weights proved" if proof.passed else "FAILED verification")
        for e in estimates:
            if e.artifact == one.path and e.latency_ms:
                sparse = "sparse" if any(op.runs_sparse for op in e.ops) else "dense"
                said.append(f"{axis.text(e.latency_ms.middle)} on {e.target}, runs {sparse}")
        state = "bad" if proof is not None and not proof.passed else ""
        ends.append(Step(names[one.path] or one.format, said, one.size_bytes / largest, state))  # type: ignore[arg-type]
    return Journey("From dense to shipped", stages, ends)


def told_apart(files: Iterable[tuple[str, Path]]) -> dict[Path, str]:
    """Path → its name where there are several files of its format, the whole path where names are alike; else "".

    >>> list(told_apart([("onnx", Path("a.onnx")), ("onnx", Path("b.onnx")), ("tflite", Path("a.tflite"))]).values())
    ['a.onnx', 'b.onnx', '']
    """
    of: dict[str, list[Path]] = {}
    for format, path in dict.fromkeys(files):
        of.setdefault(format, []).append(path)
    found: dict[Path, str] = {}
    for paths in of.values():
        alike = len({path.name for path in paths}) < len(paths)
        found |= {path: "" if len(paths) == 1 else path.as_posix() if alike else path.name for path in paths}
    return found


def budget_chart(checks: Sequence[Check], estimates: Sequence[Estimate]) -> Chart:
    """Every budget as a share of its limit, so that all of them have one axis."""
    spans = {(e.artifact, e.target): e.latency_ms for e in estimates}
    names = told_apart((c.budget.format, c.artifact) for c in checks)
    rows, bars = [], []
    for check in checks:
        budget, metric = check.budget, METRICS[check.budget.metric]
        rows.append(" ".join(filter(None, (budget.target, budget.format, names[check.artifact], budget.metric))))
        if check.value is None or not budget.limit:
            bars.append(Bar(None, state="bad", text=check.verdict))
            continue
        span = spans.get((check.artifact, budget.target)) if budget.metric == "latency" else None
        low, high = (span.low / budget.limit, span.high / budget.limit) if span else (None, None)
        relation = "≥" if metric.at_least else "≤"
        bars.append(
            Bar(
                check.value / budget.limit,
                low,
                high,
                limit=1.0,
                state="good" if check.verdict == "pass" else "bad",
                text=f"{show(check.value, metric.unit)} {relation} {show(budget.limit, metric.unit)}"
                if check.verdict == "pass"
                else f"{show(check.value, metric.unit)}, wanted {relation} {show(budget.limit, metric.unit)}",
            )
        )
    note = "The mark is the limit, the whisker the 90 % interval of a latency; longer bars are cut at twice the limit."
    return Chart("Budgets, as a share of the limit", "share", rows, {"of the limit": bars}, "budget", "", note, _FAR)


def latency_chart(estimates: Sequence[Estimate], limits: Mapping[tuple[str, FormatName], float] | None = None) -> Chart:
    """Simulated time of a file on a target beside that of the same file without its zeros."""
    limits = limits or {}
    timed = [e for e in estimates if e.latency_ms]
    several = len({e.artifact for e in timed}) > len({e.format for e in timed})
    bars = []
    for e in timed:
        span, limit = e.latency_ms, limits.get((e.target, e.format))
        assert span is not None
        bars.append(
            Bar(
                span.middle,
                span.low,
                span.high,
                limit if limit is not None and limit <= _FAR * span.high else None,
                e.dense_latency_ms,
                any(op.runs_sparse for op in e.ops),
                "bad" if limit is not None and span.middle > limit else "",
            )
        )
    rows = [f"{e.target} {e.format}" + (f" {e.artifact.name}" if several else "") for e in timed]
    note = "The whisker is the 90 % interval. Behind each bar: the same file without its zeros."
    return Chart("Latency, simulated", "ms", rows, {"latency": bars}, "target", "dense", note)


def size_chart(files: Sequence[FileFacts]) -> Chart:
    """What each file takes beside what it would take dense, and the least it could."""
    stored = [Bar(float(one.size_bytes), beside=float(one.dense_bytes)) for one in files]
    bound = [Bar(one.bound_bytes, beside=float(one.dense_bytes)) for one in files]
    note = "No lossless code of zeros at random positions is smaller than the bound on average."
    rows = [one.path.name for one in files]
    return Chart("Size against the bound", "bytes", rows, {"stored": stored, "bound": bound}, "file", "dense", note)


def layer_charts(files: Sequence[FileFacts], estimates: Sequence[Estimate]) -> list[Picture]:
    """Zeros, bytes and time, a bar a layer; formats and targets of one layer side by side."""
    named = _by_layer(files)
    rows = list(dict.fromkeys(name for _, layers in named for name in layers))
    charts: list[Picture] = []
    if rows:
        zeros = {
            label: [
                Bar(found.zeros / max(found.entries, 1)) if (found := layers.get(row)) else Bar(None) for row in rows
            ]
            for label, layers in named
        }
        if len({tuple(bar.value for bar in bars) for bars in zeros.values()}) == 1:
            zeros = {"zeros": next(iter(zeros.values()))}  # the same in every format
        bytes_ = {
            label: [
                Bar(float(found.size_bytes), beside=float(found.dense_bytes))
                if (found := layers.get(row))
                else Bar(None)
                for row in rows
            ]
            for label, layers in named
        }
        charts = [
            Chart("Zeros of each layer", "share", rows, zeros, "layer", least=1.0),
            Chart("Bytes of each layer", "bytes", rows, bytes_, "layer", "dense"),
        ]
    timed = [e for e in estimates if e.latency_ms and e.ops]
    if timed:
        charts.append(layer_times(timed, rows))
    return charts


def layer_times(estimates: Sequence[Estimate], first: Sequence[str] = ()) -> Chart:
    """Time of each layer on every target; operators without weights are one row, at the end."""
    times = [_times(e) for e in estimates]
    spelled = one_spelling([first, *times])
    times = [{spelled[name]: bar for name, bar in found.items()} for found in times]
    named = {row for found in times for row in found}
    rows = [row for row in dict.fromkeys([*first, *(r for found in times for r in found)]) if row in named]
    rows = [row for row in rows if row != WITHOUT_WEIGHTS] + [WITHOUT_WEIGHTS] * (WITHOUT_WEIGHTS in named)
    names = labels((e.artifact.name, f"{e.target} {e.format}") for e in estimates)
    series = {label: [found.get(row, Bar(None)) for row in rows] for label, found in zip(names, times, strict=True)}
    tones = "The other tone runs sparse. " if any(bar.sparse for bars in series.values() for bar in bars) else ""
    note = f"{tones}Behind each bar: the same layer without its zeros."
    return Chart("Time of each layer, simulated", "ms", rows, series, "layer", "dense", note)


def layer_table(chart: Chart, title: str) -> Table:
    """The same as text, in one unit; * runs sparse."""
    axis = chart.axis
    rows = [
        (label, *(axis.number(bars[i].value) + (" *" if bars[i].sparse else "  ") for bars in chart.series.values()))
        for i, label in enumerate(chart.rows)
    ]
    columns = (chart.head, *chart.series)
    return Table(f"{title}, {axis.suffix}; * runs sparse", columns, rows, frozenset(range(1, len(columns))))


def _times(estimate: Estimate) -> dict[str, Bar]:
    found: dict[str, Bar] = {}
    for op in estimate.ops:
        row = op.layer if op.weight_bytes else WITHOUT_WEIGHTS
        before = found.get(row, Bar(0.0, beside=0.0))
        found[row] = Bar(
            (before.value or 0.0) + (op.latency_ms or 0.0),
            beside=(before.beside or 0.0) + (op.dense_latency_ms or 0.0),
            sparse=before.sparse or op.runs_sparse,
        )
    return found


def _by_layer(files: Sequence[FileFacts]) -> list[tuple[str, dict[str, Any]]]:
    names = labels((one.path.name, one.format) for one in files)
    spelled = one_spelling([[layer.name for layer in one.layers] for one in files])
    layers = [{spelled[layer.name]: layer for layer in one.layers} for one in files]
    return list(zip(names, layers, strict=True))


def one_spelling(groups: Sequence[Iterable[str]]) -> dict[str, str]:
    """How each layer of several files is called: where formats cannot keep the dots, as where most stand.

    Names that one file tells apart are never put together.

    >>> one_spelling([["enc.table", "a.b", "a_b"], ["enc_table", "a_b"]])
    {'enc.table': 'enc.table', 'a.b': 'a.b', 'a_b': 'a_b', 'enc_table': 'enc.table'}
    """
    files = [list(dict.fromkeys(names)) for names in groups]
    every = list(dict.fromkeys(name for names in files for name in names))
    apart = {key for names in files for key, count in Counter(map(key_of, names)).items() if count > 1}
    best = {key_of(name): name for name in sorted(every, key=lambda name: name.count("."))}
    return {name: name if (key := key_of(name)) in apart else best[key] for name in every}


def labels(named: Iterable[tuple[str, str]]) -> list[str]:
    """The short name of each, with the file's where two share one."""
    pairs = list(named)
    shorts = [short for _, short in pairs]
    wanted = [short if shorts.count(short) == 1 else f"{short} {name}" for name, short in pairs]
    return [label if wanted.count(label) == 1 else f"{label} {i + 1}" for i, label in enumerate(wanted)]
