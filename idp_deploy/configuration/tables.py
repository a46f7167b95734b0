"""The tables of a configuration: what each key is, and limits in base units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from idp_deploy import documents
from idp_deploy.configuration.mistakes import Mistake, nearest, text_of
from idp_deploy.configuration.shapes import shapes
from idp_deploy.errors import UsageError
from idp_deploy.flow import Budget, FormatName
from idp_deploy.formats import COMPILED_FROM, FORMATS, usual
from idp_deploy.formats.validation import KnownFormat, KnownOutputs
from idp_deploy.units import METRICS, Unit, parse


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-"))

    @field_validator("target", "epochs", "learning_rate", "seed", "values", mode="before", check_fields=False)
    @classmethod
    def _no_truth(cls, value: object, info: ValidationInfo) -> object:
        """Refuses true and false, which pydantic takes for 1 and 0."""
        if isinstance(value, bool):
            wanted = "float_type" if info.field_name in ("target", "learning_rate") else "int_type"
            raise PydanticCustomError(wanted, "input should be a number")  # type: ignore[arg-type]
        return value


class PruneTable(_Table):
    """`[tool.idp-deploy.prune]`"""

    target: float | str = 0.9
    method: str = "idp"
    pattern: str = "unstructured"
    mode: str = "auto"
    allocation: str = "auto"
    one_shot: bool = False  # by magnitude, without data and without training
    epochs: int | None = Field(default=None, ge=0, lt=2**31)
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**32)
    skip: tuple[str, ...] = ()
    rules: dict[str, str] = {}  # glob over weight names, or kind → pattern or "skip"
    options: dict[str, bool | int | float | str] = {}  # of the method, the schedule and the training


class QuantizeTable(_Table):
    """`[tool.idp-deploy.quantize]`"""

    scheme: Annotated[str, StringConstraints(to_lower=True)] | None = None
    values: int | None = Field(default=None, ge=4, le=255)
    float: tuple[str, ...] = ()  # globs over weights and modules that stay so


class ExportTable(_Table):
    """`[tool.idp-deploy.export]`"""

    to: KnownOutputs = usual()
    encoding: str = "auto"
    precision: str | None = None
    io: str | None = None
    layout: str | None = None

    def special(
        self,
        formats: Sequence[FormatName],
        *,
        precision: str | None = None,
        io: str | None = None,
        layout: str | None = None,
    ) -> dict[FormatName, dict[str, str]]:
        """What one format's exporter alone is asked for; an argument goes before what the file says.

        Raises:
            UsageError: an argument that none of `formats` takes.
        """
        words = {"precision": (precision, self.precision), "io": (io, self.io), "layout": (layout, self.layout)}
        takers = {word: tuple(name for name, row in FORMATS.items() if word in row.options) for word in words}
        formats = [COMPILED_FROM.get(format, format) for format in formats]
        for word, (asked, _) in words.items():
            if asked and not set(takers[word]).intersection(formats):
                meant = " and ".join(takers[word])
                raise UsageError(
                    f"--{word} is for {meant}, which is not exported", way_out=f"add --to {takers[word][0]}"
                )
        return {
            format: {word: value}
            for word, (asked, configured) in words.items()
            for format in takers[word]
            if format in formats and (value := asked or configured)
        }


def _written(shape: object) -> object:
    """An input that is a list of sizes, as text."""
    sizes = isinstance(shape, list) and shape and all(type(size) is int for size in shape)
    return "x".join(map(str, shape)) if sizes else shape  # type: ignore[call-overload]


def _spelled(inputs: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(shape for text in inputs for shape in shapes(text))
    except UsageError as error:
        raise PydanticCustomError("shape", "{what}", {"what": error.message, "way_out": error.way_out}) from None


class BaselineTable(_Table):
    """`[tool.idp-deploy.baseline]`"""

    tolerances: dict[str, float | str] = {}  # metric → share by which it may get worse: 0.02 or "2 %"


def tolerances(table: Mapping[str, float | str]) -> dict[str, float]:
    """Metric → share, as `[baseline] tolerances` and `--tolerance` give them.

    Raises:
        UsageError: an unknown metric, no share, or a number that is meant in percent.
    """
    for metric, value in table.items():
        if metric not in METRICS:
            raise UsageError(
                f"unknown metric {metric!r} in the baseline's tolerances", way_out=nearest(metric, METRICS)
            )
        share = _parsed(value, "share", f"tolerance of {metric}")
        if share >= 1 and "%" not in str(value):
            raise UsageError(f"tolerance of {metric}: {value} would be {share:.0%}", way_out=f'write "{value} %"')
    return {metric: _parsed(value, "share", "") for metric, value in table.items()}


class Configuration(_Table):
    """The whole of `[tool.idp-deploy]`. Relative paths are relative to the file they were read from."""

    model: str | None = None
    task: str | None = None
    weights: Path | None = None
    weights_key: str | None = None  # which of them, where the file holds several
    output: Path | None = None
    inputs: Annotated[tuple[Annotated[str, BeforeValidator(_written)], ...], AfterValidator(_spelled)] = ()
    targets: tuple[str, ...] = ()
    prune: PruneTable = PruneTable()
    quantize: QuantizeTable = QuantizeTable()
    export: ExportTable = ExportTable()
    baseline: BaselineTable = BaselineTable()
    budgets: dict[str, dict[KnownFormat, dict[str, float | str]]] = {}

    source: Path | None = Field(default=None, exclude=True)

    def path(self, value: Path | None) -> Path | None:
        """`value` resolved against the configuration's folder, and as it is typed where that is the working folder."""
        if value is None or value.is_absolute() or self.source is None or self.source.parent.samefile(Path.cwd()):
            return value
        return self.source.parent / value

    def budget_list(self) -> tuple[Budget, ...]:
        """Every configured limit in base units.

        Raises:
            UsageError: an unknown metric (with the nearest) or an unreadable quantity.
        """
        text = text_of(self.source)
        return tuple(
            _budget(target, format, metric, limit, self.source, text)
            for target, formats in self.budgets.items()
            for format, limits in formats.items()
            for metric, limit in limits.items()
        )


_NO_FILE_TELLS = "no file tells it: 'run' reports the score of a task before and after; budgets are for what files show"
_LEARNT = dict.fromkeys(("accuracy", "score", "loss", "f1", "map", "top1"), _NO_FILE_TELLS)


def wrong_quantities(table: Mapping[str, Any]) -> Iterator[Mistake]:
    """Budgets and tolerances of a table as it was read that nobody can hold a file to."""
    for target, formats in _items(table.get("budgets")):
        for format, limits in _items(formats):
            for metric, limit in _items(limits):
                if not isinstance(limit, str | int | float):
                    continue  # which is complained of elsewhere
                try:
                    _limit(metric, limit)
                except UsageError as error:
                    what = f"budgets.{target}.{format}: {error.message}"
                    yield Mistake(("budgets", target, format, metric), what, error.way_out)
    for metric, value in _items(dict(_items(table.get("baseline"))).get("tolerances")):
        try:
            tolerances({metric: value})
        except UsageError as error:
            yield Mistake.of(("baseline", "tolerances", metric), error)


def _items(table: Any) -> list[tuple[str, Any]]:
    """Of a table; what is none is complained of elsewhere."""
    return list(table.items()) if isinstance(table, Mapping) else []


def _budget(target: str, format: FormatName, metric: str, limit: float | str, source: Path | None, text: str) -> Budget:
    keys = ("budgets", target, format, metric)
    line = documents.line_of(text, keys) or documents.line_of(text, ("tool", "idp-deploy", *keys))
    where = f"{source.name if source else 'configuration'}{f':{line}' if line else ''} budgets.{target}.{format}"
    return Budget(target, format, metric, _limit(metric, limit), where)


def _limit(metric: str, limit: float | str) -> float:
    """In the metric's base unit; UsageError for an unknown metric (with the nearest) or no quantity of it."""
    if metric not in METRICS:
        raise UsageError(f"unknown budget metric {metric!r}", way_out=_LEARNT.get(metric) or nearest(metric, METRICS))
    if isinstance(limit, bool):
        raise UsageError(f"{metric} is {str(limit).lower()}", way_out="write a quantity, or leave the line out")
    value = _parsed(limit, METRICS[metric].unit, metric)
    if METRICS[metric].unit == "share" and value > 1:
        raise UsageError(f"{metric}: {limit!r} is more than all", way_out='write it like "90 %"')
    return value


def _parsed(value: float | str, unit: Unit, where: str) -> float:
    """`units.parse`, whose error says where the value stands."""
    try:
        return parse(value, unit)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", way_out=error.way_out) from None
