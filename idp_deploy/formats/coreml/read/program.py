"""An .mlpackage as a program: operators in execution order, constants decoded when asked for.

Manifest.json → model.mlmodel (protobuf) → one function → operations; constants lie in it or in weights/weight.bin
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from idp_deploy import documents
from idp_deploy.errors import FileError
from idp_deploy.flow import Value
from idp_deploy.formats.coreml.read.blob import Blob, bits_of, packed_bytes, unpack
from idp_deploy.formats.coreml.read.schema import ARRAY_TYPES, DATA_TYPES, SCHEMA
from idp_deploy.formats.coreml.read.wire import parse

_OLDER = ("an older kind of Core ML model", "convert it with minimum_deployment_target iOS15 or later")
_OTHER_KINDS = {
    "pipeline": (
        "a pipeline of models",
        "save each of them by itself before coremltools.utils.make_pipeline joins them, and give those",
    ),
    "network": ("a neural network of the older kind", _OLDER[1]),
}
_MOST_ENTRIES = 1 << 33  # what a shape may promise before anything is read


@dataclass(frozen=True, eq=False)
class Constant:
    """A value written into the file, of which only the shape is known before `values` is called."""

    dtype: str
    shape: tuple[int, ...]
    immediate: Mapping[str, Any] | None
    blob: Blob | None = None
    offset: int = 0

    @property
    def size(self) -> int:
        """Entries."""
        return math.prod(self.shape)

    @property
    def stored_bytes(self) -> int:
        """Bytes in the file: the data, and for the blob its header and padding too."""
        if self.blob is not None:
            return self.blob.stored_bytes(self.offset, self.dtype)
        return 0 if self.dtype == "string" else packed_bytes(self.dtype, self.size)

    @property
    def values(self) -> np.ndarray:
        """The decoded numbers, bools or strings, in the shape written.

        Raises:
            FileError: the data do not fit the shape and type.
        """
        if self.blob is not None:
            return self.blob.read(self.offset, self.dtype, self.size).reshape(self.shape)
        return _immediate(self.immediate or {}, self.dtype, self.size).reshape(self.shape)

    @property
    def item(self) -> Any:
        """A scalar as a plain Python value."""
        return self.values.reshape(-1)[:1].tolist()[0] if self.size else None


Argument = str | Constant  # the name of a value, or a constant written in place


@dataclass(frozen=True, eq=False)
class Operation:
    """One operator: `inputs` by parameter name; a parameter may take several arguments (concat)."""

    kind: str
    name: str
    inputs: Mapping[str, tuple[Argument, ...]]
    outputs: tuple[Value, ...]
    attributes: Mapping[str, Constant]
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True, eq=False)
class Block:
    """Operators of a function or of a branch or loop body."""

    inputs: tuple[Value, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """The function that runs, and what the file says about itself."""

    path: Path
    opset: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    block: Block
    metadata: Mapping[str, str]
    others: Mapping[str, Block] = field(default_factory=dict)  # functions that only run where they are asked for


def load(path: Path) -> Program:
    """Parse an .mlpackage directory.

    Raises:
        FileError: a part is missing or broken, or it is not an ML program.
    """
    model, weights = _items(path)
    try:
        message = parse(documents.read_bytes(model), SCHEMA["Model"], SCHEMA)
    except OSError as error:
        raise FileError(f"cannot read {model}: {error.strerror}") from error
    except FileError as error:
        raise FileError(f"{model} is not a Core ML model: {error.message}", way_out="export it again") from error
    if "program" not in message:
        what, way_out = next((said for kind, said in _OTHER_KINDS.items() if kind in message), _OLDER)
        raise FileError(f"{path} holds no ML program but {what}", way_out=way_out)
    functions = message["program"].get("functions", {})
    description = message.get("description", {})
    named = (name for name in (description.get("default", ""), "main", *functions) if functions.get(name))
    runs = next(named, "")
    function = functions.get(runs)
    if not function or not function.get("blocks"):
        raise FileError(f"{path}: the program has no function", way_out="export it again")
    opset = function.get("opset", "")
    blobs: dict[str, Blob] = {}
    try:
        block = _block(_body(function), weights, blobs)
        others = {n: _block(_body(f), weights, blobs) for n, f in functions.items() if n != runs and f.get("blocks")}
        inputs = tuple(_value(v) for v in function.get("inputs", ()))
        by_name = {v.name: v for op in walk(block) for v in op.outputs} | {v.name: v for v in inputs}
        features = description.get("inputs", ())
        ordered = tuple(_declared(f, by_name) for f in features) if features else inputs
        outputs = tuple(by_name[name] for name in block.outputs)
    except KeyError as error:
        raise FileError(f"{path}: the program lacks {error}", way_out="export it again") from error
    except FileError as error:
        raise FileError(f"{path}: {error.message}", way_out=error.way_out or "export it again") from error
    user = description.get("metadata", {}).get("user", {})
    return Program(path, opset, ordered, outputs, block, {k: v or "" for k, v in user.items()}, others)


def _body(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a function does in the opset that it is written for."""
    blocks: Mapping[str, Mapping[str, Any]] = function["blocks"]
    return blocks.get(function.get("opset", "")) or next(iter(blocks.values()))


def _items(path: Path) -> tuple[Path, Path | None]:
    """(the model file, the folder of weights), as Manifest.json names them, never outside the package."""
    if not path.is_dir():
        raise FileError(f"{path} is not a directory", way_out="an .mlpackage is one; unpack it if it was zipped")
    try:
        manifest = documents.parse_json(documents.read_text(path / "Manifest.json"))
        entries = manifest["itemInfoEntries"]
        root = str(entries[manifest["rootModelIdentifier"]]["path"])
        others = [str(entry["path"]) for entry in entries.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"{path}: Manifest.json is missing or broken ({type(error).__name__})", way_out="export the package again"
        ) from error
    found = []
    for item in (root, *(other for other in others if PurePosixPath(other).name == "weights")):
        if "\0" in item:
            raise FileError(f"{path}: Manifest.json names a file {item!r}", way_out="export the package again")
        target = (path / "Data" / item).resolve()
        if not target.is_relative_to((path / "Data").resolve()):
            raise FileError(f"{path}: Manifest.json points outside the package: {item!r}")
        found.append(target)
    return found[0], found[1] if len(found) > 1 else None


def _block(message: Mapping[str, Any], weights: Path | None, blobs: dict[str, Blob] | None = None) -> Block:
    blobs = {} if blobs is None else blobs
    return Block(
        tuple(_value(v) for v in message.get("inputs", ())),
        tuple(_operation(op, weights, blobs) for op in message.get("operations", ())),
        tuple(message.get("outputs", ())),
    )


def _operation(message: Mapping[str, Any], weights: Path | None, blobs: dict[str, Blob]) -> Operation:
    inputs: dict[str, tuple[Argument, ...]] = {}
    for parameter, argument in message.get("inputs", {}).items():
        inputs[parameter] = tuple(
            binding["name"] if "name" in binding else _constant(binding["value"], weights, blobs)
            for binding in argument.get("bindings", ())
        )
    attributes = {k: _constant(v, weights, blobs) for k, v in message.get("attributes", {}).items()}
    outputs = tuple(_value(v) for v in message.get("outputs", ()))
    name = str(attributes["name"].item) if "name" in attributes else (outputs[0].name if outputs else "")
    blocks = tuple(_block(b, weights, blobs) for b in message.get("blocks", ()))
    return Operation(message.get("kind", ""), name, inputs, outputs, attributes, blocks)


def walk(block: Block) -> Iterator[Operation]:
    """Every operator in order, each followed by those of its branches or loop body."""
    for op in block.operations:
        yield op
        for inner in op.blocks:
            yield from walk(inner)


def _value(message: Mapping[str, Any]) -> Value:
    dtype, shape = _type(message.get("type", {}))
    return Value(message["name"], shape, dtype)


def _declared(feature: Mapping[str, Any], by_name: Mapping[str, Value]) -> Value:
    """A model input as the description promises it to the caller."""
    value = by_name[feature["name"]]
    array = feature.get("type", {}).get("array")
    if array is None:
        return value
    return Value(value.name, value.shape, ARRAY_TYPES.get(array.get("dtype", 0), value.dtype))


def _type(message: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """(dtype, shape); an unknown extent is -1, and whatever is no tensor is "other"."""
    if "tensor" not in message:
        return "other", ()
    tensor = message["tensor"]
    shape = tuple(d["constant"].get("size", 0) if "constant" in d else -1 for d in tensor.get("dimensions", ()))
    return DATA_TYPES.get(tensor.get("dtype", 0), "other"), shape


def _constant(message: Mapping[str, Any], weights: Path | None, blobs: dict[str, Blob]) -> Constant:
    if "list" in message.get("type", {}):
        return _list(
            [_constant(each, weights, blobs) for each in message.get("immediate", {}).get("list", {}).get("values", ())]
        )
    dtype, shape = _type(message.get("type", {}))
    constant = Constant(dtype, shape, message.get("immediate", {}).get("tensor"))
    if any(extent < 0 for extent in shape) or constant.size > _MOST_ENTRIES:
        raise FileError(f"a constant of shape {shape} cannot be")
    if "blob" not in message:
        return constant
    name = PurePosixPath(message["blob"].get("file", "")).name
    if weights is None or not name:
        raise FileError("the program refers to a weight file, the package names none", way_out="export it again")
    if name not in blobs:
        blobs[name] = Blob.open(weights / name)
    return Constant(dtype, shape, None, blobs[name], message["blob"].get("offset", 0))


def _list(parts: Sequence[Constant]) -> Constant:
    """A list of scalars, such as the names of classes, as one vector; others are not looked into."""
    fields = {(part.dtype, *(part.immediate or {"": None})) for part in parts}
    if len(fields) != 1 or any(part.size != 1 or part.immediate is None for part in parts):
        return Constant("other", (0,), None)
    ((dtype, field, *_),) = fields
    values = [part.item for part in parts]
    return Constant(dtype, (len(parts),), {field: {"values": values}})


def _immediate(tensor: Mapping[str, Any], dtype: str, entries: int) -> np.ndarray:
    """Numbers written into the program: in the field of their own kind, or as bytes."""
    for kind, content in tensor.items():
        values = content.get("values")
        if values is None:
            continue
        if kind == "strings":
            return _counted(np.array(values, object), entries)
        if kind != "bytes":
            return _counted(np.asarray(values).astype("int8" if bits_of(dtype) < 8 else dtype), entries)
        if bits_of(dtype) < 8 and len(values) == entries:  # one byte each
            return np.frombuffer(values, np.int8 if dtype.startswith("int") else np.uint8)
        return unpack(values, dtype, entries)
    return _counted(np.zeros(0, object if dtype in ("string", "other") else np.float32), entries)


def _counted(values: np.ndarray, entries: int) -> np.ndarray:
    if values.size != entries:
        raise FileError(f"a constant holds {values.size} entries where its shape has {entries}")
    return values
