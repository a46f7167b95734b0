"""half: a captured model that computes in float16, its inputs and outputs float32 as before."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from idp_deploy.capturing import Captured, export_program
from idp_deploy.errors import PrecisionError

_LARGEST = float(np.finfo(np.float16).max)
_FLOATS = (torch.float32, torch.float64, torch.bfloat16)
_WAY_OUT = "export with --precision float32"


def refuse_overflow(captured: Captured) -> None:
    """PrecisionError where a weight is beyond float16."""
    for name, tensor in captured.module.state_dict().items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        largest = float(tensor.abs().max())
        if not largest <= _LARGEST:
            raise PrecisionError(
                f"weight {name!r} reaches {largest:g}, beyond float16's {_LARGEST:g}", way_out=_WAY_OUT
            )


def in_half(captured: Captured) -> ExportedProgram:
    """The model once more as a program, weights and activations float16.

    Whatever `forward` makes as float32 (masks, ranges, casts) becomes float16 too; finite numbers beyond its range,
    such as the −3.4e38 that masks attention, become its largest.

    Raises:
        PrecisionError: a weight beyond float16, or a forward that torch cannot trace in it.
    """
    refuse_overflow(captured)
    module = deepcopy(captured.module)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.half()
    for node in module.graph.nodes:
        if node.op == "call_function":
            node.args, node.kwargs = (_narrowed(value) for value in (node.args, node.kwargs))
    module.recompile()
    try:
        return export_program(_Between(module), captured.example_inputs)[0]
    except Exception as error:  # torch raises every kind where two types meet
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise PrecisionError(f"the model cannot be computed in float16: {said}", way_out=_WAY_OUT) from error


class _Between(nn.Module):
    """The module between casts: float32 outside, float16 inside."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__()
        self.inner = module

    def forward(self, *inputs: Any) -> Any:
        return pytree.tree_map(_single, self.inner(*pytree.tree_map(_half, inputs)))


def _half(value: Any) -> Any:
    return value.half() if isinstance(value, Tensor) and value.is_floating_point() else value


def _single(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _narrowed(arguments: Any) -> Any:
    """The arguments of an operator with every float type and number as float16 has them."""

    def change(value: Any) -> Any:
        if value in _FLOATS if isinstance(value, torch.dtype) else False:
            return torch.float16
        if isinstance(value, float) and _LARGEST < abs(value) < float("inf"):
            return float(np.copysign(_LARGEST, value))
        return value

    return pytree.tree_map(change, arguments)
