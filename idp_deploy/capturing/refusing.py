"""Why a model cannot be captured, in words, with the line it stopped at and the way out."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from linecache import getline
from pathlib import PurePath
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from idp_deploy.capturing.gradients import takes_gradients
from idp_deploy.capturing.telling import asks_for_values
from idp_deploy.errors import ConversionError, asks_for_gpu

_CALLED = re.compile(r'File "([^"]+)", line (\d+), in [^\n]+\n\s*(\S[^\n]*)')
_PACKED = (
    "run the recurrent layer on the padded batch, and pick each last state by its length: "
    "outputs.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, width))"
)


def explained(error: Exception, module: nn.Module, example_inputs: tuple[Any, ...]) -> ConversionError:
    """The error for what torch.export said of `module`."""
    first = _first_line(error)
    if _on_packed(error):
        return ConversionError(
            "the model packs its sequences (pack_padded_sequence), and files hold no packed ones", way_out=_PACKED
        )
    failing = _failing(module, example_inputs)
    if asks_for_gpu(error) or (failing and asks_for_gpu(failing)):
        return ConversionError(
            f"forward asks for a GPU, which files have no word of: {first}",
            way_out="make tensors where its input lies: `device=x.device` in place of `.cuda()` or 'cuda'",
        )
    if failing is not None and "does not require grad" in str(failing):
        return ConversionError(
            "forward takes gradients (torch.autograd.grad), and inference is run without",
            way_out="put them, and what they are taken of, inside `with torch.enable_grad():` in forward",
        )
    if failing is not None:
        given = ", ".join("×".join(map(str, x.shape)) for x in example_inputs if isinstance(x, Tensor))
        return ConversionError(
            f"the model does not run on {given or 'these inputs'}: {_first_line(failing)}",
            way_out=_by_keyword(module) or "give it what it is used with, by --inputs or as 'inputs' in configuration",
        )
    if takes_gradients(module, example_inputs):
        return ConversionError(
            "forward takes gradients itself (torch.autograd.grad, torch.func.grad, jacrev, vjp), and files hold no way "
            "back through a network",
            way_out="write the derivative out as operators, or return what it is taken of",
        )
    if "push_jvp" in {frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__)}:
        return ConversionError(
            "forward takes derivatives by torch.func.jacfwd (or hessian), which torch.export cannot trace",
            way_out="take them by torch.func.jacrev, which gives the same",
        )
    if asks_for_values(error):
        return ConversionError(
            f"forward takes another way by the values of its input{_where(error)}, and a file has one way for all",
            way_out="compute both sides and choose by torch.where, keep sizes fixed (masks in place of x[x > 0]), or "
            "leave that part to the program around the file",
        )
    if "torch._C.Generator" in str(error):
        return ConversionError(
            "forward draws its random numbers from a torch.Generator, and a file holds none",
            way_out="draw them once in __init__ and keep them by register_buffer, or take them as an input",
        )
    if "not a known type" in first:
        return ConversionError(
            f"cannot capture {type(module).__name__}: {first}",
            way_out="return tensors, or tuples, lists, dicts, NamedTuples and dataclasses of them",
        )
    return ConversionError(
        f"forward runs when it is called, and stops where torch.export traces it{_where(error)}: {first}",
        way_out="look there for what goes another way in a trace: a test of torch.compiler.is_compiling(), of a mask "
        "that is all ones, or of what an object holds; or pass other --inputs",
    )


def refuse_borrowed(module: nn.Module, program: ExportedProgram) -> None:
    """ConversionError where forward reads its weights from another object than the module it belongs to.

    A function put in the place of `forward` that holds the model itself (a closure) goes on reading the original's
    weights in every copy: those of the copy, which are pruned and saved, have no part in anything.
    """
    users = {node.name: node.users for node in program.graph.nodes if node.op == "placeholder"}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    constants = [value for value in program.constants.values() if isinstance(value, Tensor) and value.dim() > 1]
    for spec in program.graph_signature.input_specs:
        weight = parameters.get(str(spec.target)) if spec.kind == InputKind.PARAMETER else None
        if weight is None or weight.dim() < 2 or users[spec.arg.name]:
            continue
        if any(_same(weight.detach(), value.detach()) for value in constants):
            raise ConversionError(
                f"forward reads '{spec.target}' from another object than the model: a function in the place of forward "
                "that holds the model itself keeps reading the original's weights in every copy of it",
                way_out="bind it: model.forward = types.MethodType(function, model), or write a class that has it",
            )


def _same(weight: Tensor, value: Tensor) -> bool:
    """Whether they are one weight before and after it was pruned."""
    if weight.shape != value.shape or weight.dtype != value.dtype:
        return False
    both = (weight != 0) & (value != 0)
    return bool(both.any()) and torch.equal(weight[both], value[both])


def _where(error: Exception) -> str:
    """The last line of the model's own that led there, as " at net.py:12 (`if x.sum() > 0:`)"."""
    said = [(file, int(line), code) for file, line, code in _CALLED.findall(str(error))]
    ways = [(frame.f_code.co_filename, line, "") for frame, line in walk_tb(error.__traceback__)]
    start = next((place for place, way in enumerate(ways) if "/torch/export/" in way[0]), len(ways))
    found = [way for way in said if not _foreign(way[0])] or [way for way in ways[start:] if not _foreign(way[0])]
    if not found:
        return ""
    file, line, code = found[-1]
    return f" at {PurePath(file).name}:{line} (`{(code or getline(file, line)).strip()}`)"


def _foreign(file: str) -> bool:
    """Whether a file is PyTorch's, or answers its questions beside a trace."""
    return "/torch/" in file or PurePath(file).parent == PurePath(__file__).parent or file.startswith("<")


def _by_keyword(module: nn.Module) -> str:
    """The way out where forward takes nothing by position."""
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(module.forward).parameters
    kinds = inspect.Parameter
    alone = [name for name, one in parameters.items() if one.kind is kinds.KEYWORD_ONLY and one.default is kinds.empty]
    positional = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    if not alone or any(one.kind in positional for one in parameters.values()):
        return ""
    return (
        f"its forward takes {', '.join(alone)} by keyword alone: name a factory that wraps it in a module whose "
        f"forward({', '.join(alone)}) passes them on"
    )


def _failing(module: nn.Module, example_inputs: tuple[Any, ...]) -> Exception | None:
    """What the model raises by itself; None where it runs."""
    try:
        with torch.no_grad():
            module(*example_inputs)
    except Exception as error:  # whatever stops it
        return error
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _on_packed(error: BaseException) -> bool:
    """Whether a recurrent layer stopped at a PackedSequence, or at the making of one."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    inside = any("batch_sizes" in frame.f_locals and "rnn.py" in frame.f_code.co_filename for frame in frames)
    last = frames[-1].f_locals if frames else {}
    return inside and (last.get("batch_sizes", 0) is not None)
