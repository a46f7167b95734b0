"""How sparse must a model be to fit a device? Answered before training, from files pruned by magnitude.

Size and latency depend on where the zeros are, hardly on what the other weights hold; so a one-shot pruned copy of the
model, exported and put to whatever answers for the device (the cost model, or its vendor's software), tells what the
trained one will cost. Where a device takes float files, converters see the dense model, once: what the candidates
differ in is what their files store. Neural processing units and microcontrollers take integers, whose scales follow
from the zeros: there each candidate is quantized and converted for itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from idp_deploy.aiming import STORED, aim
from idp_deploy.errors import UsageError
from idp_deploy.exporting import Conversion, convert, store
from idp_deploy.flow import Budget, CompressedModel, FormatName, Model, Recipe, Report
from idp_deploy.formats import FORMATS
from idp_deploy.gating import Evidence, gate
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.shrinking import shrink_as_asked
from idp_deploy.simulation import simulate
from idp_deploy.simulation.targets import Target
from idp_deploy.tasks import Task

CANDIDATES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98)
PREDICTABLE = frozenset(
    ("size", "gzip", "brotli", "latency", "memory", "sparsity", "flash", "sram", "arena", "cpu_operators")
)
INTEGERS = "int8"  # what neural processing units and microcontrollers compute

Announce = Callable[[str], None]


def sparsity_for(
    model: Model,
    example_inputs: tuple[Any, ...],
    recipe: Recipe,
    target: Target,
    budgets: Sequence[Budget],
    *,
    task: Task | None = None,
    announce: Announce = lambda _: None,
) -> float:
    """The smallest candidate sparsity at which every predictable budget of `target` holds.

    Bisects CANDIDATES: more zeros never make a file larger or an estimate slower.

    Args:
        task: gives calibration inputs where the device computes integers.

    Raises:
        UsageError: the target has no budget, or none of the candidates meets them; the message names the metric.
    """
    costs = Costs(model, example_inputs, predictable(budgets, target), target, task=task)
    found, report = least(costs, recipe, announce=announce)
    if not report.passed:
        broken = next(check for check in report.checks if check.verdict != "pass")
        raise UsageError(
            f"even at {found.sparsity:.0%} zeros {target.name} misses its {broken.budget.metric} budget "
            f"({broken.value} against {broken.budget.limit}); {broken.detail}",
            way_out=broken.fix or "loosen the budget, quantize, or use a smaller model",
        )
    return found.sparsity


def predictable(budgets: Sequence[Budget], target: Target) -> list[Budget]:
    """Those of `budgets` that a target has and a file answers before training. UsageError: there are none."""
    mine = [b for b in budgets if b.target == target.name and b.metric in PREDICTABLE]
    if not mine:
        raise UsageError(
            f"there is no budget for {target.name}, so nothing says how sparse is enough",
            way_out=f'configure one under [tool.idp-deploy.budgets.{target.name}.tflite], such as size = "1 MB"',
        )
    return mine


def least(
    costs: Costs,
    recipe: Recipe,
    candidates: Sequence[float] = CANDIDATES,
    *,
    announce: Announce = lambda _: None,
) -> tuple[Recipe, Report]:
    """The recipe with the smallest candidate sparsity whose files meet the budgets; the largest where none does."""
    low, high = 0, len(candidates) - 1
    last = replace(recipe, sparsity=candidates[high])
    report = costs.report(last)
    reports = {high: report}
    while report.passed and low < high:
        middle = (low + high) // 2
        reports[middle] = costs.report(replace(recipe, sparsity=candidates[middle]))
        met = reports[middle].passed
        verdict = "within" if met else "over"
        announce(f"{recipe.pattern}, {candidates[middle]:.1%} zeros: {verdict} the budgets of {costs.target.name}")
        low, high = (low, middle) if met else (middle + 1, high)
    return replace(recipe, sparsity=candidates[high]), reports[high]


class Costs:
    """What files of one model cost on a device, by whatever answers for it, at any sparsity and in any pattern."""

    def __init__(
        self,
        model: Model,
        example_inputs: tuple[Any, ...],
        budgets: Sequence[Budget],
        target: Target,
        *,
        scheme: str | None = None,
        task: Task | None = None,
    ) -> None:
        self.model, self.example_inputs, self.budgets, self.target = model, example_inputs, budgets, target
        small = any(runtime.family in STORED for runtime in target.runtimes)
        self.scheme, self.task = scheme or (INTEGERS if small else None), task
        formats = list(dict.fromkeys(budget.format for budget in budgets))
        self.options: Mapping[FormatName, Mapping[str, Any]] = aim(formats, [target], scheme=self.scheme).options
        self.formats = formats
        self.converted: dict[FormatName, Conversion] = {}

    def report(self, recipe: Recipe) -> Report:
        """What the budgets say of the model pruned by magnitude."""
        pruned = one_shot(self.model, recipe, self.example_inputs)
        compressed, _ = shrink_as_asked(pruned, self.example_inputs)
        return self.report_of(compressed, is_whole=compressed is pruned)

    def report_of(self, compressed: CompressedModel, *, is_whole: bool = False) -> Report:
        """What the budgets say of a pruned model, quantized if the device wants that.

        Args:
            is_whole: it is the dense one but for its zeros, so that a conversion of that may hold it.
        """
        if self.scheme and compressed.quantization is None:
            inputs = None if self.task else self.example_inputs
            compressed = quantize(compressed, self.scheme, task=self.task, example_inputs=inputs)
            is_whole = False
        evidence = []
        with tempfile.TemporaryDirectory() as folder:
            for format in self.formats:
                path = Path(folder) / f"model{FORMATS[format].suffix}"
                # not run: the file that ships will be, and how many bytes it has is known without
                conversion = self._conversion(format, compressed, is_whole=is_whole)
                store(conversion, path, compressed, proved=False)
                contents = read(path)
                evidence.append(Evidence(contents, simulate(contents, self.target, transfer=False)))
            return gate(self.budgets, evidence)

    def _conversion(self, format: FormatName, compressed: CompressedModel, *, is_whole: bool) -> Conversion:
        """One that holds `compressed`: the dense model's, unless channels were removed or a converter hid a weight."""
        more = self.options.get(format, {})
        if is_whole and format not in self.converted:
            kept = {name: torch.ones_like(mask) for name, mask in compressed.masks.items()}
            dense = CompressedModel(self.model.module, kept)
            self.converted[format] = convert(dense, format, self.example_inputs, **more)
        if is_whole and self.converted[format].holds(compressed):
            return self.converted[format]
        return convert(compressed, format, self.example_inputs, **more)
