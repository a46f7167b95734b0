"""A class out of a file that cannot be imported, or that would train as it is: copied with what it needs, nothing run.

train.py ──closure──▶ train_model.py: the class, and the imports, functions and constants that it names
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

MARK = "copied by 'idp-deploy init'"  # stands in the first line of every copy
# calls that make an import train, write, ask, or take the command line of whoever imports
WORK = {"backward", "fit", "save", "get_ipython", "parse_args", "parse_known_args", "from_pretrained", "input", "exit",
        "load_state_dict", "cuda", "read_csv"}  # fmt: skip
_Defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, eq=False)
class Copy:
    """What is to be written so that a definition can be imported."""

    path: Path  # of the new file
    origin: str  # the file it is from, as the reader knows it
    why: str  # that one is not imported itself
    tree: ast.Module
    lines: tuple[str, ...]  # of the source that `tree` was made from

    @property
    def is_own(self) -> bool:
        """Whether what stands at `path` is an earlier copy, and no file of somebody's."""
        with self.path.open("rb") as file:
            return MARK.encode() in file.readline(4096)

    def text(self, name: str, *others: str) -> str:
        """The new file, with `name` and others, and all that these name."""
        head = f'"""{name} of {self.origin}, {MARK}: {self.why}."""'
        nodes = _needed(self.tree, name, *others)
        start = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
        imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) and node not in start]
        rest = [node for node in nodes if node not in start and node not in imports]
        parts = ["\n".join(map(self._source, group)) for group in (start, imports) if group]
        return "\n\n".join([head, *parts]) + "".join(f"\n\n\n{self._source(node)}" for node in rest) + "\n"

    def _source(self, node: ast.stmt) -> str:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        return "\n".join(self.lines[first - 1 : node.end_lineno])


def reason_to_copy(tree: ast.Module, name: str, here: set[str]) -> str:
    """Why a definition is better copied than its file imported; empty where it is not.

    Args:
        name: of the definition. here: names that the folder itself has modules and packages of.
    """
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in _at_import(tree):
        called = _last_name(node.func)
        if called in WORK or any(word.arg == "download" and _is_true(word.value) for word in node.keywords):
            return f"importing it would call {called}, in line {node.lineno}"
        if any(_is_gpu(value, tree) for value in _devices(node)):
            return f"importing it would ask for a GPU, in line {node.lineno}"
        if called in functions and any(_last_name(c.func) in WORK for c in _calls(functions[called])):
            return f"importing it would run {called}(), in line {node.lineno}"
    needed = missing(tree, name, here)
    if not needed and (idle := missing(tree, None, here)):
        return f"it imports {idle[0]}, which is not installed and {name} does not need"
    return ""


def missing(tree: ast.Module, name: str | None, here: set[str]) -> tuple[str, ...]:
    """Packages that nobody installed and that a definition needs, or for None the whole file."""
    statements = tree.body if name is None else _needed(tree, name)
    wanted = {id(statement) for statement in statements}
    roots = (root for root, statement in _imported(tree) if id(statement) in wanted and root not in here)
    return tuple(dict.fromkeys(root for root in roots if not _is_installed(root)))


def _needed(tree: ast.Module, *names: str) -> list[ast.stmt]:
    """The statements that bind names and all that these name, in their order; with every import of a star."""
    bound: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for word in _binds(statement):
            bound.setdefault(word, []).append(statement)
    wanted, found = list(names), {}
    while wanted:
        word = wanted.pop()
        for statement in bound.get(word, ()):
            if id(statement) not in found:
                found[id(statement)] = statement
                wanted += _names(statement)
    kept = {id(s) for s in tree.body if isinstance(s, ast.ImportFrom) and {a.name for a in s.names} & {"*"}}
    kept |= {id(s) for s in tree.body if isinstance(s, ast.ImportFrom) and s.module == "__future__"}
    return [statement for statement in tree.body if id(statement) in found or id(statement) in kept]


@lru_cache(maxsize=1 << 14)
def _names(statement: ast.stmt) -> frozenset[str]:
    """Names of the file that a statement uses: what a function calls its own is none.

    >>> sorted(_names(ast.parse("def f(x, n=width):\\n    y = x + n\\n    return scale * y").body[0]))
    ['scale', 'width']
    """
    found: set[str] = set()
    left: list[tuple[ast.AST, frozenset[str]]] = [(statement, frozenset())]
    while left:
        node, own = left.pop()
        if isinstance(node, ast.Name) and node.id not in own:
            found.add(node.id)
        if isinstance(node, _Scoped):
            body = node.body if isinstance(node.body, list) else [node.body]
            inside, within = own | _own(node.args, body), set(map(id, body))
            left += [(one, inside if id(one) in within else own) for one in ast.iter_child_nodes(node)]
        else:
            left += [(one, own) for one in ast.iter_child_nodes(node)]
    return frozenset(found)


def _own(arguments: ast.arguments, body: Sequence[ast.AST]) -> frozenset[str]:
    """Names that a function takes or sets."""
    found = {one.arg for one in ast.walk(arguments) if isinstance(one, ast.arg)}
    elsewhere: set[str] = set()
    left = list(body)
    while left:
        node = left.pop()
        if isinstance(node, ast.Global):
            elsewhere |= set(node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        if not isinstance(node, _Defined | _Inner):
            left += ast.iter_child_nodes(node)
    return frozenset(found - elsewhere)


_Scoped = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Inner = ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def _binds(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, _Defined):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name))
        yield from (
            root for target in targets if isinstance(target, ast.Attribute | ast.Subscript) and (root := _root(target))
        )
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):  # `parser.add_argument("--width")`
        function = statement.value.func
        if isinstance(function, ast.Attribute) and function.attr in _FILLS and (root := _root(function)):
            yield root
    elif isinstance(statement, ast.Try | ast.If) and not _is_guard(statement):
        for inner in ast.iter_child_nodes(statement):
            if isinstance(inner, ast.stmt):
                yield from _binds(inner)


_FILLS = {"add_argument", "set_defaults", "append", "extend", "update", "setdefault", "insert"}


def _root(node: ast.expr) -> str:
    """`opt` of `opt.width`, `opt["width"]` and `opt.sizes.append`."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _at_import(tree: ast.Module) -> Iterator[ast.Call]:
    """The calls that importing a file makes, in its order."""
    for statement in tree.body:
        if not isinstance(statement, _Defined) and not _is_guard(statement):
            yield from _calls(statement)


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    return (inner for inner in ast.walk(node) if isinstance(inner, ast.Call))


def _is_guard(statement: ast.stmt) -> bool:
    """`if __name__ == "__main__":`"""
    test = statement.test if isinstance(statement, ast.If) else None
    return test is not None and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(test))


def _imported(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """(top-level package, statement) of every import that must succeed."""
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            yield from ((alias.name.partition(".")[0], statement) for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            yield statement.module.partition(".")[0], statement


def _is_installed(root: str) -> bool:
    try:
        return find_spec(root) is not None
    except (ImportError, ValueError):
        return True


def _devices(call: ast.Call) -> list[ast.expr]:
    """Where a call puts something: `model.to(device)`, `torch.zeros(3, device="cuda")`."""
    moved = call.args[:1] if isinstance(call.func, ast.Attribute) and call.func.attr == "to" else []
    return [*moved, *(word.value for word in call.keywords if word.arg == "device")]


def _is_gpu(node: ast.expr, tree: ast.Module) -> bool:
    """`"cuda:0"`, `torch.device("cuda")` and names of these; no `"cuda" if torch.cuda.is_available() else "cpu"`."""
    if isinstance(node, ast.Name):
        bound = [s.value for s in tree.body if isinstance(s, ast.Assign) and node.id in _binds(s)]
        return bool(bound) and all(not isinstance(one, ast.Name) and _is_gpu(one, tree) for one in bound)
    if isinstance(node, ast.Call) and _last_name(node.func) == "device" and node.args:
        return _is_gpu(node.args[0], tree)
    return isinstance(node, ast.Constant) and str(node.value).startswith("cuda")


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def name_of_copy(stem: str) -> str:
    """An importable name for what is copied out of a file.

    >>> name_of_copy("train"), name_of_copy("01 my net-v2")
    ('train_model', 'net_01_my_net_v2_model')
    """
    word = re.sub(r"\W+", "_", stem).strip("_")
    return f"{word if word[:1].isidentifier() else f'net_{word}'}_model"


def cells_of(notebook: Mapping[str, object]) -> list[str]:
    """The code of a notebook, a text a cell, without the lines that only a notebook can run.

    Raises:
        KeyError, TypeError, AttributeError: it is no notebook.
    """
    cells = notebook["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell.get("cell_type") == "code"]  # type: ignore[attr-defined]
    plain = ["" if text.lstrip().startswith("%%") else text for text in texts]
    return [re.sub(r"(?m)^(\s*)[%!?].*$", r"\1pass", text) for text in plain]
