"""What the suite says: mean ranks with their critical difference, a table, and what was tried on tuning tasks."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.suite import running
from bench.suite.running import known
from bench.suite.tasks import JUDGING, RECURRENT, STUDIED, TASKS
from idp_deploy.pruning.comparing import mean_interval

# idp until it was judged here: with AdamW, and with SGD
BEFORE: Mapping[str, object] = {"clip": False, "floor_end": 0.0, "kappa": 10.0, "rows": False}
BEFORE_SGD: Mapping[str, object] = {"rows": False}
Scores = Mapping[tuple[str, float], Mapping[str, Mapping[int, float]]]  # (task, sparsity) → method → seed → score


def report(tasks: Iterable[str] = JUDGING, name: str = "report") -> str:
    """Tables of `tasks` in Markdown; also written beside the runs, of judging tasks with the picture of ranks."""
    scores, dense = judged(tasks)
    found = sorted({method for runs in scores.values() for method in runs}, key=lambda name: (name != "idp", name))
    parts = [_table(scores, dense, found)]
    methods = [name for name in found if not name.endswith(" before")]  # no method of its own
    blocks = by_task(scores, methods)
    if len(blocks) > 1 and len(methods) > 1:
        ranks, reach, chance = critical_difference(np.array(list(blocks.values())))
        order = sorted(zip(ranks, methods, strict=True))
        parts.append(
            f"Mean rank over {len(blocks)} tasks (1 is best), Friedman p = {chance:.2g}; ranks closer than {reach:.2f} "
            "are not told apart (Nemenyi, 5 %):\n\n| method | mean rank |\n| --- | ---: |\n"
            + "\n".join(f"| `{name}` | {rank:.2f} |" for rank, name in order)
        )
        if tasks is JUDGING:
            draw(order, reach, running.RESULTS / "ranks.png")
    text = "\n\n".join(parts) + "\n"
    running.RESULTS.mkdir(parents=True, exist_ok=True)
    (running.RESULTS / f"{name}.md").write_text(text)
    return text


def recurrent() -> str:
    """The table of the recurrent tasks in Markdown, of what is there."""
    scores, dense = judged(RECURRENT)
    return _table(scores, dense, ["idp", *sorted({name for runs in scores.values() for name in runs} - {"idp"})]) + "\n"


def judged(tasks: Iterable[str] = JUDGING) -> tuple[Scores, Mapping[str, Sequence[float]]]:
    """Runs of the judging tasks as shipped, idp also as it was before, and what the dense nets score."""
    scores: dict[tuple[str, float], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    dense: dict[str, list[float]] = defaultdict(list)
    for task in tasks:
        shown = {"{}": "", json.dumps(dict(before(task)), sort_keys=True): " before"}
        for run, score in known(task).items():
            if run.method == "dense":
                dense[task].append(score)
            elif run.seed < 100 and run.settings in shown:
                scores[task, run.sparsity][run.method + shown[run.settings]][run.seed] = score
    return scores, dense


def before(task: str) -> Mapping[str, object]:
    """Options that give idp as it was on this task before its defaults were judged here."""
    return BEFORE if TASKS[task].adamw else BEFORE_SGD


def by_task(scores: Scores, methods: Sequence[str]) -> dict[str, list[float]]:
    """One row a task: the mean of every method over its sparsities and common seeds; incomplete ones fall out."""
    rows: dict[str, list[list[float]]] = defaultdict(list)
    for (task, _), runs in scores.items():
        if all(method in runs for method in methods):
            seeds = set.intersection(*(set(runs[method]) for method in methods))
            if seeds:
                rows[task].append([_mean(runs[method][seed] for seed in seeds) for method in methods])
    return {task: [_mean(column) for column in zip(*found, strict=True)] for task, found in rows.items()}


def critical_difference(scores: np.ndarray) -> tuple[list[float], float, float]:
    """Mean ranks, how far two must be apart, and the chance of such ranks among equals.

    Args:
        scores: (tasks, methods), more is better.

    Friedman's test and Nemenyi's difference q·√(k(k + 1)/6N) for k methods on N tasks, as Demšar (2006, JMLR 7) has it.

    >>> ranks, reach, chance = critical_difference(np.array([[3., 2., 1.]] * 9))
    >>> [float(rank) for rank in ranks], round(reach, 2), chance < 0.001
    ([1.0, 2.0, 3.0], 1.1, True)
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    tasks, methods = scores.shape
    ranks = rankdata(-scores, axis=1).mean(0)
    q = float(studentized_range.ppf(0.95, methods, np.inf)) / math.sqrt(2)
    chance = float(friedmanchisquare(*scores.T).pvalue) if methods > 2 else math.nan
    return list(ranks), q * math.sqrt(methods * (methods + 1) / (6 * tasks)), chance


def draw(order: Sequence[tuple[float, str]], reach: float, file: Path) -> None:
    """Mean ranks, each with a bar half the critical difference long either way: apart where bars do not overlap."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 0.4 * len(order) + 1))
    for row, (rank, name) in enumerate(order):
        colour = "#cc3311" if name == "idp" else "#4477aa"
        axis.plot([rank - reach / 2, rank + reach / 2], [row, row], color=colour, linewidth=2)
        axis.plot([rank], [row], "o", color=colour)
    axis.set_yticks(range(len(order)), [name for _, name in order])
    axis.invert_yaxis()
    axis.set_xlabel(f"mean rank, 1 is best; bars that overlap are not told apart (critical difference {reach:.2f})")
    figure.tight_layout()
    figure.savefig(file, dpi=110, metadata={"Software": None})
    plt.close(figure)


def tried(tasks: Iterable[str]) -> str:
    """Settings side by side on `tasks`: the mean score over common seeds, and the mean over tasks."""
    found: dict[str, dict[tuple[str, float], dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for task in tasks:
        for run, score in known(task).items():
            if run.method != "dense" or task in STUDIED:
                found[f"{run.method} {run.settings}"][task, run.sparsity][run.seed] = score
    cells = sorted({cell for runs in found.values() for cell in runs})
    lines = ["| settings | " + " | ".join(f"{task} {sparsity:.0%}" for task, sparsity in cells) + " | mean |"]
    lines.append("| --- |" + " ---: |" * (len(cells) + 1))
    for label, runs in found.items():
        means = [_mean(runs[cell].values()) if cell in runs else math.nan for cell in cells]
        row = " | ".join(f"{100 * value:.1f}" for value in [*means, _mean(means)])
        lines.append(f"| {label} | {row} |")
    return "\n".join(lines)


def _table(scores: Scores, dense: Mapping[str, Sequence[float]], methods: Sequence[str]) -> str:
    others = [method for method in methods if method != "idp"]
    lines = ["| task | zeros | dense | `idp` | " + " | ".join(f"idp − `{name}`" for name in others) + " |"]
    lines.append("| --- | ---: |" + " ---: |" * (len(others) + 2))
    for (task, sparsity), runs in sorted(scores.items()):
        ours = runs.get("idp", {})
        cells = [_lead(ours, runs.get(name, {})) for name in others]
        lines.append(
            f"| {task} | {sparsity:.0%} | {f'{100 * _mean(dense[task]):.1f}' if task in dense else ''} | "
            f"{100 * _mean(ours.values()):.1f} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def _lead(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """The paired difference in points, bold where its 95 % interval leaves zero out."""
    differences = [ours[seed] - theirs[seed] for seed in sorted(set(ours) & set(theirs))]
    found = mean_interval(differences)
    if found is None:
        return f"{100 * differences[0]:+.1f} (one seed)" if differences else ""
    text = f"{100 * found.middle:+.1f} ± {100 * (found.high - found.middle):.1f}"
    return f"**{text}**" if found.low > 0 or found.high < 0 else text


def _mean(values: object) -> float:
    numbers = list(values)  # type: ignore[call-overload]
    return sum(numbers) / len(numbers) if numbers else math.nan
