"""Where a saved package parts from its model: the first operator whose result no longer is one of the model's.

The converter fuses, splits and renames operators, so values are paired by their numbers: a value of the file agrees
when some intermediate value of the model has as many entries and the same numbers, in the same order or with the axes
the file gives it. An operator is blamed when everything it reads agrees, its own result does not, and nothing computed
from that result agrees again (which would mean that the model merely has no counterpart of it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from idp_deploy.capturing import capture
from idp_deploy.distance import error_of
from idp_deploy.flow import CompressedModel, Contents
from idp_deploy.formats.coreml.interpreter.machine import Interpreter
from idp_deploy.formats.coreml.read.program import Operation
from idp_deploy.formats.coreml.run import bind

_NARROW = "computed in float32 the file agrees: export it with --precision float32"


@dataclass(frozen=True)
class Divergence:
    """The operator to look at, and how far its result is from the nearest value of the model."""

    operation: str
    kind: str
    value: str
    relative_error: float


def first_divergence(
    contents: Contents,
    model: CompressedModel,
    example_inputs: tuple[Any, ...],
    *,
    tolerance: float = 2e-2,
    wide: bool = False,
) -> Divergence | None:
    """The first operator of the file that computes something else than the model, or None where all outputs agree.

    Args:
        example_inputs: one call of the model, in the file's batch.
        tolerance: relative to the largest entry of the model's value; 1e-4 suits float32 files.
        wide: compute in float32 what the file says to compute in float16.

    Raises:
        ConversionError: the file cannot be run, or the model cannot be captured.
    """
    return _divergence(contents, _model_values(model, example_inputs), example_inputs, tolerance, wide)


def _divergence(
    contents: Contents,
    expected: Mapping[int, list[np.ndarray]],
    example_inputs: tuple[Any, ...],
    tolerance: float,
    wide: bool = False,
) -> Divergence | None:
    interpreter = Interpreter(contents.parsed, wide=wide)
    arrays = tuple(x.detach().numpy() for x in pytree.tree_leaves(example_inputs) if isinstance(x, Tensor))
    inputs = bind(interpreter, contents.interface.inputs, arrays)[0]
    errors: dict[str, float] = dict.fromkeys(inputs, 0.0)
    order: list[tuple[Operation, str]] = []
    for operation, name, value in interpreter.trace(inputs):
        if isinstance(value, Tensor) and value.is_floating_point():
            errors[name] = _nearest(value.float().numpy(), expected)
        order.append((operation, name))
    if all(errors.get(v.name, 0.0) <= tolerance for v in interpreter.program.outputs):
        return None
    redeemed = _redeemed(order, errors, tolerance)
    for operation, name in order:
        if errors.get(name, 0.0) <= tolerance or name in redeemed:
            continue
        read = [errors.get(a, 0.0) for a in _reads(operation)]
        if all(error <= tolerance for error in read) or not any(a in errors for a in _reads(operation)):
            return Divergence(operation.name, operation.kind, name, errors[name])
    operation, name = next((o, n) for o, n in order if errors.get(n, 0.0) > tolerance and n not in redeemed)
    return Divergence(operation.name, operation.kind, name, errors[name])


def blame(contents: Contents, model: CompressedModel, call: tuple[Any, ...], tolerance: float) -> list[str]:
    """Which operator parts from the model first, in words, if one call shows it; and whether float16 is the reason."""
    expected = _model_values(model, call)
    found = _divergence(contents, expected, call, tolerance)
    narrow = Interpreter(contents.parsed).precision == "float16"
    if found is None:  # integers and truths alone: places, classes, comparisons that rounding tips
        return [_NARROW] if narrow and _agrees_in_float32(contents, model, call, tolerance) else []
    said = [
        f"the first operator to part from the model is {found.kind} {found.operation!r}: "
        f"its result is off by {found.relative_error:.1e}"
    ]
    if narrow and _divergence(contents, expected, call, tolerance, wide=True) is None:
        said.append(_NARROW)
    return said


def _agrees_in_float32(contents: Contents, model: CompressedModel, call: tuple[Any, ...], tolerance: float) -> bool:
    """Whether the file's outputs are the model's once nothing is rounded to float16."""
    interpreter = Interpreter(contents.parsed, wide=True)
    given = tuple(x.detach().numpy() for x in pytree.tree_leaves(call) if isinstance(x, Tensor))
    outputs = {o.name for o in interpreter.program.outputs}
    made = {name: value for _, name, value in interpreter.trace(bind(interpreter, contents.interface.inputs, given)[0])}
    with torch.no_grad():
        wanted = [x for x in pytree.tree_leaves(model.module(*call)) if isinstance(x, Tensor)]
    names = [name for name in contents.interface.outputs if name in outputs & made.keys()]
    return len(names) == len(wanted) and all(
        made[name].shape == x.shape and _error(made[name].double().numpy(), x.double().numpy()) <= tolerance
        for name, x in zip(names, wanted, strict=True)
    )


def _model_values(model: CompressedModel, example_inputs: tuple[Any, ...]) -> dict[int, list[np.ndarray]]:
    """Every floating-point value the captured model computes, by its number of entries."""
    captured = capture(model, example_inputs)
    found: dict[int, list[np.ndarray]] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            for leaf in pytree.tree_leaves(result):
                if isinstance(leaf, Tensor) and leaf.is_floating_point():
                    found.setdefault(leaf.numel(), []).append(leaf.detach().float().numpy())
            return result

    with torch.no_grad():
        Recorder(captured.module).run(*pytree.tree_leaves(example_inputs))
    return found


def _nearest(value: np.ndarray, expected: Mapping[int, list[np.ndarray]]) -> float:
    """The smallest relative error against a value of the model that could be this one."""
    errors = [
        min(
            _error(value.reshape(-1), candidate.reshape(-1)),
            _error(np.sort(value, axis=None), np.sort(candidate, axis=None)) if _moved(value, candidate) else np.inf,
        )
        for candidate in expected.get(value.size, ())
    ]
    return float(min(errors, default=np.inf))


def _error(value: np.ndarray, candidate: np.ndarray) -> float:
    """The relative error; infinite where one of the two is not a number."""
    error = error_of([candidate], [value])
    return np.inf if np.isnan(error) else error


def _moved(value: np.ndarray, candidate: np.ndarray) -> bool:
    """Whether one may be the other with its axes in another order."""
    return value.shape != candidate.shape and sorted(n for n in value.shape if n > 1) == sorted(
        n for n in candidate.shape if n > 1
    )


def _reads(operation: Operation) -> list[str]:
    return [a for arguments in operation.inputs.values() for a in arguments if isinstance(a, str)]


def _redeemed(order: list[tuple[Operation, str]], errors: Mapping[str, float], tolerance: float) -> set[str]:
    """Values without counterpart from which a value that agrees is computed."""
    redeemed: set[str] = set()
    for operation, name in reversed(order):
        if errors.get(name, np.inf) <= tolerance or name in redeemed:
            redeemed.update(_reads(operation))
    return redeemed
