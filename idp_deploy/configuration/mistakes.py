"""What is wrong with a configuration, all of it at once: each mistake with its file, its line and the way out."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from idp_deploy import documents
from idp_deploy.errors import SeveralErrors, UsageError
from idp_deploy.formats import FORMATS
from idp_deploy.units import METRICS

PROJECT = "pyproject.toml"
_BRANCHES = {"float", "str", "int", "bool"}  # what pydantic calls the sides of a choice, at the end of a place
_ELSEWHERE = {  # what other tools call it → what it is called here
    "sparsity": "prune.target", "lr": "prune.learning-rate", "exclude": "prune.skip", "bits": "quantize.scheme",
    "format": "export.to", "formats": "export.to", "device": "targets", "devices": "targets", "checkpoint": "weights",
    "input-shape": "inputs", "input_shape": "inputs", "tolerance": "baseline.tolerances",
}  # fmt: skip
_WANTED = {  # pydantic's name of what is wrong → what was wanted
    "string": "a text", "path": "the path of one file", "bool": "true or false", "int": "a whole number",
    "float": "a valid number", "tuple": "a list",
}  # fmt: skip


_EXAMPLES = {"bool": "true", "int": "10", "float": "0.5"}


@dataclass(frozen=True)
class Mistake:
    """One thing that cannot be meant."""

    keys: tuple[str, ...]  # where it stands
    what: str
    way_out: str

    @classmethod
    def of(cls, keys: Iterable[str], error: UsageError) -> Mistake:
        """What was said of a value, at its keys."""
        return cls(tuple(keys), error.message, error.way_out)


def error_of(found: Iterable[Mistake], source: Path | None, variables: Mapping[str, str]) -> UsageError:
    """All of them as one error, in the order of the file.

    Args:
        source: the file that the configuration was read from.
        variables: key → the variable of the environment that set it.
    """
    text = text_of(source)
    above = ("tool", "idp-deploy") if source is not None and source.name == PROJECT else ()
    placed: list[tuple[int, UsageError]] = []
    for one in dict.fromkeys(found):
        where = ".".join(one.keys)
        setter = next((name for key, name in variables.items() if f"{where}.".startswith(f"{key}.")), None)
        line = 0 if setter else documents.nearest_line(text, (*above, *one.keys)) or 0
        place = setter or (f"{source}:{line}" if source and line else source)
        placed.append((line, UsageError(f"{place}: {one.what}" if place else one.what, way_out=one.way_out)))
    errors = [error for _, error in sorted(placed, key=lambda pair: pair[0])]
    return errors[0] if len(errors) == 1 else SeveralErrors(errors)


def text_of(source: Path | None) -> str:
    """The configuration as it is written; nothing where it cannot be read."""
    try:
        return documents.read_text(source) if source else ""
    except (OSError, ValueError):
        return ""


def explained(error: ValidationError, root: type[BaseModel]) -> Iterator[Mistake]:
    """pydantic's complaints, each with the nearest valid key.

    Args:
        root: the model that was wanted.
    """
    placed: dict[tuple[int | str, ...], Any] = {}
    for complaint in error.errors():
        placed.setdefault(complaint["loc"][:-1] if _is_branch(complaint["loc"]) else complaint["loc"], complaint)
    alike: dict[tuple[object, ...], list[Any]] = {}  # entries of one list that are wrong in the same way
    for place, complaint in placed.items():
        inner = any(other[: len(place)] == place for other in placed if other != place)
        if not inner:  # what is wrong inside makes the whole wrong
            entry = isinstance(place[-1], int) and complaint["type"].split("_")[0] in _WANTED
            alike.setdefault((place[:-1], complaint["type"]) if entry else place, []).append((place, complaint))
    for same in alike.values():
        (place, complaint), *more = same
        yield (
            _of_entries([one["input"] for _, one in same], complaint, place)
            if more
            else _explained(complaint, place, root)
        )


def _of_entries(given: list[Any], complaint: Any, place: tuple[int | str, ...]) -> Mistake:
    """Of several entries of one list that are of the wrong kind: one mistake."""
    keys, kind = tuple(part for part in place if isinstance(part, str)), complaint["type"].split("_")[0]
    listed = json.dumps(given, default=str)
    what = f"'{'.'.join(keys)}' holds {listed:.80}: each should be {_WANTED[kind]}"
    return Mistake(keys, what, _written(given, kind, keys, inside_list=True))


def _is_branch(place: tuple[int | str, ...]) -> bool:
    return len(place) > 2 and place[-1] in _BRANCHES


def _explained(complaint: Any, place: tuple[int | str, ...], root: type[BaseModel]) -> Mistake:
    where, given, kind = ".".join(map(str, place)), complaint["input"], complaint["type"]
    keys = tuple(part for part in place if isinstance(part, str) and part != "[key]")
    if place[0] == "budgets" and (told := _misplaced(place, given)):
        return Mistake(keys, *told)
    if kind == "extra_forbidden":
        if place == ("tool",):
            return Mistake(keys, "unknown key 'tool'", f"[tool.idp-deploy] is for {PROJECT}: leave it out")
        if len(place) == 1 and place[0] in ("idp-deploy", "idp_deploy"):
            return Mistake(keys, f"unknown key '{where}'", f"this file is for idp-deploy alone: leave [{where}] out")
        return Mistake(keys, f"unknown key '{where}'", _meant(keys, root))
    if kind in ("model_type", "dict_type"):
        return Mistake(keys, f"'{where}' is {given!r:.80}, no table", f"write [{where}]")
    if kind == "shape":
        return Mistake(keys, complaint["ctx"]["what"], complaint["ctx"]["way_out"])
    msg, wanted = complaint["msg"].lower(), _WANTED.get(kind.split("_")[0])
    if kind == "format":
        return Mistake(
            keys,
            f"'{where}' is {given!r:.80}: {msg}",
            nearest(str(given).lower(), complaint["ctx"]["names"].split(", ")),
        )
    if kind == "too_short":
        return Mistake(keys, f"'{where}' is {given!r}: it names nothing", "name at least one, or leave the line out")
    if wanted is None:
        return Mistake(keys, f"'{where}' is {given!r:.80}: {msg}", "write a value that is")
    what = f"'{where}' is {given!r:.80}: it should be {wanted}"
    return Mistake(keys, what, _written(given, kind.split("_")[0], keys, isinstance(place[-1], int)))


def _written(given: object, wanted: str, keys: tuple[str, ...], inside_list: bool) -> str:
    """How a value of the wrong kind is written right: a list or one value, in quotes or without."""
    last = keys[-1]
    if keys == ("inputs",):
        extents = given if isinstance(given, list) else [given]
        shape = "x".join(map(str, extents)) if all(type(one) is int for one in extents) and extents[1:] else ""
        return f'write each as text: inputs = ["{shape or "1x3x224x224"}"]'
    if wanted == "tuple":
        parts = [p for p in map(str.strip, given.split(",")) if p] if isinstance(given, str) else given
        parts = [*parts] if isinstance(parts, list | dict) else [parts]
        return f"write a list: {json.dumps(parts, default=str)}"

    def text(value: object) -> str:
        return f"{last} = {json.dumps([value] if inside_list else value)}"

    if isinstance(given, list | tuple | dict):
        inside = [*given.values()] if isinstance(given, dict) else [*given]
        if inside_list and len(inside) > 1:
            return f"write each in quotes: {last} = {json.dumps([str(one) for one in inside])}"
        one = inside[0] if len(inside) == 1 and isinstance(inside[0], str | int | float) else None
        return "write one value" + (f": {text(one)}" if one is not None else "")
    if wanted in ("string", "path"):
        return f"write it in quotes: {text(str(given))}"
    return f"write {_WANTED[wanted]}, such as {last} = {_EXAMPLES[wanted]}"


def _meant(keys: tuple[str, ...], root: type[BaseModel]) -> str:
    """Which key was meant: one of the same table that is spelled alike, or the same of another table."""
    if keys[-1] in METRICS and keys[-1] not in _ELSEWHERE and keys[0] != "budgets":
        return f"a limit stands below its device and format: write [budgets.pixel-4.onnx] above {keys[-1]} = …"
    model: Any = root
    for key in keys[:-1]:
        model = model.model_fields[key].annotation
    valid, last = _names(model), keys[-1]
    elsewhere = [f"'{key}'" for key in _paths(root) if key.rpartition(".")[2] == last or key == _ELSEWHERE.get(last)]
    elsewhere = [f"{key}, above the first [table]" if "." not in key and len(keys) > 1 else key for key in elsewhere]
    spelled = [name for name in valid if name == last.lower().replace("_", "-")]
    near = spelled or difflib.get_close_matches(last, valid, n=3, cutoff=0.8 if elsewhere else 0.5)
    near = [] if elsewhere and last in _ELSEWHERE else near
    close = [*map(repr, near), *elsewhere]
    return f"did you mean {' or '.join(close)}?" if close else nearest(last, valid)


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items() if not field.exclude]


def _paths(root: type[BaseModel]) -> Iterator[str]:
    """Every key of the configuration, those of tables behind the table's name."""
    for name, field in root.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (f"{name}.{key}" for key in _names(field.annotation))
        elif not field.exclude:
            yield field.alias or name


def _misplaced(place: tuple[str | int, ...], given: object) -> tuple[str, str] | None:
    """What is said of a budget that is not below its target and format, and the way out."""
    if len(place) < 2:
        return None
    format = place[1] if place[1] in FORMATS else next(iter(FORMATS))
    example = f"write [budgets.{'pixel-4' if place[1] in (*METRICS, *FORMATS) else place[1]}.{format}]"
    if place[-1] == "[key]":
        if place[1] in FORMATS:
            return f"'budgets.{place[1]}' names no device", f"the device comes first: {example}"
        known = ", ".join(FORMATS)
        close = difflib.get_close_matches(str(given).lower(), list(FORMATS), n=1)
        way_out = example if given in METRICS else f"did you mean '{close[0]}'?" if close else f"one of {known}"
        return f"'{given}' in budgets.{place[1]} is no format", way_out
    if len(place) == 2 and not isinstance(given, dict):
        return f"'budgets.{place[1]}' is {given!r}, no table", example
    return None


def nearest(word: str, valid: Iterable[str]) -> str:
    """The way out for a word that is none of `valid`."""
    close = difflib.get_close_matches(word, known := list(valid), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else f"valid: {', '.join(known)}"
