"""Python files as text → the modules, tasks and example tensors that they define."""

from __future__ import annotations

import ast
import keyword
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from idp_deploy import documents
from idp_deploy.files import SOURCES
from idp_deploy.surveying.bundles import Record
from idp_deploy.surveying.definitions import (
    Definition,
    definitions,
    is_module,
    last_name,
    parameters_of,
    plainly_named,
    records,
    registered,
    returned,
)
from idp_deploy.surveying.extracting import Copy, cells_of, missing, name_of_copy, reason_to_copy
from idp_deploy.surveying.inheriting import alone
from idp_deploy.surveying.layers import is_writable
from idp_deploy.surveying.libraries import in_source
from idp_deploy.surveying.places import folders
from idp_deploy.surveying.recipes import Recipe, plain_value, table_of
from idp_deploy.surveying.settings import configured

FILES, FILE_BYTES, NOTEBOOK_BYTES = 1_500, 1 << 20, 16 << 20
TASK_PARTS = {"train_loader", "validation_loader"}
_LIKELY = ("build", "build_model", "create_model", "get_model", "make_model", "model", "net")


@dataclass(frozen=True)
class Found:
    """What the source of a folder says."""

    modules: tuple[Definition, ...] = ()  # those that others are made of come last
    tasks: tuple[str, ...] = ()
    loaders: tuple[str, ...] = ()  # "pkg.mod:function", of functions that make a DataLoader
    calls: Mapping[str, tuple[ast.Call, ...]] = field(default_factory=dict)  # name → its calls, anywhere
    tables: tuple[Mapping[str, ast.expr], ...] = ()  # `{"width": 8}` and `dict(width=8)`, anywhere
    assigned: Mapping[str, ast.Call] = field(default_factory=dict)  # name → the call that it is set to last
    constants: Mapping[str, object] = field(default_factory=dict)  # NAME → literal, where all files agree
    settings: Mapping[str, object] = field(default_factory=dict)  # "width" of --width, a configuration or a dict
    instances: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # "pkg.Net" → arguments, from YAML
    recipes: Mapping[str, tuple[Recipe, ...]] = field(default_factory=dict)  # class → what registries build it of
    registered: Mapping[str, str] = field(default_factory=dict)  # what a registry calls a class → the class
    wholes: tuple[Mapping[str, object], ...] = ()  # whole configurations, by dotted names
    records: Mapping[str, Record] = field(default_factory=dict)  # classes that hold settings, by name
    notes: tuple[str, ...] = ()
    tried: dict[Any, Any] = field(default_factory=dict)  # how a class fits weights, for all who may be given it


def read_folder(folder: Path) -> Found:
    """Every Python file below a folder, read as text; what is none is named in the notes."""
    notes: list[str] = []
    trees: dict[Path, ast.Module] = {}
    texts: dict[Path, str] = {}
    files = _python_files(folder)
    if len(files) > FILES:
        notes.append(f"of {len(files)} Python files the {FILES} nearest were read: start in the folder of the model")
    for path in files[:FILES]:
        inside = path.relative_to(folder)
        try:
            content = documents.read_bytes(path, limit=FILE_BYTES)
            trees[path], texts[path] = plainly_named(ast.parse(content)), content.decode("utf-8-sig", "replace")
        except SyntaxError as error:
            notes.append(f"{inside} is left out: line {error.lineno} is no Python of this version")
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            notes.append(f"{inside} is left out: {error}")
    for path, tree, text in _in_notebooks(folder):
        trees[path], texts[path] = plainly_named(tree), text
    calls: dict[str, list[ast.Call]] = {}
    tables: list[dict[str, ast.expr]] = []
    assigned: dict[str, ast.Call] = {}
    constants: dict[str, object] = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                calls.setdefault(last_name(node.func), []).append(node)
            if isinstance(node, ast.Dict | ast.Call) and (table := table_of(node)):
                tables.append(table)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                assigned |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
        constants |= _constants(tree)
    classes = {node.name: node for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef)}
    names = {word: node.name for node in classes.values() for word in registered(node)}
    here = {part for path in trees for part in path.relative_to(folder).with_suffix("").parts}
    modules: list[Definition] = []
    tasks: list[str] = []
    loaders: list[str] = []
    held: dict[str, Record] = {}
    for path, tree in trees.items():
        name = _module_name(path.relative_to(folder), folder) if path.suffix == ".py" else None
        try:
            defined = (
                *definitions(alone(tree, classes), path, name or "?", classes),
                *in_source(tree, path, name, here),
            )
        except RecursionError:
            notes.append(f"{path.relative_to(folder)} is left out: an expression in it is nested too deeply")
            continue
        notes += _hidden(tree, path.relative_to(folder), classes)
        for one in defined:
            usable = _importable(one, name, folder, tree, texts[path], here)
            if usable is not None:
                modules.append(usable)
            else:
                inside = path.relative_to(folder)
                notes.append(f"{inside} defines {one.name}, but cannot be imported: rename the file")
        held |= {
            key: record for key, record in (records(tree, name, classes) if name else ())
            if not reason_to_copy(tree, key, here)
        }  # fmt: skip
        tasks += _tasks(tree, name, classes) if name else []
        loaders += _loaders(tree, name) if name else []
    inner = {part for module in modules if module.is_class for part in module.parts}
    inner |= {last_name(base) for node in classes.values() for base in node.bases}

    def order(one: Definition) -> tuple[bool, bool, tuple[bool, bool], int]:
        return (one.copy is not None, one.is_class and one.name in inner, _rank(one), len(one.spec))

    ordered = sorted(modules, key=order)
    settings, instances, recipes, wholes = configured(folders(folder), trees.values())
    return Found(
        tuple(ordered),
        tuple(tasks),
        tuple(loaders),
        {k: tuple(v) for k, v in calls.items()},
        tuple(tables),
        assigned,
        constants,
        settings,
        instances,
        {kind: tuple(one for one in recipes if names.get(one.kind) == kind) for kind in set(names.values())},
        names,
        tuple(wholes),
        held,
        tuple(notes),
    )


def _hidden(tree: ast.Module, inside: Path, classes: Mapping[str, ast.ClassDef]) -> list[str]:
    """What is said of modules that are defined inside of functions, where nobody can import them."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    hidden = ((one, node) for one in functions for node in one.body if isinstance(node, ast.ClassDef))
    return [
        f"{inside} defines {node.name} inside of {one.name}(), where it cannot be imported: move it to the top level"
        for one, node in hidden
        if node.name not in classes and is_module(node, classes, set())
    ]


def _rank(one: Definition) -> tuple[bool, bool]:
    """Functions that look like factories first, then what needs no arguments."""
    return (one.is_class or one.name not in _LIKELY, bool(one.needs))


def _python_files(folder: Path) -> list[Path]:
    """Those that lie nearest first; of links to one file, and that file, one that can be imported."""
    found = [path for place in folders(folder) for path in sorted(place.glob("*.py")) if path.is_file()]
    likely = sorted(found, key=lambda p: (not _module_name(p.relative_to(folder), folder), p.is_symlink()))
    once = {path.resolve(): path for path in reversed(likely)}
    return sorted(once.values(), key=lambda path: (len(path.parts), path))


def _module_name(path: Path, folder: Path = Path()) -> str | None:
    """The dotted name under which a file of the working folder is imported; None where it has none.

    >>> [_module_name(Path(name)) for name in ("net.py", "pkg/__init__.py", "src/pkg/net.py", "my net.py")]
    ['net', 'pkg', 'pkg.net', None]
    """
    parts = list(path.with_suffix("").parts)
    if parts[0] == SOURCES and len(parts) > 1 and not (folder / SOURCES / "__init__.py").exists():
        del parts[0]
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    fine = all(part.isidentifier() and not keyword.iskeyword(part) for part in parts)
    return ".".join(parts) if fine else None


def _tasks(tree: ast.Module, module: str, classes: Mapping[str, ast.ClassDef]) -> list[str]:
    """Functions that return a task first, then the classes themselves."""
    own = {
        name
        for name, node in classes.items()
        if {one.name for one in node.body if isinstance(one, ast.FunctionDef)} >= TASK_PARTS
    }
    functions = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and (given := returned(node)) is not None
        and last_name(given.func) in own
        and all(default is not None for default in parameters_of(node.args).values())
    ]
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.name in own]
    return [f"{module}:{name}" for name in (*functions, *defined)]


def _loaders(tree: ast.Module, module: str) -> list[str]:
    """Public functions that make a DataLoader and give something back."""
    return [
        f"{module}:{node.name}"
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        if any(isinstance(inner, ast.Return) and inner.value is not None for inner in ast.walk(node))
        if any(isinstance(inner, ast.Call) and last_name(inner.func) == "DataLoader" for inner in ast.walk(node))
    ]


def _constants(tree: ast.Module) -> dict[str, object]:
    found: dict[str, object] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            value = plain_value(node.value)
            if value is not None and is_writable(value):
                found[node.targets[0].id] = value
    return found


def _in_notebooks(folder: Path) -> Iterator[tuple[Path, ast.Module, str]]:
    """The code of notebooks, cell after cell; a cell that is no Python is left out."""
    for path in sorted(folder.glob("*.ipynb")):
        try:
            cells = cells_of(documents.parse_json(documents.read_bytes(path, limit=NOTEBOOK_BYTES)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        fine = []
        for cell in cells:
            try:
                ast.parse(cell)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            fine.append(cell)
        text = "\n\n".join(fine)
        try:
            yield path, ast.parse(text), text
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue


def _importable(
    one: Definition, module: str | None, folder: Path, tree: ast.Module, text: str, here: set[str]
) -> Definition | None:
    """The definition as it can be imported: from its file, or from a copy where that cannot be or would do its work."""
    if one.library:
        return one
    path, inside = one.file, one.file.relative_to(folder)
    why = "a notebook cannot be imported" if path.suffix == ".ipynb" else "a file of that name cannot be imported"
    if module is not None:
        top = module.partition(".")[0]
        hidden = f"Python itself has a module called {top}" if top in sys.stdlib_module_names else ""
        why = hidden or reason_to_copy(tree, one.name, here)
    one = replace(one, missing=missing(tree, one.name if why else None, here))
    if not why:
        return one
    beside = path.parent / f"{name_of_copy(path.stem)}.py"
    place = beside if _module_name(beside.relative_to(folder), folder) else folder / beside.name
    copied = _module_name(place.relative_to(folder), folder)
    if any(isinstance(node, ast.ImportFrom) and node.level for node in tree.body) and place != beside:
        copied = None  # what it imports from its neighbours is not there
    if copied is None:
        return None if module is None else one
    copy = Copy(place, inside.as_posix(), why, tree, tuple(text.splitlines()))
    return replace(one, spec=f"{copied}:{one.name}", copy=copy)
