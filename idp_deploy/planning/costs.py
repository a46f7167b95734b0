"""What a model would cost on a device if it were pruned so: asked of a file, whoever answers for the target.

    Prices ──of(recipe)──▶ Cost: the file's size, and what the cost model or the vendor's software says of it

Costs depend on where the zeros are, hardly on what the other weights hold; so a one-shot pruned copy of the model,
exported and simulated, tells what the trained one will take. Converters see the dense model, once a format; what the
candidates differ in is what their files store. Who wants to know which pattern pays asks for `candidates`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from idp_deploy.errors import UsageError
from idp_deploy.exporting import Conversion, convert, store
from idp_deploy.flow import Budget, CompressedModel, Estimate, FormatName, Model, Recipe, Report
from idp_deploy.formats import FORMATS
from idp_deploy.gating import VALUES, Evidence, gate
from idp_deploy.masks import prunable_weights
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.shrinking import shrink_as_asked
from idp_deploy.simulation import simulate
from idp_deploy.simulation.question import Loaded, load
from idp_deploy.simulation.targets import Target
from idp_deploy.tasks import Task

PATTERNS = ("unstructured", "channel", "block:1x4", "2:4")  # what `candidates` looks at
_USUAL = Recipe()
UNREAD = ("gzip", "brotli", "error")  # metrics that take compressing or running the file: counted where they are asked


@dataclass(frozen=True)
class Shipped:
    """How the files will be written once the model is pruned: what `quantize` and `export` will be told."""

    scheme: str | None = None
    values: int | None = None  # distinct integers that an int8 weight may have
    keep_float: tuple[str, ...] = ()  # globs over weights and modules
    encoding: str = "auto"
    options: Mapping[FormatName, Mapping[str, Any]] = field(default_factory=dict)  # what one exporter alone takes


@dataclass(frozen=True, eq=False)
class Cost:
    """One file on one runtime of a device, before anything is trained. A metric that nobody can tell is left out."""

    recipe: Recipe
    format: FormatName
    metrics: Mapping[str, float]  # by the names of budgets: size, latency, memory, flash, sram, …
    estimate: Estimate  # all that was said, operator by operator
    loaded: Loaded  # the file's work, to ask about changes of it; the file itself is gone
    reason: str = ""  # why there is no latency
    channels_stay: str = ""  # why channels that are zero could not be removed

    @property
    def runtime(self) -> str:
        """Whose latency it is."""
        return self.estimate.runtime

    @property
    def latency_ms(self) -> float | None:
        """The middle of the interval, or what the vendor's software says."""
        return self.metrics.get("latency")


AS_FLOATS = Shipped()


class Prices:
    """Files of one model under any recipe, on one device.

    Args:
        formats: which files. shipped: how they are written, with `task` for the ranges of activations.
    """

    def __init__(
        self,
        model: Model,
        example_inputs: tuple[Any, ...],
        target: Target,
        formats: Sequence[FormatName],
        *,
        shipped: Shipped = AS_FLOATS,
        task: Task | None = None,
    ) -> None:
        self.model, self.example_inputs, self.target = model, example_inputs, target
        self.formats, self.shipped, self.task = tuple(formats), shipped, task
        self.options = {
            format: {"encoding": shipped.encoding, **shipped.options.get(format, {})} for format in self.formats
        }
        self._converted: dict[FormatName, Conversion] = {}

    def of(self, recipe: Recipe, *, runtime: str | None = None) -> tuple[Cost, ...]:
        """The cost of every format's file, pruned by magnitude as `recipe` says.

        Args:
            runtime: of the target; for each format its own by default.
        """
        return self.priced(recipe, (), runtime)[0]

    def report(self, recipe: Recipe, budgets: Sequence[Budget]) -> Report:
        """What the gate would say of these files."""
        return self.priced(recipe, budgets)[1]

    def priced(
        self, recipe: Recipe, budgets: Sequence[Budget], runtime: str | None = None
    ) -> tuple[tuple[Cost, ...], Report]:
        """Both at once."""
        return self._files(*self._pruned(recipe), recipe, budgets, runtime)

    def report_of(self, model: CompressedModel, budgets: Sequence[Budget]) -> Report:
        """What the gate would say of the files of a model that is pruned already."""
        smaller, stay = shrink_as_asked(model, self.example_inputs)
        return self._files(self._quantized(smaller), stay, model.recipe or Recipe(), budgets, None)[1]

    def _files(
        self, compressed: CompressedModel, stay: str, recipe: Recipe, budgets: Sequence[Budget], runtime: str | None
    ) -> tuple[tuple[Cost, ...], Report]:
        costs, evidence = [], []
        with tempfile.TemporaryDirectory() as folder:
            for format in self.formats:
                path = Path(folder) / f"model{FORMATS[format].suffix}"
                # not run: the file that ships will be, and how many bytes it has is known without
                store(self._conversion(format, compressed), path, compressed, proved=False)
                contents = read(path)
                loaded = load(contents)
                found = Evidence(contents, simulate(loaded, self.target, runtime=runtime, transfer=False))
                values = {name: value(found) for name, value in VALUES.items() if name not in UNREAD}
                metrics = {name: float(value) for name, (value, _) in values.items() if value is not None}
                costs.append(Cost(recipe, format, metrics, found.estimate, loaded, values["latency"][1], stay))
                evidence.append(found)
            return tuple(costs), gate(budgets, evidence)

    def _pruned(self, recipe: Recipe) -> tuple[CompressedModel, str]:
        """The model without the weights that the recipe takes, and why channels stay, if so."""
        if recipe.sparsity:
            compressed = one_shot(self.model, recipe, self.example_inputs)
        else:
            compressed = replace(self._dense(), recipe=recipe)
        compressed, stay = shrink_as_asked(compressed, self.example_inputs)
        return self._quantized(compressed), stay

    def _quantized(self, model: CompressedModel) -> CompressedModel:
        shipped = self.shipped
        if not shipped.scheme or model.quantization is not None:
            return model
        return quantize(
            model,
            shipped.scheme,
            task=self.task,
            example_inputs=None if self.task else self.example_inputs,
            values=shipped.values,
            keep_float=shipped.keep_float,
        )

    def _dense(self) -> CompressedModel:
        module = self.model.module
        full = {
            name: torch.ones_like(module.get_parameter(name), dtype=torch.bool) for name in prunable_weights(module)
        }
        return CompressedModel(module, full)

    def _conversion(self, format: FormatName, compressed: CompressedModel) -> Conversion:
        """One that holds `compressed`: the dense model's, unless channels were removed or a converter hid a weight."""
        if compressed.quantization is None and format not in self._converted:
            self._converted[format] = convert(self._dense(), format, self.example_inputs, **self.options[format])
        if format in self._converted and self._converted[format].holds(compressed):
            return self._converted[format]
        return convert(compressed, format, self.example_inputs, **self.options[format])


def candidates(
    prices: Prices, recipe: Recipe = _USUAL, *, share: float = 0.8, patterns: Sequence[str] = PATTERNS
) -> Mapping[str, tuple[Cost, ...] | str]:
    """Pattern → the cost of each file with that share of zeros so placed, or why the model cannot be pruned so.

    "dense" stands first, which is what the others are held against. N:M patterns take the share that they mean.
    """
    found: dict[str, tuple[Cost, ...] | str] = {"dense": prices.of(replace(recipe, sparsity=0.0))}
    for pattern in patterns:
        kept, _, of = pattern.partition(":")
        meant = 1 - int(kept) / int(of) if kept.isdigit() else share
        try:
            found[pattern] = prices.of(replace(recipe, pattern=pattern, sparsity=meant))
        except UsageError as error:
            found[pattern] = error.message
    return found
