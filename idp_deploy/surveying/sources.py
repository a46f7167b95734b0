"""Python files as text → the modules, tasks and example tensors that they define."""

from __future__ import annotations

import ast
import keyword
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from idp_deploy import documents
from idp_deploy.files import SOURCES

FILES, FILE_BYTES, DEEPEST = 400, 1 << 20, 4
# folders that hold other people's code, or none
ELSEWHERE = {"site-packages", "node_modules", "build", "dist", "__pycache__", "venv", "env"}
MODULES = {"Module", "LightningModule", "Sequential", "PreTrainedModel"}
TASK_PARTS = {"train_loader", "validation_loader"}
_LIKELY = ("build", "build_model", "create_model", "get_model", "make_model", "model", "net")


@dataclass(frozen=True)
class Definition:
    """A class or a function that gives an nn.Module, or a Sequential that a script makes."""

    file: Path
    name: str
    spec: str  # "pkg.mod:name"
    layers: Mapping[str, ast.Call] = field(default_factory=dict)  # attribute → what it is set to
    parameters: Mapping[str, ast.expr | None] = field(default_factory=dict)  # argument → default
    parts: frozenset[str] = frozenset()  # names that it calls
    returns: str = ""  # of a function: the class that it returns
    is_class: bool = True
    inputs: tuple[str, ...] = ("x",)  # arguments of forward without a default
    keys: tuple[str, ...] = ()  # that forward reads of them where one is a dict

    @property
    def needs(self) -> tuple[str, ...]:
        """Arguments without a default."""
        return tuple(name for name, default in self.parameters.items() if default is None)


@dataclass(frozen=True)
class Found:
    """What the source of a folder says."""

    modules: tuple[Definition, ...] = ()  # those that others are made of come last
    tasks: tuple[str, ...] = ()
    loaders: tuple[str, ...] = ()  # "pkg.mod:function", of functions that make a DataLoader
    calls: Mapping[str, tuple[ast.Call, ...]] = field(default_factory=dict)  # name → its calls, anywhere
    constants: Mapping[str, object] = field(default_factory=dict)  # NAME → literal, where all files agree
    notes: tuple[str, ...] = ()


def read_folder(folder: Path) -> Found:
    """Every Python file below a folder, read as text; what is none is named in the notes."""
    notes: list[str] = []
    trees: dict[Path, ast.Module] = {}
    for path in _python_files(folder):
        inside = path.relative_to(folder)
        try:
            trees[path] = ast.parse(documents.read_bytes(path, limit=FILE_BYTES))
        except SyntaxError as error:
            notes.append(f"{inside} is left out: line {error.lineno} is no Python of this version")
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            notes.append(f"{inside} is left out: {error}")
    calls: dict[str, list[ast.Call]] = {}
    constants: dict[str, object] = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                calls.setdefault(last_name(node.func), []).append(node)
        constants |= _constants(tree)
    classes = {node.name: node for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef)}
    modules: list[Definition] = []
    tasks: list[str] = []
    loaders: list[str] = []
    for path, tree in trees.items():
        name = _module_name(path.relative_to(folder), folder)
        defined = [*_definitions(tree, path, name or "?", classes)]
        if name is None and defined:
            notes.append(
                f"{path.relative_to(folder)} defines {defined[0].name}, but cannot be imported: rename the file"
            )
            continue
        modules += defined
        tasks += _tasks(tree, name or "", classes) if name else []
        loaders += _loaders(tree, name) if name else []
    if not modules:
        notes += _in_notebooks(folder)
    inner = {part for module in modules if module.is_class for part in module.parts}
    ordered = sorted(modules, key=lambda one: (one.is_class and one.name in inner, _rank(one), len(one.spec)))
    return Found(
        tuple(ordered), tuple(tasks), tuple(loaders), {k: tuple(v) for k, v in calls.items()}, constants, tuple(notes)
    )


def last_name(node: ast.expr) -> str:
    """`Conv2d` of `torch.nn.Conv2d`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _rank(one: Definition) -> tuple[bool, bool]:
    """Functions that look like factories first, then what needs no arguments."""
    return (one.is_class or one.name not in _LIKELY, bool(one.needs))


def folders(top: Path) -> Iterator[Path]:
    """A folder and those below it that hold its owner's own files."""
    for place, inside, _ in os.walk(top):
        depth = len(Path(place).relative_to(top).parts)
        here = {name for name in inside if not name.startswith(".") and name not in ELSEWHERE}
        inside[:] = sorted(one for one in here if depth < DEEPEST and not (Path(place) / one / "pyvenv.cfg").exists())
        yield Path(place)


def _python_files(folder: Path) -> Iterator[Path]:
    return islice((path for place in folders(folder) for path in sorted(place.glob("*.py")) if path.is_file()), FILES)


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


def _definitions(
    tree: ast.Module, path: Path, module: str, classes: Mapping[str, ast.ClassDef]
) -> Iterator[Definition]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and _is_module(node, classes, set()):
            yield _of_class(node, path, module)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            returned = _returned(node)
            known = returned is not None and last_name(returned.func) in classes
            if returned is None:
                continue
            target = last_name(returned.func)
            if (known and _is_module(classes[target], classes, set())) or target == "Sequential":
                layers = _sequence(returned) if target == "Sequential" else {}
                arguments = _parameters(node.args)
                yield Definition(
                    path, node.name, f"{module}:{node.name}", layers, arguments, returns=target, is_class=False
                )
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):  # a script that makes it as it runs
            for name in (target.id for target in node.targets if isinstance(target, ast.Name)):
                if last_name(node.value.func) == "Sequential" and not name.startswith("_"):
                    yield Definition(path, name, f"{module}:{name}", _sequence(node.value), is_class=False)


def _is_module(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef], seen: set[str]) -> bool:
    if node.name in seen:
        return False
    seen.add(node.name)
    for base in map(last_name, node.bases):
        if base in MODULES or (base in classes and base != node.name and _is_module(classes[base], classes, seen)):
            return True
    return False


def _of_class(node: ast.ClassDef, path: Path, module: str) -> Definition:
    init = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    layers: dict[str, ast.Call] = {}
    parts: set[str] = set()
    for inner in ast.walk(init) if init else ():
        if isinstance(inner, ast.Call):
            parts.add(last_name(inner.func))
            if isinstance(inner.func, ast.Attribute) and inner.func.attr == "__init__":
                layers |= _sequence(inner)
        if isinstance(inner, ast.Assign) and isinstance(inner.value, ast.Call):
            for target in inner.targets:
                if isinstance(target, ast.Attribute) and last_name(target.value) == "self":
                    layers[target.attr] = inner.value
    forward = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "forward"), None)
    given = _parameters(forward.args, skip=1) if forward else {"x": None}
    inputs = tuple(name for name, default in given.items() if default is None)
    return Definition(
        path,
        node.name,
        f"{module}:{node.name}",
        layers,
        _parameters(init.args, skip=1) if init else {},
        frozenset(parts),
        inputs=inputs,
        keys=tuple(_keys(forward, inputs)) if forward else (),
    )


def _keys(forward: ast.FunctionDef, inputs: Sequence[str]) -> Iterator[str]:
    """`tokens` of `batch["tokens"]`, in the order of the text."""
    found: dict[str, tuple[int, int]] = {}
    for node in ast.walk(forward):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in inputs:
            key = node.slice.value if isinstance(node.slice, ast.Constant) else None
            if isinstance(key, str) and isinstance(node.ctx, ast.Load):
                place = (node.lineno, node.col_offset)
                found[key] = min(place, found.get(key, place))
    yield from sorted(found, key=lambda key: found[key])


def _sequence(call: ast.Call) -> dict[str, ast.Call]:
    return {str(index): item for index, item in enumerate(call.args) if isinstance(item, ast.Call)}


def _parameters(arguments: ast.arguments, skip: int = 0) -> dict[str, ast.expr | None]:
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args)][skip:]
    defaults = [None] * (len(names) - len(arguments.defaults)) + list(arguments.defaults)
    found: dict[str, ast.expr | None] = dict(zip(names, defaults, strict=False))
    return found | dict(zip((one.arg for one in arguments.kwonlyargs), arguments.kw_defaults, strict=True))


def _returned(node: ast.FunctionDef) -> ast.Call | None:
    """The call whose result a function returns, by itself or under a name."""
    made = {
        target.id: inner.value
        for inner in ast.walk(node)
        if isinstance(inner, ast.Assign) and isinstance(inner.value, ast.Call)
        for target in inner.targets
        if isinstance(target, ast.Name)
    }
    for inner in ast.walk(node):
        if isinstance(inner, ast.Return):
            value = inner.value
            if isinstance(value, ast.Call) and last_name(value.func) in ("eval", "to", "cuda", "cpu", "train"):
                value = value.func.value if isinstance(value.func, ast.Attribute) else value
            if isinstance(value, ast.Name):
                value = made.get(value.id)
            if isinstance(value, ast.Call):
                return value
    return None


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
        and (returned := _returned(node)) is not None
        and last_name(returned.func) in own
        and all(default is not None for default in _parameters(node.args).values())
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
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                continue
    return found


def _in_notebooks(folder: Path) -> list[str]:
    """Classes that only a notebook defines, which nothing can import."""
    notes = []
    for path in sorted(folder.glob("*.ipynb")):
        try:
            cells = documents.parse_json(documents.read_text(path))["cells"]
            texts = ["".join(cell["source"]) for cell in cells if cell.get("cell_type") == "code"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        for number, text in enumerate(texts, 1):
            try:
                nodes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            named = next((n for n in nodes if _is_module(n, {one.name: one for one in nodes}, set())), None)
            if named is not None:
                notes.append(
                    f"{path.name} defines {named.name} in code cell {number}, and a notebook cannot be imported: "
                    f"copy the class into a file such as net.py, then run 'idp-deploy init --force'"
                )
                break
    return notes
