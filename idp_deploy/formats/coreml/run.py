"""verify for Core ML: run a saved package on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from idp_deploy.errors import ConversionError
from idp_deploy.formats.coreml.interpreter.machine import Interpreter, load_interpreter


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
    _, outputs = _order(interpreter)
    results = []
    for call in calls:
        parts = [interpreter.run(inputs) for inputs in bind(interpreter, call)]
        results.append(tuple(_joined([part[name] for part in parts]) for name in outputs))
    return {f"coreml-interpreter-{interpreter.precision}": results}


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


def bind(interpreter: Interpreter, call: tuple[np.ndarray, ...]) -> list[dict[str, Tensor]]:
    """Arrays in the model's order as inputs by name, one dict for each of the file's own batches in the call."""
    names, _ = _order(interpreter)
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
        return [dict(zip(names, tensors, strict=True))]
    split = [tensor.chunk(count) if tensor.dim() else (tensor,) * count for tensor in tensors]
    return [dict(zip(names, part, strict=True)) for part in zip(*split, strict=True)]


def _joined(parts: list[Tensor]) -> np.ndarray:
    whole = parts[0] if len(parts) == 1 else torch.cat(parts) if parts[0].dim() else torch.stack(parts)
    return (whole.float() if whole.is_floating_point() else whole).numpy()
