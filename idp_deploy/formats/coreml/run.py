"""Run a Core ML package on this machine, in the reference interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idp_deploy.errors import ConversionError
from idp_deploy.flow import Contents
from idp_deploy.formats.coreml.interpreter.machine import Interpreter
from idp_deploy.formats.sessions import Arrays, Session


def open_coreml(contents: Contents, *, threads: int = 1) -> dict[str, Session]:
    """One session, "coreml-interpreter-float16" or "-float32".

    A call with k times the batch of the file is run as k calls, since the file's batch is fixed.

    Raises:
        ConversionError: an operator without a row, or inputs that do not fit.
    """
    interpreter = Interpreter(contents.parsed)

    def run(call: Arrays) -> Arrays:
        parts = [interpreter.run(inputs) for inputs in bind(interpreter, contents.interface.inputs, call)]
        return tuple(_joined([part[name] for part in parts]) for name in contents.interface.outputs)

    return {f"coreml-interpreter-{interpreter.precision}": run}


def bind(interpreter: Interpreter, names: Sequence[str], call: Arrays) -> list[dict[str, Tensor]]:
    """Arrays as inputs by these names, one dict for each of the file's own batches in the call."""
    shapes = {v.name: v.shape for v in interpreter.program.inputs}
    if len(call) != len(names):
        raise ConversionError(
            f"{interpreter.program.path} takes {len(names)} inputs ({', '.join(names)}), got {len(call)}"
        )
    tensors = [torch.from_numpy(np.require(np.ascontiguousarray(array), requirements="W")) for array in call]
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


def _joined(parts: list[Any]) -> np.ndarray:
    if isinstance(parts[0], np.ndarray):  # names of classes
        return np.array(parts) if len(parts) > 1 else parts[0]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts) if parts[0].dim() else torch.stack(parts)
    return (whole.float() if whole.is_floating_point() else whole).numpy()
