"""Rows for what a program keeps from one call to the next. Each call begins with zeros, as a new state does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idp_deploy.errors import ConversionError
from idp_deploy.formats.coreml.interpreter.call import TYPES, Call, Row, adding_to
from idp_deploy.formats.coreml.read.program import Operation

ROWS: dict[str, Row] = {}
op = adding_to(ROWS)


@dataclass(eq=False)
class State:
    """A cell that branches and loops write to as well as what is around them."""

    value: Tensor


def new_states(operations: Iterable[Operation]) -> dict[str, Any]:
    """A state of zeros for each that is read, in the shape and type that its reader declares.

    Raises:
        ConversionError: one of a shape that no memory holds.
    """
    found: dict[str, Any] = {}
    for operation in operations:
        if operation.kind == "read_state" and operation.inputs.get("input") and operation.outputs:
            name, value = operation.inputs["input"][0], operation.outputs[0]
            try:
                zeros = torch.zeros(value.shape, dtype=TYPES.get(value.dtype, torch.float32))
            except RuntimeError as error:
                raise ConversionError(f"the state {name!r} cannot have the shape {value.shape}") from error
            found[str(name)] = State(zeros)
    return found


@op("read_state")
def _read_state(call: Call) -> Any:
    return call["input"].value


@op("write_state")
def _write_state(call: Call) -> Any:
    call["input"].value = call["data"]
    return ()
