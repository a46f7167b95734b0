"""Models that a library of models makes: by its calls in the source, or by what lies beside the weights.

model = torchvision.models.resnet18(num_classes=7)     ──▶ torchvision.models:resnet18(num_classes=7)
config.json with "architectures": ["BertModel"]        ──▶ transformers:BertModel.from_pretrained(…='.')
resnet18-f37072fd.pth, and torchvision has a resnet18  ──▶ torchvision.models:resnet18()
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from idp_deploy import documents
from idp_deploy.surveying.configs import configuration_beside
from idp_deploy.surveying.definitions import Definition, last_name, parameters_of
from idp_deploy.surveying.stored import Stored

_OF_A_MODULE = {"state_dict", "load_state_dict", "parameters", "named_parameters"}  # what only a module is asked for
_LOADING = {"weights", "pretrained", "progress", "checkpoint_path", "weights_backbone"}  # they come from the file
_A_MODEL = re.compile(r"(?i)(^|_)(model|net|network|backbone|classifier|encoder|detector)(_|$)|^(build|create|make)$")
_NO_MODELS = {"torch", "numpy", "lightning", "pytorch_lightning", *sys.stdlib_module_names}
_HEADS = {"torchvision", "timm"}  # whose factories take num_classes
FILES = 3_000


def in_source(tree: ast.Module, path: Path, module: str | None, own: set[str]) -> Iterator[Definition]:
    """Functions that give a library's model, then the library's own where a script makes one.

    Args:
        module: under which the file is imported, if it can be. own: names of modules of the folder.
    """
    imported = dict(_imports(tree))
    for scope in (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.FunctionDef)):
        made = dict(_made(scope, imported, own))
        returned = _returned_name(scope)
        public = isinstance(scope, ast.FunctionDef) and scope in tree.body and not scope.name.startswith("_")
        if isinstance(scope, ast.FunctionDef) and public and returned in made and _A_MODEL.search(scope.name):
            spec = f"{module or '?'}:{scope.name}"
            yield Definition(path, scope.name, spec, parameters=parameters_of(scope.args), is_class=False)
            continue
        for name, (dotted, call) in made.items():
            asked = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and last_name(n.value) == name}
            if asked & _OF_A_MODULE:
                package, _, function = dotted.rpartition(".")
                given, spec = _given(dotted, call), f"{package}:{function}"
                yield Definition(path, function, spec, parameters=given, is_class=False, library=True)


def beside_weights(folder: Path, stored: Sequence[Stored]) -> Iterator[Definition]:
    """What the names of files of weights and the configuration beside them say of the library that made them."""
    for file in stored:
        said = configuration_beside(file.path)
        classes, named = said.get("architectures"), said.get("architecture")
        where = file.path.parent.relative_to(folder).as_posix() if file.path.is_relative_to(folder) else "."
        if isinstance(classes, list) and classes and isinstance(classes[0], str) and _has("transformers"):
            given: dict[str, ast.expr | None] = {"pretrained_model_name_or_path": ast.Constant(where)}
            if classes[0].endswith(
                ("ForCausalLM", "LMHeadModel")
            ):  # of keys and values of earlier tokens, which no file holds
                given["use_cache"] = ast.Constant(False)
            spec = f"transformers:{classes[0]}.from_pretrained"
            yield Definition(file.path, classes[0], spec, parameters=given, is_class=False, library=True)
        words = [named] if isinstance(named, str) else _words(file.path.stem)
        for package, spec in (("torchvision", "torchvision.models:{}"), ("timm", "timm:create_model")):
            known = next((word for word in words if word in _factories(package)), None)
            if known is not None:
                given = {"model_name": ast.Constant(known)} if package == "timm" else {}
                name = spec.format(known)
                yield Definition(file.path, known, name, parameters=given, is_class=False, library=True)


def classes_of(one: Definition, stored: Stored | None) -> dict[str, object]:
    """`num_classes` as the last matrix of the weights has it, for the libraries whose factories take it."""
    if stored is None or one.spec.partition(":")[0].partition(".")[0] not in _HEADS:
        return {}
    rows = [shape[0] for name, shape in stored.shapes.items() if len(shape) == 2 and name.endswith("weight")]
    return {"num_classes": rows[-1]} if rows and rows[-1] != 1000 else {}


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(name in this file, what it stands for)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname, alias.name) if alias.asname else (alias.name.partition(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _made(scope: ast.AST, imported: Mapping[str, str], own: set[str]) -> Iterator[tuple[str, tuple[str, ast.Call]]]:
    """(variable, (dotted name, call)) of what a library makes; a value that is returned at once has the name ''."""
    for node in scope.body if isinstance(scope, ast.Module) else ast.walk(scope):
        names = [last_name(target) for target in node.targets] if isinstance(node, ast.Assign) else [""]
        value = node.value if isinstance(node, ast.Assign | ast.Return) else None
        while isinstance(value, ast.Call) and last_name(value.func) in ("to", "cuda", "eval", "train", "cpu"):
            value = value.func.value if isinstance(value.func, ast.Attribute) else None
        if not isinstance(value, ast.Call):
            continue
        dotted = _dotted(value.func)
        root, _, rest = dotted.partition(".")
        whole = f"{imported[root]}.{rest}".rstrip(".") if root in imported else ""
        package = whole.partition(".")[0]
        if whole.count(".") and package not in _NO_MODELS | own:
            yield from ((name, (whole, value)) for name in names)


def _returned_name(scope: ast.AST) -> str | None:
    for node in ast.walk(scope):
        if isinstance(node, ast.Return) and node.value is not None:
            return "" if isinstance(node.value, ast.Call) else last_name(node.value) or None
    return None


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


def _given(dotted: str, call: ast.Call) -> dict[str, ast.expr | None]:
    """The arguments of a call under their names; those that load weights are left out."""
    named = {word.arg: word.value for word in call.keywords if word.arg and word.arg not in _LOADING}
    places = _signature(dotted.partition(".")[0], dotted.rpartition(".")[2]) if call.args else ()
    return {**{n: v for n, v in zip(places, call.args, strict=False) if n not in _LOADING}, **named}


def _words(stem: str) -> list[str]:
    """What a file name may begin with, the longest first.

    >>> _words("resnet18-f37072fd")
    ['resnet18_f37072fd', 'resnet18']
    """
    parts = re.split(r"[^0-9A-Za-z]+", stem.lower())
    return ["_".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _has(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _sources(package: str) -> Iterator[str]:
    """The texts of an installed package, read and not imported."""
    spec = find_spec(package) if _has(package) else None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for path in islice(sorted(Path(place).rglob("*.py")), FILES):
            try:
                yield documents.read_text(path)
            except (OSError, ValueError):
                continue


@cache
def _factories(package: str) -> frozenset[str]:
    """The functions that a library registers as those that make its models."""
    pattern = re.compile(r"^@register_model\(?.*?^def (\w+)\(", re.M | re.S)
    return frozenset(name for text in _sources(package) for name in pattern.findall(text))


@cache
def _signature(package: str, name: str) -> tuple[str, ...]:
    """The names of the positional arguments of a function of an installed package."""
    for text in _sources(package):
        if f"def {name}(" in text:
            for node in ast.parse(text).body:
                if isinstance(node, ast.FunctionDef) and node.name == name:
                    return tuple(one.arg for one in node.args.args)
    return ()
