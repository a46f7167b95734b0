"""Configuration: flag > IDP_DEPLOY_* > file > default.

The file is `idp-deploy.toml`, or the table `[tool.idp-deploy]` of `pyproject.toml`, in the working folder or the
nearest folder above it. Unknown keys are errors that name the nearest valid key; quantities are strings with units.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from idp_deploy import documents
from idp_deploy.configuration.mistakes import PROJECT, Mistake, error_of, explained, nearest
from idp_deploy.configuration.tables import Configuration, tolerances, wrong_quantities
from idp_deploy.errors import UsageError

__all__ = [
    "NAMES",
    "OWN",
    "Configuration",
    "checked",
    "environment_keys",
    "listed",
    "load",
    "passed_over",
    "tolerances",
]
_FOLDERS = "write folders with '/': in double quotes '\\' begins a code, such as '\\b' and '\\n'"
OWN = "idp-deploy.toml"
NAMES = OWN, PROJECT  # where configuration is looked for
PREFIX = "IDP_DEPLOY_"
_RESERVED = {"IDP_DEPLOY_DEBUG", "IDP_DEPLOY_EMULATOR"}  # read elsewhere


def listed(text: str) -> list[str]:
    """The parts of a text that names several, without empty ones.

    >>> listed("onnx, tflite,")
    ['onnx', 'tflite']
    """
    return [part for part in map(str.strip, text.split(",")) if part]


def load(
    path: Path | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    words: Callable[[Mapping[str, Any]], Iterable[Mistake]] = lambda _: (),
) -> Configuration:
    """Read the configuration.

    Args:
        path: a file to read instead of searching, or the folder it lies in; a `pyproject.toml` or a file of plain
            `idp-deploy.toml` form.
        environment: where `IDP_DEPLOY_MODEL`, `IDP_DEPLOY_PRUNE_METHOD`, … are looked up.
        words: told what was read, says which words in it nobody knows.

    Raises:
        UsageError: unknown keys, wrong types, quantities and words, all of them at once; or the file is missing or
            not TOML.
    """
    if path is not None and path.is_dir():
        path = next((path / name for name in NAMES if (path / name).is_file()), path / OWN)
    source = path if path is not None else _find(Path.cwd())
    table = _table(source) if source else {}
    variables = _apply_environment(table, environment)
    return checked(table, source, variables, words=words).model_copy(update={"source": source})


def checked(
    table: Mapping[str, Any],
    source: Path | None = None,
    variables: Mapping[str, str] | None = None,
    *,
    words: Callable[[Mapping[str, Any]], Iterable[Mistake]] = lambda _: (),
) -> Configuration:
    """The configuration that `table` spells.

    Args:
        source: the file that it was read from.
        variables: key → the variable of the environment that set it.
        words: as for `load`.

    Raises:
        UsageError: as for `load`.
    """
    paths = {key: table[key] for key in ("weights", "output") if isinstance(table.get(key), str)}
    coded = {key: path for key, path in paths.items() if any(letter < " " for letter in path)}
    found = [Mistake((key,), f"'{key}' is {path!r}", _FOLDERS) for key, path in coded.items()]
    configuration = None
    try:
        configuration = Configuration.model_validate(table)
    except ValidationError as error:
        found += explained(error, Configuration)
    told = {mistake.keys for mistake in found}
    found += [one for one in (*wrong_quantities(table), *words(table)) if one.keys not in told]
    if configuration is None or found:
        raise error_of(found, source, variables or {})
    return configuration


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
        raise UsageError(f"no such configuration file: {path}", way_out="run 'idp-deploy init' to write one") from None
    except ValueError as error:
        if isinstance(error, UnicodeDecodeError):
            raise UsageError(
                f"{path} is no configuration: it holds bytes that are no text", way_out="name a file of TOML"
            ) from None
        way_out = _FOLDERS if re.search(r"Unescaped|hex value", str(error)) else "mend the line it names"
        told = re.fullmatch(r"(?P<what>.*) \(at line (?P<line>\d+), column (?P<column>\d+)\)", str(error), re.S)
        at, what = (f"{path}:{told['line']}:{told['column']}", told["what"]) if told else (str(path), str(error))
        raise UsageError(f"{at}: this is not valid TOML: {what}", way_out=way_out) from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", way_out="give the path of a TOML file") from None


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
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
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
            raise UsageError(f"unknown environment variable {variable}", way_out=nearest(variable, keys))
        *parents, leaf = keys[variable]
        owner = table
        for parent in parents:
            owner = owner.setdefault(parent, {})
        if not isinstance(owner, dict):
            continue  # which the model complains of
        value: Any = listed(text) if keys[variable] in _LISTS else text
        if leaf == "inputs":
            value = [text]  # whose commas may stand inside of a shape
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
