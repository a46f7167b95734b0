"""read: .pte → Contents: the operators left to portable kernels, their constants, and the delegates by size.

Field numbers are those of ExecuTorch's schema/program.fbs (ET12). Data lie in the flatbuffer, or in segments behind it
that an extended header points to. What a delegate holds is in its own format, which the schema does not say.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from idp_deploy import documents
from idp_deploy.errors import FileError
from idp_deploy.flow import Contents, GraphOp, StoredTensor, Value
from idp_deploy.formats.flatbuffer import Flatbuffer, Table

_IDENTIFIER, _EXTENDED = b"ET12", b"eh00"
_TENSOR, _KERNEL, _DELEGATE = 5, 1, 2  # of the unions KernelTypes and InstructionArguments
_TYPES = {  # ScalarType → our name
    0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64", 11: "bool",
}  # fmt: skip
_MOST_ENTRIES = 1 << 33


def read_executorch(path: Path) -> Contents:
    """Parse a .pte of any maker.

    Raises:
        FileError: it is none, it is truncated, or it refers to what is not in it.
    """
    try:
        data = documents.read_bytes(path)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}", way_out="check the path") from error
    if data[4:8] != _IDENTIFIER:
        raise FileError(
            f"{path} is not a .pte: it lacks the identifier {_IDENTIFIER.decode()}", way_out="check the path"
        )
    program = _Program(Flatbuffer(data, path, "ExecuTorch"))
    plans = program.root.tables(1)
    if not plans:
        raise program.file.broken("it has no method")
    methods = [_Method(program, plan) for plan in plans]
    first = methods[0]
    tensors = {tensor.name: tensor for method in methods for tensor in method.tensors()}
    return Contents(
        path,
        "executorch",
        len(data),
        tuple(tensors.values()),
        tuple(op for method in methods for op in method.ops()),
        {value.name: value for method in methods for value in method.values()},
        tuple(map(first.name, first.inputs)),
        tuple(map(first.name, first.outputs)),
        {"methods": [method.title for method in methods], "version": program.root.number(0, "I")},
        tuple(_warnings(program, methods)),
    )


class _Program:
    """The root table, and where data lie."""

    def __init__(self, file: Flatbuffer) -> None:
        self.file, self.root = file, file.root()
        self.base = int(file.scalar("Q", 24)) if file.data[8:12] == _EXTENDED else 0
        self.segments = [(table.number(0, "Q"), table.number(1, "Q")) for table in self.root.tables(4)]
        found = self.root.table(5)
        self.segment = found.number(0, "I") if found else 0
        self.offsets = found.integers(1, "u8") if found else []
        self.inline = self.root.tables(2)

    def constant(self, index: int, size: int) -> np.ndarray:
        """The bytes of a constant. FileError: they are not in the file."""
        if self.offsets:
            if index >= len(self.offsets) or self.segment >= len(self.segments):
                raise self.file.broken(f"it has no constant {index}")
            start, length = self.segments[self.segment]
            if self.offsets[index] + size > length:
                raise self.file.broken(f"constant {index} reaches beyond its segment")
            return self.file.view("u1", self.base + start + self.offsets[index], size)
        if index >= len(self.inline):
            raise self.file.broken(f"it has no constant {index}")
        found = self.inline[index].array(0, "u1")
        if found is None or len(found) < size:
            raise self.file.broken(f"constant {index} has {0 if found is None else len(found)} of {size} bytes")
        return found[:size]

    def delegate_bytes(self, delegate: Table) -> int:
        """Of a delegate's own data."""
        place = delegate.table(1)
        if place is None:
            return 0
        location, index = place.number(0, "B"), place.number(1, "I")
        if location == 1:
            return self.segments[index][1] if index < len(self.segments) else 0
        blobs = self.root.tables(3)
        data = blobs[index].array(0, "u1") if index < len(blobs) else None
        return 0 if data is None else len(data)

    def named(self) -> dict[str, int]:
        """Data that delegates share by name: bytes."""
        rows = [(table.text(0), table.number(1, "I")) for table in self.root.tables(7)]
        return {name: self.segments[index][1] for name, index in rows if index < len(self.segments)}


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]
    dtype: str
    constant: int  # its number among the constants; 0 where it is none
    label: str


class _Method:
    """One entry point."""

    def __init__(self, program: _Program, plan: Table) -> None:
        self.program, self.plan, self.title = program, plan, plan.text(0)
        self.inputs, self.outputs = plan.integers(3), plan.integers(4)
        self.known = {number: tensor for number, entry in enumerate(plan.tables(2)) if (tensor := self._tensor(entry))}
        self.delegates = [(table.text(0), program.delegate_bytes(table)) for table in plan.tables(7)]

    def _tensor(self, entry: Table) -> _Tensor | None:
        table = entry.table(1) if entry.number(0, "B") == _TENSOR else None
        if table is None:
            return None
        shape = tuple(table.integers(2))
        if any(extent < 0 for extent in shape) or math.prod(shape) > _MOST_ENTRIES:
            raise self.program.file.broken(f"a tensor has the shape {shape}")
        kind = table.number(0, "b")
        extra = table.table(9)
        is_constant = table.table(6) is None and not (extra and extra.number(2, "B"))
        label = extra.text(1) if extra else ""
        return _Tensor(shape, _TYPES.get(kind, f"type {kind}"), table.number(5, "I") if is_constant else 0, label)

    def name(self, number: int) -> str:
        """Of a value: what the file calls it, else its number."""
        found = self.known.get(number)
        return (found.label if found else "") or f"{self.title}.{number}"

    def tensors(self) -> Iterator[StoredTensor]:
        """The constants that portable kernels read."""
        for number, tensor in self.known.items():
            if not tensor.constant or tensor.dtype.startswith("type"):
                continue
            size = math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
            values = self._values(tensor, size)
            decoded = values()
            zeros = int(decoded.size - np.count_nonzero(decoded))
            bits = float(decoded.itemsize * 8)
            yield StoredTensor(self.name(number), tensor.shape, tensor.dtype, "dense", size, zeros, values, bits)

    def _values(self, tensor: _Tensor, size: int) -> Callable[[], np.ndarray]:
        raw = self.program.constant(tensor.constant, size)
        return lambda: np.frombuffer(raw.tobytes(), np.dtype(tensor.dtype).newbyteorder("<")).reshape(tensor.shape)

    def values(self) -> Iterator[Value]:
        """Tensors that are no constants."""
        for number, tensor in self.known.items():
            if not tensor.constant:
                yield Value(self.name(number), tensor.shape, tensor.dtype)

    def ops(self) -> Iterator[GraphOp]:
        """Kernels and delegates in the order in which they are called; a call's last tensors are its outputs."""
        names = [table.text(0) for table in self.plan.tables(6)]
        calls = [call for chain in self.plan.tables(5) for call in chain.tables(2)]
        for position, call in enumerate(calls):
            kind, table = call.number(0, "B"), call.table(1)
            if table is None or kind not in (_KERNEL, _DELEGATE):
                continue
            index, among = table.number(0, "i"), names if kind == _KERNEL else [name for name, _ in self.delegates]
            if not 0 <= index < len(among):
                raise self.program.file.broken(f"it calls {'operator' if kind == _KERNEL else 'delegate'} {index}")
            tensors = [number for number in table.integers(1) if number in self.known]
            constants = [number for number in tensors if self.known[number].constant]
            plain = [self.name(number) for number in tensors if number not in constants]
            weights = {f"operand_{at}": self.name(number) for at, number in enumerate(constants)}
            yield GraphOp(f"{among[index]}_{position}", among[index], tuple(plain[:-1]), tuple(plain[-1:]), {}, weights)


def _warnings(program: _Program, methods: list[_Method]) -> Iterator[str]:
    total: Counter[str] = Counter()
    for method in methods:
        for name, size in method.delegates:
            total[name] += size
    for name, size in total.items():
        yield f"the delegate {name} holds {size:,} bytes of its own format: what is in them is not counted"
    if named := program.named():
        size = sum(named.values())
        yield f"{len(named)} named blobs of {size:,} bytes belong to delegates and have no type: not counted"
