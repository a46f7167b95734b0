"""What a row of the reference interpreter is given, and how it takes its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from idp_deploy.errors import ConversionError
from idp_deploy.formats.coreml.read.program import Block, Operation

TYPES = {
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "bool": torch.bool,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "uint16": torch.int32,
    "uint32": torch.int64,
}

RunBlock = Callable[[Block, list[Any], Mapping[str, Any]], list[Any]]  # (block, arguments, values around it) → results


@dataclass(frozen=True, eq=False)
class Call:
    """One operator with its arguments at hand. Float16 arguments arrive as float32."""

    operation: Operation
    arguments: Mapping[str, Any]  # by parameter; a list where the parameter takes several
    run_block: RunBlock  # a branch or a loop's body, for operators that have one
    environment: dict[str, Any] = field(default_factory=dict)  # the values around it

    def __getitem__(self, name: str) -> Any:
        if name not in self.arguments:
            raise ConversionError(f"{self.operation.kind} ({self.operation.name}) lacks its parameter {name!r}")
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The argument, or `default` where the program leaves it out."""
        return self.arguments.get(name, default)

    def numbers(self, name: str, default: Any = None) -> list[int]:
        """A vector parameter as Python integers."""
        value = self.get(name)
        if value is None:
            return list(default) if default is not None else []
        return [int(v) for v in value.reshape(-1)] if isinstance(value, Tensor) else [int(value)]

    def scalar(self, name: str, default: Any = None) -> Any:
        """A scalar parameter as a plain value."""
        value = self.get(name)
        return default if value is None else value.item() if isinstance(value, Tensor) else value


Row = Callable[[Call], Any]


def adding_to(rows: dict[str, Row]) -> Callable[..., Callable[[Row], Row]]:
    """A decorator that puts an operator's function into `rows`, under each of the names it is given."""

    def op(*kinds: str) -> Callable[[Row], Row]:
        def add(row: Row) -> Row:
            rows.update(dict.fromkeys(kinds, row))
            return row

        return add

    return op
