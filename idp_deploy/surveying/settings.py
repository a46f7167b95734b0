"""Values that a project keeps beside its code: defaults of its command line, dictionaries, data classes, YAML, JSON."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from idp_deploy import documents
from idp_deploy.surveying.layers import is_writable
from idp_deploy.surveying.recipes import Recipe, dotted, in_python, recipe

FILE_BYTES, FILES = 1 << 16, 50
RECIPES = 500
CROWD = 30  # files in one folder, from which they are data
SUFFIXES = (".yaml", ".yml", ".json")
_TARGETS = ("_target_", "class_path")  # how Hydra and the command line of Lightning name what they make
_MISSING = object()


def configured(
    places: Iterable[Path], trees: Iterable[ast.Module]
) -> tuple[dict[str, object], dict[str, dict[str, object]], list[Recipe], list[dict[str, object]]]:
    """(value by the last part of its name where all that tell it agree, arguments by the class that takes them,
    what registries build of, whole documents by dotted names).

    Args:
        places: folders whose files of configuration are read. trees: of source.

    >>> settings, *_ = configured([], [ast.parse("parser.add_argument('--img-size', default=64)")])
    >>> settings
    {'img_size': 64}
    """
    settings: dict[str, object] = {}
    instances: dict[str, dict[str, object]] = {}
    trees = list(trees)
    entries = [entry for tree in trees for entry in _in_source(tree)]
    python = (found for tree in trees for table in in_python(tree) if (found := recipe(table)))
    recipes = list(islice(python, RECIPES))
    wholes: list[dict[str, object]] = []
    for content in _documents(places):
        wholes += [dotted(content)]
        for table in _tables(content):
            recipes += [found] if len(recipes) < RECIPES and (found := recipe(table)) else []
            named = next((table[key] for key in _TARGETS if isinstance(table.get(key), str)), None)
            inner = table.get("init_args", table)
            if named is not None and isinstance(inner, Mapping):
                given = {str(key): value for key, value in inner.items() if key not in _TARGETS and _plain(value)}
                instances.setdefault(named, given)
            entries += [(str(key), value) for key, value in table.items() if _plain(value)]
    for name, value in entries:
        settings[name] = value if settings.get(name, value) == value else _MISSING
    agreed = {name: value for name, value in settings.items() if value is not _MISSING}
    return agreed, instances, recipes[:RECIPES], wholes


def _in_source(tree: ast.Module) -> Iterator[tuple[str, object]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            flags = [word for word in map(_literal, node.args) if isinstance(word, str) and word.startswith("--")]
            given = {word.arg: _literal(word.value) for word in node.keywords}
            name = given.get("dest") or (flags[0].lstrip("-").replace("-", "_") if flags else None)
            if isinstance(name, str) and _plain(given.get("default")):
                yield name, given["default"]
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                name, known = _literal(key) if key else None, _literal(value)
                if isinstance(name, str) and _plain(known):
                    yield name, known
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                known = _literal(inner.value) if isinstance(inner, ast.AnnAssign) and inner.value else None
                if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name) and _plain(known):
                    yield inner.target.id, known


def _documents(places: Iterable[Path]) -> Iterator[Any]:
    """Contents of the small configuration files in these folders."""
    import yaml

    beside = ([path for path in sorted(place.iterdir()) if path.suffix in SUFFIXES] for place in places)
    found = (path for paths in beside if len(paths) < CROWD for path in paths)
    for path in islice(found, FILES):
        try:
            text = documents.read_bytes(path, limit=FILE_BYTES).decode()
            yield documents.parse_json(text) if path.suffix == ".json" else yaml.safe_load(text)
        except (OSError, ValueError, RecursionError, MemoryError, yaml.YAMLError):
            continue


def _tables(content: Any) -> Iterator[Mapping[Any, Any]]:
    """Every table in a document, each once, however often it is referred to."""
    seen: set[int] = set()
    left = [content]
    while left:
        node = left.pop()
        if id(node) in seen or not isinstance(node, Mapping | list):
            continue
        seen.add(id(node))
        if isinstance(node, Mapping):
            yield node
        left += reversed(list(node.values()) if isinstance(node, Mapping) else node)


def _plain(value: object) -> bool:
    """Whether it can be written as an argument: a number, a word, or a short list of these."""
    if isinstance(value, list | tuple):
        return len(value) <= 64 and all(isinstance(one, int | float | str) for one in value) and is_writable(value)
    return isinstance(value, int | float | str) and is_writable(value) and len(str(value)) < 200


def _literal(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
