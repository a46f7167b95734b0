"""Core ML packages written by hand, byte by byte: protobuf and blob encoders that share nothing with the product."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

CODES = {"bool": 1, "string": 2, "float16": 10, "float32": 11, "int8": 21, "int32": 23}
CODES |= {"uint8": 31, "uint32": 33, "uint4": 35, "uint1": 37}
BLOB_CODES = {"float16": 1, "float32": 2, "uint8": 3, "int8": 4, "uint1": 9, "uint4": 11, "int32": 14}


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def field(number: int, payload: int | str | bytes) -> bytes:
    """One field: integers as varint, text and messages with their length."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    data = payload.encode() if isinstance(payload, str) else payload
    return varint(number << 3 | 2) + varint(len(data)) + data


def entry(number: int, key: str, value: bytes) -> bytes:
    return field(number, field(1, key) + field(2, value))


def tensor_type(dtype: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(field(3, field(1, field(1, n))) for n in shape)
    return field(1, field(1, CODES[dtype]) + field(2, len(shape)) + dims)


def named(name: str, dtype: str, shape: Sequence[int]) -> bytes:
    return field(1, name) + field(2, tensor_type(dtype, shape))


def text(value: str) -> bytes:
    """A string constant."""
    return field(2, tensor_type("string", ())) + field(3, field(1, field(4, field(1, value))))


def number(values: np.ndarray) -> bytes:
    """An immediate tensor constant."""
    dtype = str(values.dtype)
    if dtype == "float32":
        content = field(1, field(1, values.tobytes()))
    elif dtype == "int32":
        content = field(2, field(1, b"".join(varint(int(v) & (1 << 64) - 1) for v in values.reshape(-1))))
    elif dtype == "bool":
        content = field(3, field(1, b"".join(varint(int(v)) for v in values.reshape(-1))))
    else:
        content = field(7, field(1, values.tobytes()))
    return field(2, tensor_type(dtype, values.shape)) + field(3, field(1, content))


def listed(values: Sequence[str | int]) -> bytes:
    """A list of constants, each a value of its own."""
    numbers = [text(v) if isinstance(v, str) else number(np.array(v, np.int32)) for v in values]
    return field(2, field(2, field(1, b""))) + field(3, field(3, b"".join(field(1, each) for each in numbers)))


def in_blob(dtype: str, shape: Sequence[int], offset: int) -> bytes:
    return field(2, tensor_type(dtype, shape)) + field(5, field(1, "@model_path/weights/weight.bin") + field(2, offset))


def operation(
    kind: str,
    name: str,
    inputs: Mapping[str, str | bytes] | None = None,
    attributes: Mapping[str, bytes] | None = None,
    outputs: Sequence[tuple[str, str, Sequence[int]]] = (),
) -> bytes:
    """`inputs` are names of values, or constants given in place."""
    out = field(1, kind)
    for key, value in (inputs or {}).items():
        binding = field(1, value) if isinstance(value, str) else field(2, value)
        out += entry(2, key, field(1, binding))
    out += b"".join(field(3, named(*output)) for output in outputs)
    for key, value in {"name": text(name), **(attributes or {})}.items():
        out += entry(5, key, value)
    return out


def const(name: str, value: bytes, dtype: str, shape: Sequence[int]) -> bytes:
    return operation("const", name, attributes={"val": value}, outputs=[(name, dtype, shape)])


class Blob:
    """weight.bin."""

    def __init__(self) -> None:
        self.data = bytearray(struct.pack("<II", 0, 2).ljust(64, b"\0"))

    def add(self, dtype: str, payload: bytes) -> int:
        self.data += b"\0" * (-len(self.data) % 64)
        offset = len(self.data)
        record = struct.pack("<IIQQ", 0xDEADBEEF, BLOB_CODES[dtype], len(payload), offset + 64)
        self.data += record.ljust(64, b"\0") + payload
        return offset


def package(
    path: Path,
    operations: Sequence[bytes],
    *,
    inputs: Sequence[tuple[str, str, Sequence[int]]] = (("x", "float32", (1, 4)),),
    outputs: Sequence[str] = ("y",),
    blob: Blob | None = None,
    metadata: Mapping[str, str] | None = None,
    opset: str = "CoreML6",
    functions: Sequence[str] = ("main",),
) -> Path:
    """Write an .mlpackage around `operations`, the same in every function, of which the last runs unasked."""
    block = b"".join(field(2, name) for name in outputs) + b"".join(field(3, op) for op in operations)
    function = b"".join(field(1, named(*i)) for i in inputs) + field(2, opset) + entry(3, opset, block)
    features = b"".join(field(1, field(1, i[0])) for i in inputs) + b"".join(field(10, field(1, o)) for o in outputs)
    user = b"".join(field(100, field(1, k) + field(2, v)) for k, v in (metadata or {}).items())
    features += field(21, functions[-1]) if len(functions) > 1 else b""
    program = field(1, 1) + b"".join(entry(2, name, function) for name in functions)
    model = field(1, 7) + field(2, features + field(100, user)) + field(502, program)
    data = path / "Data" / "com.apple.CoreML"
    (data / "weights").mkdir(parents=True)
    (data / "model.mlmodel").write_bytes(model)
    items = {"a": _item("model.mlmodel")}
    if blob is not None:
        (data / "weights" / "weight.bin").write_bytes(bytes(blob.data))
        items["b"] = _item("weights")
    manifest = {"fileFormatVersion": "1.0.0", "rootModelIdentifier": "a", "itemInfoEntries": items}
    (path / "Manifest.json").write_text(json.dumps(manifest))
    return path


def _item(name: str) -> dict[str, str]:
    """coremltools opens no package in which one of these is missing."""
    return {"author": "com.apple.CoreML", "description": "by hand", "name": name, "path": f"com.apple.CoreML/{name}"}


def linear_package(path: Path, *, sparse: bool = True) -> Path:
    """y = x Wᵀ with W (3, 4) float16 of which 4 entries are kept: stored sparse in the iOS 16 form, or dense."""
    weight = np.array([[1, 0, 0, 2], [0, 0, 0, 0], [0, -3, 0.5, 0]], np.float16)
    blob = Blob()
    if sparse:
        mask = np.packbits(weight.reshape(-1) != 0, bitorder="little")
        w = operation(
            "constexpr_sparse_to_dense",
            "w",
            attributes={
                "nonzero_data": in_blob("float16", (4,), blob.add("float16", weight[weight != 0].tobytes())),
                "mask": number(mask),
                "shape": number(np.array([3, 4], np.uint32)),
            },
            outputs=[("w", "float16", (3, 4))],
        )
    else:
        w = const("w", in_blob("float16", (3, 4), blob.add("float16", weight.tobytes())), "float16", (3, 4))
    return package(
        path,
        [
            const("to16", text("fp16"), "string", ()),
            operation("cast", "c1", {"x": "x", "dtype": "to16"}, outputs=[("x16", "float16", (1, 4))]),
            w,
            operation("linear", "fc", {"x": "x16", "weight": "w"}, outputs=[("y16", "float16", (1, 3))]),
            const("to32", text("fp32"), "string", ()),
            operation("cast", "c2", {"x": "y16", "dtype": "to32"}, outputs=[("y", "float32", (1, 3))]),
        ],
        blob=blob,
    )
