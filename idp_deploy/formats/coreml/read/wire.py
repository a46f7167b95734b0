"""Protobuf's wire format, read against a table of the fields that matter here: no generated code, no coremltools.

Importing coremltools takes seconds and brings torch along; a reader that `simulate` and `check` start with cannot
afford either. The encoding is the public one (protobuf.dev/programming-guides/encoding): a message is a sequence of
key = (field << 3 | wire type) and payload. Fields that no table names are skipped.

>>> parse(b"\\x08\\x96\\x01", {1: Field("a", "int")})
{'a': 150}
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from idp_deploy.errors import FileError

_DEPTH = 64  # nested messages; a MIL program of nested control flow stays far below
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NUMBERS: dict[str, np.dtype[Any]] = {"floats": np.dtype("<f4"), "doubles": np.dtype("<f8")}


@dataclass(frozen=True)
class Field:
    """One row of a message table.

    `kind` is int, string, bytes, floats, doubles, ints, bools (repeated numbers, packed or not), or the name of a
    message in the schema. `many` collects a list; `keyed` turns a map<string, kind> into a dict.
    """

    name: str
    kind: str
    many: bool = False
    keyed: bool = False


Table = Mapping[int, Field]


def parse(data: bytes | memoryview, table: Table, schema: Mapping[str, Table] | None = None, depth: int = 0) -> Any:
    """A message as a dict by field name; absent fields are absent, repeated ones are lists.

    Raises:
        FileError: truncated data, an impossible wire type, nesting beyond reason, or text that is not UTF-8.
    """
    if depth > _DEPTH:
        raise FileError(f"messages nested deeper than {_DEPTH}")
    schema = schema or {}
    message: dict[str, Any] = {}
    for number, wire, payload in _fields(memoryview(data)):
        field = table.get(number)
        if field is None:
            continue
        if field.keyed:
            entry = parse(
                _expect(payload, wire, field),
                {1: Field("key", "string"), 2: Field("value", field.kind)},
                schema,
                depth + 1,
            )
            message.setdefault(field.name, {})[entry.get("key", "")] = entry.get("value", {})
            continue
        value = _value(payload, wire, field, schema, depth)
        if field.kind in ("floats", "doubles", "ints", "bools"):
            before = message.get(field.name)
            message[field.name] = value if before is None else np.concatenate([before, value])
        elif field.many:
            message.setdefault(field.name, []).append(value)
        else:
            message[field.name] = value
    return message


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        wire = key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, wire, value
            continue
        if wire == _BYTES:
            length, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise FileError(f"wire type {wire} does not exist")
        if length > end - at:
            raise FileError(f"a field of {length} bytes runs past the end of its message")
        yield key >> 3, wire, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
        shift += 7
    raise FileError("a number runs past the end of its message")


def _value(payload: int | memoryview, wire: int, field: Field, schema: Mapping[str, Table], depth: int) -> Any:
    if field.kind == "int":
        if not isinstance(payload, int):
            raise FileError(f"field {field.name!r} is not a number")
        return _signed(payload)
    if field.kind in ("ints", "bools"):
        kind = np.int64 if field.kind == "ints" else np.bool_
        if isinstance(payload, int):
            return np.array([_signed(payload)]).astype(kind)
        numbers, at = [], 0
        while at < len(payload):
            number, at = _varint(payload, at)
            numbers.append(_signed(number))
        return np.array(numbers, np.int64).astype(kind)
    data = _expect(payload, wire, field)
    if field.kind in _NUMBERS:
        if len(data) % _NUMBERS[field.kind].itemsize:
            raise FileError(f"field {field.name!r} ends inside a number")
        return np.frombuffer(data, _NUMBERS[field.kind])
    if field.kind == "bytes":
        return bytes(data)
    if field.kind == "string":
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError as error:
            raise FileError(f"field {field.name!r} is not text: {error.reason}") from error
    return parse(data, schema[field.kind], schema, depth + 1)


def _expect(payload: int | memoryview, wire: int, field: Field) -> memoryview:
    if isinstance(payload, int) or (wire != _BYTES and field.kind not in _NUMBERS):
        raise FileError(f"field {field.name!r} has wire type {wire}")
    return payload


def _signed(value: int) -> int:
    return struct.unpack("<q", struct.pack("<Q", value))[0]
