"""Which way to prune a device rewarded: what was expected of it before training, and what was reached."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from idp_deploy.rendering.document import Document, Table
from idp_deploy.units import METRICS, show

if TYPE_CHECKING:
    from idp_deploy.planning import Choice, Figures


def with_choice(document: Document, choice: Choice, reached: Figures) -> Document:
    """`document` of a pruned model with a row for every figure, and a note for every way that was not taken."""
    limits = {(budget.format, budget.metric): budget.limit for budget in choice.budgets}
    rows = []
    for key in dict.fromkeys([*choice.way.figures, *reached]):
        format, metric = key
        values = (limits.get(key), choice.way.figures.get(key), reached.get(key))
        rows.append((f"{format} {metric}", *(show(value, METRICS[metric].unit) for value in values)))
    device = choice.prices.target.name
    table = Table(
        f"{device}, by {choice.said_by}", ("what", "limit", "expected", "reached"), rows, frozenset({1, 2, 3})
    )
    facts = {
        "target": device,
        "said_by": choice.said_by,
        "pattern": choice.way.recipe.pattern,
        "sparsity": choice.way.recipe.sparsity,
        "expected": {" ".join(key): value for key, value in choice.way.figures.items()},
        "reached": {" ".join(key): value for key, value in reached.items()},
    }
    notes = [f"chosen: {choice.way}", *(f"not chosen: {way}" for way in choice.others)]
    data = {**document.data, "choice": facts}
    return replace(document, tables=[*document.tables, table], data=data, notes=[*document.notes, *notes])
