"""Configuration: flag > IDP_DEPLOY_* > file > default.

The file is `idp-deploy.toml`, or the table `[tool.idp-deploy]` of `pyproject.toml`, in the working folder or the
nearest folder above it. Unknown keys are errors that name the nearest valid key; quantities are strings with units.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from idp_deploy import documents
from idp_deploy.errors import FileError, UsageError
from idp_deploy.flow import Budget, FormatName
from idp_deploy.formats import COMPILED_FROM, FORMATS, usual
from idp_deploy.formats.validation import KnownFormat, KnownOutputs
from idp_deploy.units import METRICS, Unit, parse

_FOLDERS = "write folders with '/': in double quotes '\\' begins a code, such as '\\b' and '\\n'"
NAMES = OWN, PROJECT = "idp-deploy.toml", "pyproject.toml"  # where configuration is looked for
PREFIX = "IDP_DEPLOY_"
_RESERVED = {"IDP_DEPLOY_DEBUG", "IDP_DEPLOY_EMULATOR"}  # read elsewhere


def listed(text: str) -> list[str]:
    """The parts of a text that names several, without empty ones.

    >>> listed("onnx, tflite,")
    ['onnx', 'tflite']
    """
    return [part for part in map(str.strip, text.split(",")) if part]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-"))


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
                f"unknown metric {metric!r} in the baseline's tolerances", way_out=_nearest(metric, METRICS)
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
    inputs: tuple[str, ...] = ()
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
        text = _text(self.source)
        return tuple(
            _budget(target, format, metric, limit, self.source, text)
            for target, formats in self.budgets.items()
            for format, limits in formats.items()
            for metric, limit in limits.items()
        )


def load(path: Path | None = None, *, environment: Mapping[str, str] = os.environ) -> Configuration:
    """Read the configuration.

    Args:
        path: a file to read instead of searching; a `pyproject.toml` or a file of plain `idp-deploy.toml` form.
        environment: where `IDP_DEPLOY_MODEL`, `IDP_DEPLOY_PRUNE_METHOD`, … are looked up.

    Raises:
        UsageError: unknown keys, wrong types. FileError: the file is missing or not TOML.
    """
    source = path if path is not None else _find(Path.cwd())
    table = _table(source) if source else {}
    variables = _apply_environment(table, environment)
    return checked(table, source, variables).model_copy(update={"source": source})


def checked(
    table: Mapping[str, Any], source: Path | None = None, variables: Mapping[str, str] | None = None
) -> Configuration:
    """The configuration that `table` spells.

    Args:
        source: the file that it was read from.
        variables: key → the variable of the environment that set it.

    Raises:
        UsageError: unknown keys, wrong types.
    """
    for key in ("weights", "output"):
        if isinstance(path := table.get(key), str) and any(letter < " " for letter in path):
            raise UsageError(f"{source or (variables or {}).get(key)}: '{key}' is {path!r}", way_out=_FOLDERS)
    try:
        return Configuration.model_validate(table)
    except ValidationError as error:
        raise _explain(error, source, variables or {}) from None


def _find(folder: Path) -> Path | None:
    for parent in (folder, *folder.parents):
        if (own := parent / OWN).is_file():
            return own
        project = parent / PROJECT
        if project.is_file() and _of_project(_toml(project)) is not None:
            return project
    return None


def passed_over(source: Path | None) -> Path | None:
    """The `pyproject.toml` beside an `idp-deploy.toml` that has a table for us too, which nobody reads."""
    beside = source.with_name(PROJECT) if source is not None and source.name == OWN else None
    return beside if beside is not None and beside.is_file() and _of_project(_toml(beside)) is not None else None


def _toml(path: Path) -> dict[str, Any]:
    try:
        return documents.parse_toml(documents.read_text(path))
    except FileNotFoundError:
        raise FileError(f"no such configuration file: {path}", way_out="run 'idp-deploy init' to write one") from None
    except ValueError as error:
        way_out = _FOLDERS if re.search(r"Unescaped|hex value", str(error)) else "mend the line it names"
        raise FileError(f"{path} is not valid TOML: {error}", way_out=way_out) from None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}", way_out="give the path of a TOML file") from None


def _table(path: Path) -> dict[str, Any]:
    content = _toml(path)
    if path.name != PROJECT:
        return content
    table = _of_project(content)
    if not isinstance(table, dict | None):
        raise UsageError(f"{path}: 'tool.idp-deploy' is {table!r}, no table", way_out="write [tool.idp-deploy]")
    return table or {}


def _of_project(content: Mapping[str, Any]) -> Any:
    """What a `pyproject.toml` holds for us; None where it holds nothing."""
    tools = content.get("tool")
    return tools.get("idp-deploy") if isinstance(tools, dict) else None


def environment_keys() -> dict[str, tuple[str, ...]]:
    """Variable → path of the key it sets, for every plain key (not budgets, rules or options).

    >>> environment_keys()["IDP_DEPLOY_PRUNE_METHOD"]
    ('prune', 'method')
    """
    keys: dict[str, tuple[str, ...]] = {}
    for name, field in Configuration.model_fields.items():
        if name in {"budgets", "source"}:
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, _Table):
            for inner in field.annotation.model_fields:
                if inner not in _TABLES:
                    keys[f"{PREFIX}{name}_{inner}".upper()] = (name, inner)
        else:
            keys[f"{PREFIX}{name}".upper()] = (name,)
    return keys


_TABLES = {"rules", "options", "tolerances"}  # a variable holds one value
_BRANCHES = {"float", "str", "int", "bool"}  # what pydantic calls the sides of a choice, beside names of keys
_LISTS = {("targets",), ("inputs",), ("export", "to"), ("prune", "skip"), ("quantize", "float")}


def _apply_environment(table: dict[str, Any], environment: Mapping[str, str]) -> dict[str, str]:
    """Put what variables say into the table; key → the variable that set it."""
    keys, said = environment_keys(), {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable in _RESERVED:
            continue
        if variable not in keys:
            raise UsageError(f"unknown environment variable {variable}", way_out=_nearest(variable, keys))
        *parents, leaf = keys[variable]
        owner = table
        for parent in parents:
            owner = owner.setdefault(parent, {})
        if not isinstance(owner, dict):
            continue  # which the model complains of
        value: Any = listed(text) if keys[variable] in _LISTS else text
        if leaf == "target":
            value = _number_or_text(text)
        owner[leaf.replace("_", "-")] = value
        said[".".join((*parents, leaf.replace("_", "-")))] = variable
    return said


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _text(source: Path | None) -> str:
    try:
        return documents.read_text(source) if source else ""
    except (OSError, ValueError):
        return ""


_NO_FILE_TELLS = "no file tells it: 'run' reports the score of a task before and after; budgets are for what files show"
_LEARNT = dict.fromkeys(("accuracy", "score", "loss", "f1", "map", "top1"), _NO_FILE_TELLS)


def _budget(target: str, format: FormatName, metric: str, limit: float | str, source: Path | None, text: str) -> Budget:
    keys = ("budgets", target, format, metric)
    line = documents.line_of(text, keys) or documents.line_of(text, ("tool", "idp-deploy", *keys))
    where = f"{source.name if source else 'configuration'}{f':{line}' if line else ''} budgets.{target}.{format}"
    if metric not in METRICS:
        raise UsageError(
            f"unknown budget metric {metric!r} in {where}", way_out=_LEARNT.get(metric) or _nearest(metric, METRICS)
        )
    value = _parsed(limit, METRICS[metric].unit, f"{where}: {metric}")
    if METRICS[metric].unit == "share" and value > 1:
        raise UsageError(f"{where}: {metric}: {limit!r} is more than all", way_out='write it like "90 %"')
    return Budget(target, format, metric, value, where)


def _parsed(value: float | str, unit: Unit, where: str) -> float:
    """`units.parse`, whose error says where the value stands."""
    try:
        return parse(value, unit)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", way_out=error.way_out) from None


def _explain(error: ValidationError, source: Path | None, variables: Mapping[str, str]) -> UsageError:
    """pydantic's first complaint as one sentence with the nearest valid key.

    Args:
        variables: key → the variable of the environment that set it.
    """
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in _BRANCHES)
    setter = next((name for key, name in variables.items() if f"{where}.".startswith(f"{key}.")), None)
    prefix = f"{setter}: " if setter else f"{source}: " if source else ""
    if first["loc"][0] == "budgets" and (told := _misplaced(first["loc"], first["input"])):
        return UsageError(f"{prefix}{told[0]}", way_out=told[1])
    if first["type"] == "extra_forbidden":
        model: Any = Configuration
        for part in first["loc"][:-1]:
            model = model.model_fields[str(part)].annotation
        valid = [field.alias or name for name, field in model.model_fields.items() if name != "source"]
        if first["loc"] == ("tool",):
            return UsageError(
                f"{prefix}unknown key 'tool'", way_out=f"[tool.idp-deploy] is for {PROJECT}: leave it out"
            )
        return UsageError(f"{prefix}unknown key '{where}'", way_out=_nearest(str(first["loc"][-1]), valid))
    way_out = "correct the value"
    if first["type"] == "tuple_type" and isinstance(first["input"], str):
        way_out = f"write a list: {json.dumps(listed(first['input']))}"
    elif first["type"] in ("model_type", "dict_type"):
        return UsageError(f"{prefix}'{where}' is {first['input']!r}, no table", way_out=f"write [{where}]")
    return UsageError(f"{prefix}'{where}' is {first['input']!r}: {first['msg'].lower()}", way_out=way_out)


def _misplaced(place: tuple[str | int, ...], given: object) -> tuple[str, str] | None:
    """What is said of a budget that is not below its target and format, and the way out."""
    if len(place) < 2:
        return None
    example = f"write [budgets.{'pixel-4' if place[1] in METRICS else place[1]}.onnx]"
    if place[-1] == "[key]":
        known = ", ".join(FORMATS)
        close = difflib.get_close_matches(str(given).lower(), list(FORMATS), n=1)
        way_out = example if given in METRICS else f"did you mean '{close[0]}'?" if close else f"one of {known}"
        return f"'{given}' in budgets.{place[1]} is no format", way_out
    if len(place) == 2 and not isinstance(given, dict):
        return f"'budgets.{place[1]}' is {given!r}, no table", example
    return None


def _nearest(word: str, valid: Any) -> str:
    close = difflib.get_close_matches(word, list(valid), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"valid: {', '.join(valid)}"
