"""What the runs say: a table a problem, and a picture of idp's lead with its intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from bench.accuracy.methods import CONTENDERS
from bench.accuracy.problems import PROBLEMS
from bench.accuracy.running import RESULTS, Trial, known
from idp_deploy.pruning.comparing import Difference, Run, difference

Setting = tuple[float, str]  # sparsity and allocation
BEST = "the best for each"  # beside the allocations themselves
REACH = 12  # points that the plot shows; the random control is far outside, what is close counts


def report() -> str:
    """Tables in Markdown; also written beside the runs, with a plot a problem."""
    parts = []
    for problem in PROBLEMS:
        trials = known(problem)
        if trials:
            parts.append(tables(problem, trials))
            if any(_explored(trials).values()):
                parts.append(variants(trials))
            draw(problem, trials, RESULTS / f"{problem}.png")
    text = "\n\n".join(parts) + "\n"
    (RESULTS / "report.md").write_text(text)
    return text


def tables(problem: str, trials: dict[Trial, float]) -> str:
    """A table for every sparsity and allocation of one problem."""
    given = PROBLEMS[problem]
    dense = {trial.seed: value for trial, value in trials.items() if trial.method == "dense"}
    lines = [f"## {problem}: {given.epochs} epochs" + (f" after {given.trained} dense ones" if given.trained else "")]
    if dense:
        lines += ["", f"Dense, the same epochs: {_mean(dense.values()):.2f} % over {len(dense)} seeds."]
    for (sparsity, allocation), runs in _by_setting(trials).items():
        lines += [
            "",
            f"{sparsity:.1%} zeros, allocation {allocation}",
            "",
            "| method | hardened accuracy | seeds | idp − method, 95 % interval | reads as |",
            "| --- | --- | --- | --- | --- |",
        ]
        for method in CONTENDERS:
            scores = [run.accuracy for run in runs if run.method == method]
            if scores:
                lead = difference(runs, "idp", method, sparsity) if method != "idp" else None
                lines.append(f"| {method} | {_mean(scores):.2f} % | {len(scores)} | {_words(lead)} |")
        lines += _against_dense(runs, dense, sparsity)
    return "\n".join(lines)


def variants(trials: dict[Trial, float]) -> str:
    """What was tried with idp on the seeds of tuning: means a variant, over the seeds that all of them have."""
    lines = ["Variants of idp on seeds kept for that; not judged"]
    for (sparsity, allocation), runs in _explored(trials).items():
        lines += ["", f"{sparsity:.1%} zeros, allocation {allocation}", ""]
        lines += ["| method and settings | hardened accuracy | seeds |", "| --- | --- | --- |"]
        for label, scores in sorted(runs.items(), key=lambda row: -_mean(row[1])):
            lines.append(f"| {label} | {_mean(scores):.2f} % | {len(scores)} |")
    return "\n".join(lines)


def draw(problem: str, trials: dict[Trial, float], file: Path) -> None:
    """idp minus each other method, with 95 % intervals; right of zero idp is ahead."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    settings = _by_setting(trials)
    names = [name for name in CONTENDERS if name != "idp"]
    columns, rows = (sorted({setting[i] for setting in settings}) for i in (0, 1))
    figure, axes = plt.subplots(len(rows), len(columns), figsize=(5 * len(columns), 3.2 * len(rows)), squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    for (sparsity, allocation), runs in settings.items():
        axis = axes[rows.index(allocation)][columns.index(sparsity)]
        axis.set_visible(True)
        leads = {name: difference(runs, "idp", name, sparsity) for name in names}
        shown = [(name, lead) for name, lead in leads.items() if lead is not None]
        for row, (_, lead) in enumerate(shown):
            low, middle, high = (100 * x for x in (lead.interval.low, lead.interval.middle, lead.interval.high))
            axis.plot([low, high], [row, row], color="#4477aa", linewidth=2)
            axis.plot([middle], [row], "o", color="#4477aa")
            if abs(middle) > REACH:
                axis.text(
                    0.97 if middle > 0 else 0.03,
                    row,
                    f"{middle:+.1f}",
                    transform=axis.get_yaxis_transform(),
                    ha="right" if middle > 0 else "left",
                    va="center",
                )
        axis.axvline(0, color="#888888", linewidth=1)
        axis.set_yticks(range(len(shown)), [name for name, _ in shown])
        axis.invert_yaxis()
        axis.set_xlim(-REACH, REACH)
        axis.set_xlabel("idp minus method, points of accuracy")
        axis.set_title(f"{problem}, {sparsity:.1%} zeros, {allocation}", fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _explored(trials: dict[Trial, float]) -> dict[Setting, dict[str, list[float]]]:
    """Accuracies on more than one tuning seed, by method with settings."""
    found: dict[Setting, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial, value in trials.items():
        if not trial.judged and trial.method in ("idp", "topk-ste"):
            found[trial.sparsity, trial.allocation][f"{trial.method} `{trial.settings}`"].append(value)
    several = {
        setting: {label: scores for label, scores in runs.items() if len(scores) > 1} for setting, runs in found.items()
    }
    return {setting: runs for setting, runs in several.items() if runs}


def _best(settings: dict[Setting, list[Run]]) -> dict[Setting, list[Run]]:
    """Where a sparsity was run under several allocations: every method under the one that suits it best."""
    found: dict[Setting, list[Run]] = {}
    for sparsity in {sparsity for sparsity, _ in settings}:
        allocations = {name: runs for (share, name), runs in settings.items() if share == sparsity}
        if len(allocations) < 2:
            continue
        best: dict[str, list[Run]] = {}
        for runs in allocations.values():
            for method in {run.method for run in runs}:
                mine = [run for run in runs if run.method == method]
                best[method] = max(best.get(method, []), mine, key=lambda runs: (len(runs), _mean_of(runs)))
        found[sparsity, BEST] = [run for runs in best.values() for run in runs]
    return found


def _by_setting(trials: dict[Trial, float]) -> dict[Setting, list[Run]]:
    """Judged runs; where a method was run with more than one choice of settings the last line counts."""
    found: dict[Setting, dict[tuple[str, int], Run]] = defaultdict(dict)
    for trial, value in trials.items():
        if trial.judged and trial.method != "dense":
            run = Run(trial.method, trial.sparsity, trial.seed, value, trial.sparsity)
            found[trial.sparsity, trial.allocation][trial.method, trial.seed] = run
    settings = {setting: list(runs.values()) for setting, runs in found.items()}
    return settings | _best(settings)


def _against_dense(runs: list[Run], dense: dict[int, float], sparsity: float) -> list[str]:
    """What idp and gmp lose to the dense net, and whether the task can tell methods apart at all."""
    with_dense = [*runs, *(Run("dense", sparsity, seed, value, 0.0) for seed, value in dense.items())]
    cost, gap = (difference(with_dense, "dense", name, sparsity) for name in ("idp", "gmp"))
    lines = [f"dense − idp: {_interval(cost)}"] if cost else []
    if gap is not None:
        counts = "more" if gap.interval.low > 0 else "not more"
        lines.append(f"dense − gmp: {_interval(gap)}; {counts} than its interval")
    return ["", *lines] if lines else []


def _words(lead: Difference | None) -> str:
    return f"{_interval(lead)} | {lead.verdict}" if lead is not None else " | "


def _interval(found: Difference) -> str:
    low, middle, high = (100 * x for x in (found.interval.low, found.interval.middle, found.interval.high))
    return f"{middle:+.2f} [{low:+.2f}, {high:+.2f}]"


def _mean_of(runs: list[Run]) -> float:
    return _mean(run.accuracy for run in runs) if runs else 0.0


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return 100 * sum(numbers) / len(numbers)
