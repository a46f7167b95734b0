"""Names of callables: `pkg.mod:factory` makes a module, `pkg.mod:task` a task.

Keyword arguments may follow, Python literals and objects of classes that are built of such:
`pkg.mod:factory(width=0.5, classes=1000)`, `pkg.mod:Net(config=Config(depth=3))`.
"""

from __future__ import annotations

import ast
import copy
import inspect
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from idp_deploy.errors import IdpDeployError, UsageError, asks_for_gpu
from idp_deploy.files import code_folders
from idp_deploy.loading.lazy import is_open

if TYPE_CHECKING:
    from idp_deploy.tasks import Task

# what the stages call on a task, and what they give it; `Task` brings defaults for all but the first two
TASK_METHODS: dict[str, tuple[str, ...]] = {
    "train_loader": ("seed",),
    "validation_loader": (),
    "inputs": ("batch",),
    "loss": ("outputs", "batch"),
    "score": ("outputs", "batch"),
    "optimizer": ("module",),
    "example_inputs": (),
}

_DOTTED = r"[^\W\d]\w*(\.[^\W\d]\w*)*"


def load_module(factory: str) -> nn.Module:
    """The module that the callable named `factory` returns, or a copy of the one of that name.

    Torch's random state is left as it was.

    Args:
        factory: "pkg.mod:callable" or "pkg.mod:callable(width=0.5)"; the working folder is searched too.

    Raises:
        UsageError: no such module or attribute, not callable, other arguments than it takes, fails, or returns
            something else.
    """
    return as_module(_call(factory, "--model"), factory)


def as_module(made: Any, factory: str) -> nn.Module:
    """What a factory returned, if it is a module whose weights have values and can be masked.

    Raises:
        UsageError: it is something else, TorchScript, a graph of torch.export, or was built on the meta device.
    """
    if not isinstance(made, nn.Module):
        raise UsageError(
            f"--model {factory} returned {_kind(made)}, not a torch.nn.Module",
            way_out="name a callable that builds and returns the module",
        )
    if isinstance(made, torch.jit.ScriptModule):
        raise UsageError(
            f"--model {factory} returned a TorchScript module, whose weights cannot be masked",
            way_out="name the factory of the module that was scripted",
        )
    if isinstance(made, torch.fx.GraphModule) and "train" in vars(made):  # torch.export puts a refusal in its place
        raise UsageError(
            f"--model {factory} returned a graph of torch.export, which can neither be trained nor traced again",
            way_out="name the factory of the module that was exported",
        )
    tensors = dict(made.named_parameters()) | dict(made.named_buffers())
    if empty := next((name for name, tensor in tensors.items() if tensor.is_meta), None):
        raise UsageError(
            f"--model {factory} returned a module without values: '{empty}' is on the meta device",
            way_out="build it outside of torch.device('meta') and init_empty_weights(): buffers that no file holds, "
            "such as tables of positions, would have none",
        )
    made_apart = any(not is_open(tensor) and tensor.is_inference() for tensor in tensors.values())
    return copy.deepcopy(made) if made_apart else made  # tensors of inference mode cannot be trained, copies can


def load_task(spec: str) -> Task:
    """The task that the callable named `spec` returns; anything with the methods of `idp_deploy.tasks.Task` will do.

    Raises:
        UsageError: as for `load_module`, or the object lacks a method of a task.
    """
    made = _call(spec, "--task")
    missing = [name for name in TASK_METHODS if not callable(getattr(made, name, None))]
    if missing:
        raise UsageError(
            f"--task {spec} returned {_kind(made)}, which has no {', no '.join(f'{name}()' for name in missing)}",
            way_out="subclass idp_deploy.Task, which brings defaults for classification",
        )
    for name, given in TASK_METHODS.items():
        try:
            inspect.signature(getattr(made, name)).bind(*given)
        except TypeError as error:
            raise UsageError(
                f"--task {spec}: {name}() does not take what it is given: {error}",
                way_out=f"write it as def {name}({', '.join(('self', *given))})",
            ) from None
        except ValueError:
            pass  # a built-in without a signature
    return made  # type: ignore[no-any-return]


def resolve(spec: str, what: str = "--model") -> Callable[..., Any]:
    """The callable that "pkg.mod:callable" names.

    Args:
        what: the flag or key that `spec` came from, for the message.

    Raises:
        UsageError: with the nearest names where something is misspelt.

    >>> resolve("json:dumps")([1])
    '[1]'
    >>> resolve("json:dump_s")
    Traceback (most recent call last):
    ...
    idp_deploy.errors.UsageError: --model json:dump_s: module 'json' has no attribute 'dump_s' — did you mean 'dumps' \
or 'dump'?
    """
    module_name, _, attribute = spec.partition(":")
    a_file = module_name.endswith(".py")
    if (a_file and Path(module_name).is_file()) or not re.fullmatch(f"{_DOTTED}:{_DOTTED}", spec):
        hint = ""
        if a_file:
            hint = f"write {module_name.removesuffix('.py').replace(os.sep, '.').strip('.')}:{attribute or 'callable'}"
        raise UsageError(f"{what} {spec!r} does not name a callable", way_out=hint or "write it as pkg.mod:callable")
    found: Any = _import(module_name, spec, what)
    if hiding := _hiding(module_name):
        raise UsageError(f"{what} {spec} would be that of another place", way_out=hiding)
    for depth, name in enumerate(attribute.split(".")):
        try:
            found = getattr(found, name)
        except AttributeError:
            owner = f"'{'.'.join(attribute.split('.')[:depth])}'" if depth else f"module '{module_name}'"
            public = [n for n in dir(found) if not n.startswith("_")]
            way_out = did_you_mean(name, public) or "check the name after the colon"
            raise UsageError(f"{what} {spec}: {owner} has no attribute '{name}'", way_out=way_out) from None
    if not callable(found):
        raise UsageError(
            f"{what} {spec} is {_kind(found)}, not a callable", way_out="name a function or a class without arguments"
        )
    return found  # type: ignore[no-any-return]


def _hiding(module_name: str) -> str:
    """What to do where a module of another place, of other contents, was imported under the name of a file here."""
    imported = Path(getattr(sys.modules.get(module_name), "__file__", None) or "")
    inside = Path(*module_name.split("."))
    own = [Path(folder) / one for folder in code_folders() for one in (f"{inside}.py", inside / "__init__.py")]
    here = [one for one in own if one.is_file()]
    if not here or (imported.is_file() and any(imported.read_bytes() == one.read_bytes() for one in here)):
        return ""
    return (
        f"'{module_name}' was imported from {imported} before {here[0]}: rename the file, or start Python "
        "anew if that is of another folder you worked in"
    )


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """ "did you mean 'a' or 'b'?", or nothing where no candidate is near."""
    near = get_close_matches(name, list(candidates), n=2, cutoff=0.6)
    return f"did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def _import(name: str, spec: str, what: str) -> Any:
    folders = code_folders()
    for folder in reversed(folders):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    invalidate_caches()
    try:
        with _kept(name):
            return import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(
                f"{what} {spec}: there is no module '{error.name}' here or among the installed packages",
                way_out=did_you_mean(error.name, _siblings(error.name))
                or f"looked in {', '.join(folders)} and on sys.path",
            ) from None
        raise UsageError(
            f"{what} {spec}: importing '{name}' needs the package '{error.name}', which is not installed",
            way_out=_lying_below(str(error.name)) or "install it beside idp-deploy",
        ) from error
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{what} {spec}: importing '{name}' fails with {type(error).__name__}: {error}",
            way_out=_after_failing(name, error),
        ) from error


@contextmanager
def _kept(name: str) -> Iterator[None]:
    """What is ours while code of others runs: it finds no command line, and the working folder stays where it was."""
    ours, folder = sys.argv, os.getcwd()
    sys.argv = [f"{name}.py"]
    try:
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            yield
    finally:
        sys.argv = ours
        os.chdir(folder)


def _lying_below(package: str) -> str:
    """How a package in a folder of this one, such as `lib/`, is found; empty where there is none."""
    root = package.partition(".")[0]
    places = [path.parent.name for end in ("", ".py") for path in sorted(Path.cwd().glob(f"*/{root}{end}"))]
    return f"it lies in {places[0]}: pip install -e ., or set PYTHONPATH={places[0]}" if places else ""


def _after_failing(name: str, error: BaseException) -> str:
    """What to do about code that cannot be imported."""
    if isinstance(error, NameError) and error.name == "get_ipython":
        return "it was exported from a notebook: remove the lines with get_ipython(), which work only there"
    guard = "put it below `if __name__ == '__main__':`, which leaves the classes importable"
    if asks_for_gpu(error):
        return f"code at the top of the file asks for a GPU, and there is none: {guard}"
    if isinstance(error, SystemExit) or (isinstance(error, IndexError) and "argv" in _line(error)):
        return f"code at the top of the file reads a command line or ends the program: {guard}"
    return f"try: python -c 'import {name}'"


def _line(error: BaseException) -> str:
    """The line of source that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return (last[0].line or "") if last else ""


def _siblings(name: str) -> list[str]:
    """Importable names beside `name`, with its parent's prefix."""
    parent, dot, _ = name.rpartition(".")
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else code_folders()
    return [f"{parent}{dot}{found.name}" for found in pkgutil.iter_modules(path)] if path else []


def _call(spec: str, what: str) -> Any:
    if not isinstance(spec, str):
        raise UsageError(f"{what} is {spec!r}, which names no callable", way_out="write it as pkg.mod:callable")
    name, bracket, rest = spec.partition("(")
    given = _keywords(spec, bracket + rest, what) if bracket else {}
    function = resolve(name.strip(), what)
    with torch.random.fork_rng(devices=[]):  # an argument may be a module, whose weights are drawn
        arguments = {key: _value(node, spec, what) for key, node in given.items()}
    if isinstance(function, nn.Module):  # a script makes it as it is imported
        if bracket:
            raise UsageError(
                f"{what} {spec}: '{name}' is a module already and takes no arguments", way_out=f"write {name}"
            )
        return copy.deepcopy(function)
    try:
        signature = inspect.signature(function)
        signature.bind(**arguments)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "no arguments"
        raise UsageError(
            f"{what} {spec} cannot be called like this: {error}",
            way_out=f"it takes {takes}; write {name}(key=value), or name a small function that passes them",
        ) from None
    except ValueError:
        pass  # a built-in without a signature
    try:
        with torch.random.fork_rng(devices=[]), _kept(name.partition(":")[0]):
            return function(**arguments)
    except IdpDeployError:
        raise
    except SystemExit as error:
        raise UsageError(f"{what} {spec} ended the program (SystemExit: {error})", way_out=_NO_PROGRAM) from error
    except Exception as error:
        raise UsageError(f"{what} {spec} failed with {type(error).__name__}: {error}", way_out=_GIVEN) from error


_NO_PROGRAM = "it finds no command line here: name a function that reads none, and returns what is to be made"
_GIVEN = "check its arguments, or name a function that takes none and returns what is to be made"
_WRITTEN = "write pkg.mod:callable(width=0.5, settings=Config(depth=3)), Python literals and classes only"


def _keywords(spec: str, bracketed: str, what: str) -> dict[str, ast.expr]:
    """The arguments of "(width=0.5, classes=1000)"; nothing in it is run."""
    try:
        return _of_call(ast.parse(f"f{bracketed}", mode="eval").body)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        message = f"{what} {spec!r} does not name a callable with keyword arguments"
        raise UsageError(message, way_out=_WRITTEN) from None


def _of_call(node: ast.expr) -> dict[str, ast.expr]:
    if not isinstance(node, ast.Call) or node.args or any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("not keyword arguments")
    return {str(keyword.arg): keyword.value for keyword in node.keywords}


def _value(node: ast.expr, spec: str, what: str) -> Any:
    """A literal, or an object of a class: `Config(depth=3)` of the same module, `pkg.conf.Config()` of another."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        pass
    text = ast.unparse(node)
    try:
        given = {key: _value(inner, spec, what) for key, inner in _of_call(node).items()}
        name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    except ValueError:
        raise UsageError(f"{what} {spec!r}: {text} is no value", way_out=_WRITTEN) from None
    module, _, last = name.rpartition(".")
    made = resolve(f"{module or spec.partition(':')[0]}:{last}", what)
    if not isinstance(made, type):
        raise UsageError(f"{what} {spec!r}: {name} is {_kind(made)}, not a class", way_out=_WRITTEN)
    try:
        return made(**given)
    except Exception as error:
        raise UsageError(f"{what} {spec!r}: {text} failed with {type(error).__name__}: {error}") from error


def _kind(value: Any) -> str:
    """What something is, for a message: "the class Net", "a list"."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"{'an' if type(value).__name__[0].lower() in 'aeiou' else 'a'} {type(value).__name__}"
