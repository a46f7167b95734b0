"""Classes and functions of a Python file that give an nn.Module, from its text alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from idp_deploy.surveying.bundles import Bundle, Plain, Record, assigned, bundles_of
from idp_deploy.surveying.extracting import Copy

_BUILDS = re.compile(r"(?i)(^|_)(build|create|make|construct|instantiate|get)(_|$)|from_(cfg|config)$")
MODULES = {"Module", "LightningModule", "Sequential", "PreTrainedModel"}


@dataclass(frozen=True)
class Definition:
    """A class or a function that gives an nn.Module, or a Sequential that a script makes."""

    file: Path
    name: str
    spec: str  # "pkg.mod:name"
    layers: Mapping[str, ast.Call] = field(default_factory=dict)  # attribute → what it is set to
    parameters: Mapping[str, ast.expr | None] = field(default_factory=dict)  # argument → default
    changed: frozenset[str] = frozenset()  # names that its code sets anew, so that a layer tells no argument by them
    parts: frozenset[str] = frozenset()  # names that it calls
    returns: str = ""  # of a function: the class that it returns
    is_class: bool = True
    inputs: tuple[str, ...] = ("x",)  # arguments of forward without a default
    keys: tuple[str, ...] = ()  # that forward reads of them where one is a dict
    library: bool = False  # of an installed package
    copy: Copy | None = None  # where its own file is not imported
    missing: tuple[str, ...] = ()  # packages that must be installed for it
    runs: bool = True  # a class with a forward, of its own or inherited, that leaves nothing to a subclass
    call: ast.Call | None = None  # whose result a function returns
    flows: Mapping[str, str] = field(default_factory=dict)  # argument of forward → the layer that takes it first
    bundles: Mapping[str, Bundle] = field(default_factory=dict)  # arguments that bring several
    init: ast.AST = field(default_factory=ast.Pass)  # the code that makes the layers
    methods: Mapping[str, ast.FunctionDef] = field(default_factory=dict)
    handed: Mapping[str, str] = field(default_factory=dict)  # attribute → the argument that is put away under it
    built: Mapping[str, str] = field(default_factory=dict)  # attribute → the argument that a registry builds it of
    body: ast.FunctionDef | None = None  # of a function

    @cached_property
    def put(self) -> Mapping[str, ast.expr]:
        """What `__init__` puts under `self.name` first."""
        found: dict[str, ast.expr] = {}
        for node in ast.walk(self.init):
            for target, value in assigned(node):
                if isinstance(target, ast.Attribute) and last_name(target.value) == "self":
                    found.setdefault(target.attr, value)
        return found

    @cached_property
    def sets(self) -> Mapping[str, Mapping[int, ast.expr | None]]:
        """`{"n": {12: value}}`: what `__init__` sets in which line, None where that is no plain value."""
        found: dict[str, dict[int, ast.expr | None]] = {}
        for node in ast.walk(self.init):
            if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.setdefault(ast.unparse(node), {}).setdefault(getattr(node, "lineno", 0), None)
            for target, value in assigned(node):
                if isinstance(target, ast.Name | ast.Attribute):
                    found.setdefault(ast.unparse(target), {})[getattr(target, "lineno", 0)] = value
        return found

    @property
    def made(self) -> str:
        """The class that it is or returns."""
        return self.name if self.is_class else self.returns

    @property
    def needs(self) -> tuple[str, ...]:
        """Arguments without a default."""
        return tuple(name for name, default in self.parameters.items() if default is None)


def plainly_named(tree: ast.Module) -> ast.Module:
    """The tree with names as most write them.

    What it imports of torch is called as there (`C` of `from torch.nn import Conv2d as C`, and of `C = nn.Conv2d`), and
    the first argument of a method is `self`.
    """
    aliases = [
        one
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "torch"
        for one in node.names
        if one.asname and one.name[:1].isupper()
    ]
    names = {one.asname: one.name for one in aliases if one.asname} | _assigned_layers(tree)
    for one in aliases:
        one.asname = None
    _rename(tree, names)
    for owner in ast.walk(tree):
        for method in owner.body if isinstance(owner, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef) and not method.decorator_list and method.args.args:
                first, used = method.args.args[0], (one.id for one in ast.walk(method) if isinstance(one, ast.Name))
                if first.arg != "self" and "self" not in used:
                    _rename(method, {first.arg: "self"})
                    first.arg = "self"
    return tree


def _assigned_layers(tree: ast.Module) -> dict[str, str]:
    """`C` of `C = nn.Conv2d` at the top of a file → "Conv2d", where nothing else is called so there."""
    values: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    values.setdefault(target.id, []).append(node.value)
    arguments = {one.arg for one in ast.walk(tree) if isinstance(one, ast.arg)}
    return {
        name: value.attr
        for name, (value, *others) in values.items()
        if isinstance(value, ast.Attribute)
        and ast.unparse(value.value) in ("nn", "torch.nn")
        and value.attr[:1].isupper()
        and not others
        and name not in arguments
    }


def _rename(tree: ast.AST, names: Mapping[str, str]) -> None:
    for node in ast.walk(tree) if names else ():
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)


def definitions(tree: ast.Module, path: Path, module: str, classes: Mapping[str, ast.ClassDef]) -> Iterator[Definition]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and is_module(node, classes, set()):
            yield _of_class(node, path, module)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            given = returned(node)
            known = given is not None and last_name(given.func) in classes
            if given is None:
                continue
            target = last_name(given.func)
            if (known and is_module(classes[target], classes, set())) or target == "Sequential":
                layers = _sequence(given) if target == "Sequential" else {}
                arguments = parameters_of(node.args)
                spec = f"{module}:{node.name}"
                yield Definition(
                    path, node.name, spec, layers, arguments, returns=target, is_class=False, call=given, body=node
                )
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):  # a script that makes it as it runs
            for name in (target.id for target in node.targets if isinstance(target, ast.Name)):
                if last_name(node.value.func) == "Sequential" and not name.startswith("_"):
                    yield Definition(path, name, f"{module}:{name}", _sequence(node.value), is_class=False)


def is_module(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef], seen: set[str]) -> bool:
    if node.name in seen:
        return False
    seen.add(node.name)
    for base in map(last_name, node.bases):
        if base in MODULES or (base in classes and base != node.name and is_module(classes[base], classes, seen)):
            return True
    return False


def _of_class(node: ast.ClassDef, path: Path, module: str) -> Definition:
    init = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    plain = Plain(init) if init else None
    layers: dict[str, ast.Call] = {}
    parts: set[str] = set()
    changed = {n.id for n in ast.walk(init or ast.Pass()) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for inner in ast.walk(init) if init else ():
        if isinstance(inner, ast.Call):
            parts.add(last_name(inner.func))
            if isinstance(inner.func, ast.Attribute) and inner.func.attr == "__init__":
                layers |= _sequence(inner)
            layers |= dict(_put(inner))
        layers |= {
            target.attr: plain.plain(call) if plain else call
            for target, call in assigned(inner)
            if isinstance(call, ast.Call) and isinstance(target, ast.Attribute) and last_name(target.value) == "self"
        }
    made = {target.id: call for inner in ast.walk(init or ast.Pass()) for target, call in assigned(inner)
            if isinstance(target, ast.Name) and isinstance(call, ast.Call)}  # fmt: skip
    for call in layers.values():  # `TransformerEncoder(layer, 6)`, where the line above has made the layer
        if last_name(call.func) == "TransformerEncoder" and call.args and isinstance(call.args[0], ast.Name):
            call.args[0] = made.get(call.args[0].id, call.args[0])
    forward = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "forward"), None)
    given = parameters_of(forward.args, skip=1) if forward else {"x": None}
    inputs = tuple(name for name, default in given.items() if default is None)
    runs = (forward is not None or "LightningModule" not in map(last_name, node.bases)) and not is_abstract(node)
    return Definition(
        path,
        node.name,
        f"{module}:{node.name}",
        layers,
        {**parameters_of(init.args, skip=1), **_without_number(init)} if init else {},
        frozenset(changed),
        frozenset(parts),
        inputs=inputs,
        keys=tuple(_keys(forward, inputs)) if forward else (),
        runs=runs,
        flows=dict(_flows(forward, inputs)) if forward else {},
        bundles=bundles_of(node, init, plain) if init and plain else {},
        init=plain.plain(init) if init and plain else ast.Pass(),
        methods={one.name: one for one in node.body if isinstance(one, ast.FunctionDef)},
        handed=plain.aliases if plain else {},
        built=built_of(init) if init else {},
    )


def is_abstract(node: ast.ClassDef) -> bool:
    """Whether a subclass has to fill in what `forward` or `__init__` call.

    >>> text = "class A:\\n def forward(self, x): return self.f(x)\\n def f(self, x): raise NotImplementedError"
    >>> is_abstract(ast.parse(text).body[0])
    True
    """
    methods = {one.name: one for one in node.body if isinstance(one, ast.FunctionDef)}
    needed = {"forward"} | {
        inner.attr
        for name in methods.keys() & {"forward", "__init__"}
        for inner in ast.walk(methods[name])
        if isinstance(inner, ast.Attribute) and last_name(inner.value) == "self"
    }
    return any(_is_open(one, one.name in needed) for one in methods.values())


def _is_open(method: ast.FunctionDef, needed: bool) -> bool:
    last = method.body[-1]
    raised = last.exc if isinstance(last, ast.Raise) else None
    name = last_name(raised.func if isinstance(raised, ast.Call) else raised) if raised else ""
    only = all(isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) for one in method.body[:-1])
    return (needed and only and name == "NotImplementedError") or "abstractmethod" in map(
        last_name, method.decorator_list
    )


def _put(call: ast.Call) -> Iterator[tuple[str, ast.Call]]:
    """Of `self.register_buffer("mean", torch.zeros(n))` and `self.add_module("head", nn.Linear(8, 2))`."""
    name = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    own = isinstance(call.func, ast.Attribute) and last_name(call.func.value) == "self"
    made = call.args[1] if len(call.args) > 1 else None
    if own and isinstance(name, str) and isinstance(made, ast.Call):
        if last_name(call.func) in ("register_buffer", "register_parameter"):
            yield name, ast.Call(ast.Name("Parameter"), [made], [])
        elif last_name(call.func) in ("add_module", "register_module"):
            yield name, made


def records(tree: ast.Module, module: str, classes: Mapping[str, ast.ClassDef]) -> Iterator[tuple[str, Record]]:
    """Classes that hold settings by name, of a file that can be imported."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or is_module(node, classes, set()):
            continue
        init = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
        stated = [one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
        if init is not None:
            yield node.name, Record(f"{module}:{node.name}", parameters_of(init.args, skip=1))
        elif stated:
            fields = {one.target.id: one.value for one in stated if isinstance(one.target, ast.Name)}
            yield node.name, Record(f"{module}:{node.name}", fields)


def _flows(forward: ast.FunctionDef, inputs: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(`x`, `stem`) of `self.stem(x)`, the first layer that takes an input as it is."""
    calls = [node for node in ast.walk(forward) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    for call in sorted(calls, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        taken = call.args[0] if call.args else None
        layer = call.func if isinstance(call.func, ast.Attribute) and last_name(call.func.value) == "self" else None
        if layer is not None and isinstance(taken, ast.Name) and taken.id in inputs:
            yield taken.id, layer.attr


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


def parameters_of(arguments: ast.arguments, skip: int = 0) -> dict[str, ast.expr | None]:
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args)][skip:]
    defaults = [None] * (len(names) - len(arguments.defaults)) + list(arguments.defaults)
    found: dict[str, ast.expr | None] = dict(zip(names, defaults, strict=False))
    return found | dict(zip((one.arg for one in arguments.kwonlyargs), arguments.kw_defaults, strict=True))


def _without_number(init: ast.FunctionDef) -> dict[str, ast.expr | None]:
    """`{"*sizes": None}` of `Net(*sizes)`, where these are more than handed on: nothing tells them by a name."""
    several = init.args.vararg.arg if init.args.vararg else ""
    handed = {id(node.value) for node in ast.walk(init) if isinstance(node, ast.Starred)}
    used = (node for node in ast.walk(init) if isinstance(node, ast.Name) and id(node) not in handed)
    return {f"*{several}": None} if several in {node.id for node in used} else {}


def returned(node: ast.FunctionDef) -> ast.Call | None:
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


def last_name(node: ast.expr) -> str:
    """`Conv2d` of `torch.nn.Conv2d`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def built_of(init: ast.FunctionDef) -> dict[str, str]:
    """Attribute → the argument that a registry builds it of: `self.head = HEADS.build(head)`.

    >>> built_of(ast.parse("def f(self, head): self.top = build_head(head)").body[0])
    {'top': 'head'}
    """
    parameters = {one.arg for one in (*init.args.args, *init.args.kwonlyargs)}
    found = {}
    for node in ast.walk(init):
        for target, call in assigned(node):
            if isinstance(target, ast.Attribute) and isinstance(call, ast.Call) and call.args:
                given = call.args[0]
                if isinstance(given, ast.Name) and given.id in parameters and _BUILDS.search(last_name(call.func)):
                    found[target.attr] = given.id
    return found


def registered(node: ast.ClassDef) -> Iterator[str]:
    """What registries call a class: its name, and words that its decorators have.

    >>> list(registered(ast.parse("@NETS.register('tiny')\\nclass Net: pass").body[0]))
    ['Net', 'tiny']
    """
    yield node.name
    for call in (one for one in node.decorator_list if isinstance(one, ast.Call)):
        words = [*call.args, *(word.value for word in call.keywords)]
        yield from (one.value for one in words if isinstance(one, ast.Constant) and isinstance(one.value, str))
