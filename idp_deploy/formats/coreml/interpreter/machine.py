"""A reference interpreter of ML programs: Core ML itself runs on Apple systems only, so the file is run here.

One row an operator in `OPS`, defined by the public reference of MIL (coremltools' operator documentation); the rows
stand in the files beside this one. Each is computed in float32 and rounded to the type the program declares, which is
how float16 is emulated; what accelerators do inside one operator is not known and not modelled. An operator without a
row, or a result whose shape is not the declared one, is a named failure, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idp_deploy.errors import ConversionError, FileError
from idp_deploy.flow import Value
from idp_deploy.formats.coreml.interpreter import layers, math, recurrent, shape, states
from idp_deploy.formats.coreml.interpreter.call import TYPES, Call, Row
from idp_deploy.formats.coreml.read.constexpr import Weights, is_constexpr
from idp_deploy.formats.coreml.read.program import Block, Constant, Operation, Program, walk

OPS: dict[str, Row] = layers.ROWS | math.ROWS | recurrent.ROWS | shape.ROWS | states.ROWS


class Interpreter:
    """Runs one program. Constants are decoded once; `run` may be called often.

    Args:
        wide: compute in float32 what the program says to compute in float16; its constants stay as they are stored.
    """

    def __init__(self, program: Program, *, wide: bool = False) -> None:
        self.program, self.wide = program, wide
        operations = list(walk(program.block))
        unknown = sorted({o.kind for o in operations if not _is_constant(o) and o.kind not in OPS})
        if unknown:
            first = next(o for o in operations if o.kind == unknown[0])
            raise ConversionError(
                f"{program.path}: the reference interpreter has no operator {', '.join(map(repr, unknown))} "
                f"(first at {first.name!r})",
                way_out="verify this file on a device, or write that part with other operators",
            )
        weights = Weights(operations)
        visible = {a for o in operations if not is_constexpr(o) for args in o.inputs.values() for a in args}
        visible |= set(program.block.outputs)
        self._constants = {
            v.name: tensor_of(weights.decode(v.name).values, v.dtype)
            for o in operations
            if _is_constant(o)
            for v in o.outputs
            if v.name in visible
        }

    @property
    def precision(self) -> str:
        """float16 where any operator computes in it, else float32."""
        kinds = {v.dtype for o in walk(self.program.block) if not _is_constant(o) for v in o.outputs}
        return "float16" if "float16" in kinds else "float32"

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, in the program's order and types."""
        values: dict[str, Any] = self._constants | dict(inputs)
        values.update((name, result) for _, name, result in self.trace(inputs))
        return {v.name: self._lookup(v.name, values) for v in self.program.outputs}

    @torch.no_grad()
    def trace(self, inputs: Mapping[str, Tensor]) -> Iterator[tuple[Operation, str, Any]]:
        """(operator, value name, value) in execution order, for `run` and for finding where two runs part."""
        environment: dict[str, Any] = self._constants | states.new_states(walk(self.program.block))
        for value in self.program.inputs:
            if value.name not in inputs:
                raise ConversionError(f"{self.program.path}: input {value.name!r} was not given")
            environment[value.name] = _checked(inputs[value.name].to(TYPES[value.dtype]), value, "input")
        yield from self._steps(self.program.block, environment)

    def run_block(self, block: Block, arguments: list[Any], environment: Mapping[str, Any]) -> list[Any]:
        """A branch or a loop's body; it sees the values around it."""
        inner = dict(environment) | {v.name: a for v, a in zip(block.inputs, arguments, strict=True)}
        for _ in self._steps(block, inner):
            pass
        return [inner[name] for name in block.outputs]

    def _steps(self, block: Block, environment: dict[str, Any]) -> Iterator[tuple[Operation, str, Any]]:
        for operation in block.operations:
            if _is_constant(operation):
                continue
            arguments = {
                name: self._argument(args, environment, name in ("values", "loop_vars") or len(args) > 1)
                for name, args in operation.inputs.items()
                if args
            }
            call = Call(operation, arguments, self.run_block, environment)
            try:
                results = arguments["x"].float() if self._stays_wide(operation) else OPS[operation.kind](call)
            except (RuntimeError, IndexError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise ConversionError(
                    f"{self.program.path}: {operation.kind} ({operation.name!r}) cannot run: {str(error)[:200]}"
                ) from error
            results = results if isinstance(results, tuple) else (results,)
            for value, result in zip(operation.outputs, results, strict=False):
                environment[value.name] = _checked(result, value, operation.name, wide=self.wide)
                yield operation, value.name, environment[value.name]

    def _stays_wide(self, operation: Operation) -> bool:
        return self.wide and operation.kind == "cast" and operation.outputs[0].dtype == "float16"

    def _lookup(self, name: str, environment: Mapping[str, Any]) -> Any:
        if name not in environment:
            raise FileError(
                f"{self.program.path}: nothing computes the value {name!r}", way_out="export the model again"
            )
        return environment[name]

    def _argument(self, arguments: tuple[Any, ...], environment: Mapping[str, Any], many: bool) -> Any:
        found = [
            tensor_of(a.values, a.dtype) if isinstance(a, Constant) else self._lookup(a, environment) for a in arguments
        ]
        widened = [v.float() if isinstance(v, Tensor) and v.dtype == torch.float16 else v for v in found]
        return widened if many else widened[0]


def tensor_of(values: np.ndarray, dtype: str) -> Any:
    """A decoded constant as a tensor; strings as they are."""
    if dtype in ("string", "other"):
        return values.reshape(-1)[0] if values.size == 1 else values.tolist()
    return torch.from_numpy(np.array(values, _NUMPY.get(dtype))).to(TYPES.get(dtype, torch.float32))


_NUMPY = {"uint16": np.int32, "uint32": np.int64}


def _is_constant(operation: Operation) -> bool:
    return operation.kind == "const" or is_constexpr(operation)


def _checked(result: Any, value: Value, name: str, *, wide: bool = False) -> Any:
    """The result in the declared type; refused where its shape is another than the declared."""
    if not isinstance(result, Tensor):
        return result
    if value.dtype in TYPES:
        declared = value.shape
        if len(declared) != result.dim() or any(d not in (-1, n) for d, n in zip(declared, result.shape, strict=True)):
            raise ConversionError(
                f"{name!r} gives shape {tuple(result.shape)} where the program declares {declared} for {value.name!r}"
            )
        return result.to(torch.float32 if wide and value.dtype == "float16" else TYPES[value.dtype])
    return result
