"""How sparse must a model be to fit a device? Answered before training, from files pruned by magnitude.

Size and simulated latency depend on where the zeros are, hardly on what the other weights hold; so a one-shot pruned
copy of the model, exported and simulated, tells what the trained one will cost. Converters see the dense model, once;
what the candidates differ in is what their files store.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from idp_deploy.errors import UsageError
from idp_deploy.exporting import Conversion, convert, store
from idp_deploy.flow import Budget, CompressedModel, FormatName, Model, Recipe, Report
from idp_deploy.formats import FORMATS
from idp_deploy.gating import Evidence, gate
from idp_deploy.pruning import one_shot
from idp_deploy.reading import read
from idp_deploy.shrinking import shrink_as_asked
from idp_deploy.simulation import simulate
from idp_deploy.simulation.targets import Target

CANDIDATES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98)
PREDICTABLE = ("size", "gzip", "brotli", "latency", "memory", "sparsity")


def sparsity_for(
    model: Model,
    example_inputs: tuple[Any, ...],
    recipe: Recipe,
    target: Target,
    budgets: Sequence[Budget],
    *,
    announce: Callable[[str], None] = lambda _: None,
) -> float:
    """The smallest candidate sparsity at which every predictable budget of `target` holds.

    Bisects CANDIDATES: more zeros never make a file larger or an estimate slower.

    Raises:
        UsageError: the target has no budget, or none of the candidates meets them; the message names the metric.
    """
    mine = [b for b in budgets if b.target == target.name and b.metric in PREDICTABLE]
    if not mine:
        raise UsageError(
            f"there is no budget for {target.name}, so nothing says how sparse is enough",
            way_out=f'configure one under [tool.idp-deploy.budgets.{target.name}.tflite], such as size = "1 MB"',
        )
    low, high = 0, len(CANDIDATES) - 1
    candidates = _Candidates(model, example_inputs, mine, target)
    last = candidates.report(replace(recipe, sparsity=CANDIDATES[high]))
    if not last.passed:
        broken = next(check for check in last.checks if check.verdict != "pass")
        raise UsageError(
            f"even at {CANDIDATES[high]:.0%} zeros {target.name} misses its {broken.budget.metric} budget "
            f"({broken.value} against {broken.budget.limit}); {broken.detail}",
            way_out=broken.fix or "loosen the budget, quantize, or use a smaller model",
        )
    while low < high:
        middle = (low + high) // 2
        passed = candidates.report(replace(recipe, sparsity=CANDIDATES[middle])).passed
        announce(f"{CANDIDATES[middle]:.1%} zeros: {'within' if passed else 'over'} the budgets of {target.name}")
        low, high = (low, middle) if passed else (middle + 1, high)
    return CANDIDATES[high]


class _Candidates:
    """Files of one model at any sparsity, without waiting for a converter each time."""

    def __init__(
        self, model: Model, example_inputs: tuple[Any, ...], budgets: Sequence[Budget], target: Target
    ) -> None:
        self.model, self.example_inputs, self.budgets, self.target = model, example_inputs, budgets, target
        self.converted: dict[FormatName, Conversion] = {}

    def report(self, recipe: Recipe) -> Report:
        """What the budgets say of the model pruned by magnitude."""
        pruned = one_shot(self.model, recipe, self.example_inputs)
        compressed, _ = shrink_as_asked(pruned, self.example_inputs)
        evidence = []
        with tempfile.TemporaryDirectory() as folder:
            for format in dict.fromkeys(budget.format for budget in self.budgets):
                path = Path(folder) / f"model{FORMATS[format].suffix}"
                # not run: the file that ships will be, and how many bytes it has is known without
                conversion = self._conversion(format, compressed, is_whole=compressed is pruned)
                store(conversion, path, compressed, proved=False)
                contents = read(path)
                evidence.append(Evidence(contents, simulate(contents, self.target, transfer=False)))
            return gate(self.budgets, evidence)

    def _conversion(self, format: FormatName, compressed: CompressedModel, *, is_whole: bool) -> Conversion:
        """One that holds `compressed`: the dense model's, unless channels were removed or a converter hid a weight."""
        if is_whole and format not in self.converted:
            kept = {name: torch.ones_like(mask) for name, mask in compressed.masks.items()}
            dense = CompressedModel(self.model.module, kept)
            self.converted[format] = convert(dense, format, self.example_inputs)
        if is_whole and self.converted[format].holds(compressed):
            return self.converted[format]
        return convert(compressed, format, self.example_inputs)
