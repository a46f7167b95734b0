"""verify for Core ML: run a saved package on this machine, and find the operator where it parts from another."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from idp_deploy.errors import ConversionError
from idp_deploy.reading.coreml_program import Operation
from idp_deploy.verification.coreml_interpreter import Interpreter, load_interpreter

_SUFFIX = re.compile(r"_(cast|to)_(fp16|fp32|u?int16|u?int8)$|_to_(fp16|fp32)$")


def run_coreml(path: Path, calls: Sequence[tuple[np.ndarray, ...]]) -> dict[str, list[tuple[np.ndarray, ...]]]:
    """Run a package in the reference interpreter.

    A call with k times the batch of the file is run as k calls, since the file's batch is fixed.

    Args:
        calls: each the flattened inputs of the model, in its order.

    Returns:
        {"coreml-interpreter-float16" or "-float32": outputs of each call, floats as float32}.

    Raises:
        FileError: the package is broken. ConversionError: an operator without a row, or inputs that do not fit.
    """
    interpreter = load_interpreter(path)
    names, outputs = _order(interpreter)
    results = []
    for call in calls:
        parts = [interpreter.run(dict(zip(names, part, strict=True))) for part in _batches(interpreter, names, call)]
        results.append(tuple(_joined([part[name] for part in parts]) for name in outputs))
    return {f"coreml-interpreter-{interpreter.precision}": results}


@dataclass(frozen=True)
class Divergence:
    """The first operator whose output differs by more than the tolerance."""

    operation: str
    kind: str
    value: str
    relative_error: float


def first_divergence(
    path: Path, reference: Path, call: tuple[np.ndarray, ...], *, tolerance: float = 2e-2
) -> Divergence | None:
    """Run two packages of one model side by side, such as float16 and float32, and name where they part.

    Values are paired by name, precision suffixes left out. None where every pair agrees within `tolerance`,
    relative to the reference's largest entry.
    """
    traces: list[dict[str, tuple[Operation, Tensor]]] = []
    for interpreter in (load_interpreter(path), load_interpreter(reference)):
        names, _ = _order(interpreter)
        inputs = dict(zip(names, _batches(interpreter, names, call)[0], strict=True))
        traces.append(
            {
                _SUFFIX.sub("", name): (operation, value)
                for operation, name, value in interpreter.trace(inputs)
                if isinstance(value, Tensor) and value.is_floating_point()
            }
        )
    shared = [name for name in traces[0] if name in traces[1]]
    if not shared:
        raise ConversionError(f"{path} and {reference} are different programs", way_out="export both from one model")
    for name in shared:
        (operation, value), (_, expected) = traces[0][name], traces[1][name]
        error = relative_error(value.float().numpy(), expected.float().numpy())
        if not error <= tolerance:
            return Divergence(operation.name, operation.kind, name, error)
    return None


def dead_outputs(path: Path, call: tuple[np.ndarray, ...], *, seed: int = 0) -> tuple[str, ...]:
    """Outputs that hardly move when every float input is replaced by other numbers of the same spread.

    Parity on such an output proves little: a network that is pruned to silence agrees with anything.
    """
    rng = np.random.default_rng(seed)
    other = tuple(rng.permutation(a.reshape(-1)).reshape(a.shape) if a.dtype.kind == "f" else a for a in call)
    noisy = tuple(
        (a + rng.standard_normal(a.shape) * (a.std() + 1.0)).astype(a.dtype) if a.dtype.kind == "f" else a
        for a in other
    )
    (results,) = run_coreml(path, [call, noisy]).values()
    names = _order(load_interpreter(path))[1]
    return tuple(
        name
        for name, first, second in zip(names, *results, strict=True)
        if first.dtype.kind == "f" and relative_error(first, second) < 1e-3
    )


def relative_error(value: np.ndarray, expected: np.ndarray) -> float:
    """max |value − expected| / max |expected|; infinite where either is not finite and they are not equal."""
    if value.shape != expected.shape:
        return float("inf")
    difference = np.where(value == expected, 0.0, np.abs(value.astype(np.float64) - expected))
    if not np.isfinite(difference).all():
        return float("inf")
    scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    return float(difference.max(initial=0.0)) / max(scale, float(np.finfo(np.float32).tiny))


def _order(interpreter: Interpreter) -> tuple[list[str], list[str]]:
    """(inputs, outputs) in the model's order: the manifest's where there is one, else the file's."""
    program = interpreter.program
    inputs, outputs = [v.name for v in program.inputs], [v.name for v in program.outputs]
    try:
        manifest = json.loads(program.metadata.get("idp_deploy", "{}"))
    except ValueError:
        manifest = {}
    sides = []
    for key, present in (("inputs", inputs), ("outputs", outputs)):
        declared = manifest.get(key) if isinstance(manifest, Mapping) else None
        sides.append(declared if isinstance(declared, list) and sorted(declared) == sorted(present) else present)
    return sides[0], sides[1]


def _batches(interpreter: Interpreter, names: list[str], call: tuple[np.ndarray, ...]) -> list[list[Tensor]]:
    """The call as calls of the file's own batch."""
    shapes = {v.name: v.shape for v in interpreter.program.inputs}
    if len(call) != len(names):
        raise ConversionError(
            f"{interpreter.program.path} takes {len(names)} inputs ({', '.join(names)}), got {len(call)}"
        )
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in call]
    counts = {
        tensor.shape[0] // shapes[name][0]
        for name, tensor in zip(names, tensors, strict=True)
        if tensor.dim() and shapes[name] and shapes[name][0] > 0 and tensor.shape[0] % shapes[name][0] == 0
    }
    count = counts.pop() if len(counts) == 1 else 1
    if count <= 1:
        return [tensors]
    split = [tensor.chunk(count) if tensor.dim() else (tensor,) * count for tensor in tensors]
    return [list(part) for part in zip(*split, strict=True)]


def _joined(parts: list[Tensor]) -> np.ndarray:
    whole = parts[0] if len(parts) == 1 else torch.cat(parts) if parts[0].dim() else torch.stack(parts)
    return (whole.float() if whole.is_floating_point() else whole).numpy()
