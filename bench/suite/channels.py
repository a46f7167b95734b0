"""Whole channels of small nets: idp behind norms and without gates, gradual and one-shot pruning, straight-through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.suite.running import Run, known

# the first two for choosing, the others judge
TASKS = (
    "glyphs-trained", "digits-convolutions",
    "gratings-trained", "shapes-residual", "digits-plain", "outlines-plain", "colour-trained", "glyphs-convolutions",
)  # fmt: skip
CHANNEL = {"pattern": "channel"}
WAYS: Sequence[tuple[str, Mapping[str, Any]]] = (
    ("idp", CHANNEL),
    ("idp", {**CHANNEL, "gates": False}),
    ("gmp", CHANNEL),
    ("l1-channel", CHANNEL),
    ("topk-ste", CHANNEL),
)
SPARSITIES = (0.5, 0.8)


def runs(seeds: Sequence[int]) -> list[Run]:
    """Every way on every task."""
    return [
        Run.of(task, method, share, seed + 100 * (task in TASKS[:2]), how)
        for task in TASKS
        for share in SPARSITIES
        for seed in seeds
        for method, how in WAYS
    ]


def table() -> str:
    """Scores with exact zeros in per cent, seed by seed."""
    heads = ("idp", "idp, `gates=false`", "gmp", "l1-channel", "topk-ste")
    lines = ["| task | zeros | " + " | ".join(heads) + " |", "| --- | ---: |" + " ---: |" * len(heads)]
    for task in TASKS:
        have = known(task)
        for share in SPARSITIES:
            cells = []
            for method, how in WAYS:
                like = Run.of(task, method, share, 0, how)
                mine = {run.seed: score for run, score in have.items() if (run.method, run.sparsity) == (method, share)
                        and run.settings == like.settings}  # fmt: skip
                cells.append("/".join(f"{100 * mine[seed]:.1f}" for seed in sorted(mine)))
            lines.append(f"| `{task}` | {share:.0%} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
