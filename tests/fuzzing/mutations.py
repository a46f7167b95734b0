"""mutate: one damage to a good file, drawn from a seeded generator, by its bytes or by what it means.

Three ways: `bytes` (flips, cuts, repeats anywhere), `structure` (a field, a name, an entry of the parsed file), and
`constant` (one bit or one value of a stored weight, bias, scale or table; the file stays well formed). Of a `manifest`
it is the JSON in the file that is damaged.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from idp_deploy.flow import MANIFEST_KEY
from tests.fuzzing import trees
from tests.fuzzing.trees import Place

WAYS = ("bytes", "structure", "constant")
_INTEGERS = (
    0,
    1,
    -1,
    2,
    7,
    127,
    128,
    255,
    256,
    2**15,
    2**16,
    2**31 - 1,
    -(2**31),
    2**31,
    2**32,
    2**62,
    2**63 - 1,
    -(2**63),
)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e30, math.nan, math.inf, -math.inf)
_TEXTS = ("", "\0", "a" * 5000, "../../x", "/dev/null", "é\u202e", "%s%n", "{}", "[" * 5000, "nan", "-1")
_ODD: tuple[Any, ...] = (None, True, [], {}, "text", 0, -1, 1.5, 10**400, [[]], {"a": {}}, float("nan"))
_INTERESTING_WORDS = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000)
_HEADER = 512  # bytes where structure is dense


def mutate(kind: str, source: Path, target: Path, random: Random, way: str) -> str:
    """Write a damaged copy of `source` at `target`; what was done, in words. Empty where nothing could be changed."""
    if source.is_dir():
        shutil.copytree(source, target)
        return _package(target, random, "manifest" if kind == "manifest" else way)
    if kind == "manifest":
        kind, way = source.suffix[1:], "manifest"
    data = source.read_bytes()
    changed, said = (_by_bytes(data, random) if way == "bytes" else _BY_MEANING[kind](data, random, way)) or (b"", "")
    target.write_bytes(changed)
    return said if changed != data else ""


# ── bytes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _by_bytes(data: bytes, random: Random) -> tuple[bytes, str]:
    buffer = bytearray(data)
    if not buffer:
        return b"\0", "a byte"
    at = random.randrange(len(buffer)) if random.random() < 0.5 else random.randrange(min(len(buffer), _HEADER))
    match random.randrange(6):
        case 0:
            for _ in range(random.randint(1, 8)):
                buffer[random.randrange(len(buffer))] ^= 1 << random.randrange(8)
            return bytes(buffer), "bits flipped"
        case 1:
            return bytes(buffer[:at]), f"cut at {at}"
        case 2:
            buffer[at : at + 4] = struct.pack("<I", random.choice(_INTERESTING_WORDS))
            return bytes(buffer), f"a word at {at}"
        case 3:
            length = random.randint(1, 64)
            buffer[at:at] = buffer[at : at + length] or b"\0"
            return bytes(buffer), f"{length} bytes repeated at {at}"
        case 4:
            buffer[at : at + random.randint(1, 64)] = b""
            return bytes(buffer), f"bytes removed at {at}"
        case _:
            buffer[at] = random.randrange(256)
            return bytes(buffer), f"byte {at}"


# ── meaning ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _change(places: Iterator[Place], random: Random, odd: bool = False) -> str:
    """One place changed; in JSON-like documents (`odd`) also to a value of another type."""
    found = list(places)
    if not found:
        return ""
    place = random.choice(found)
    for act in random.sample((place.drop, place.twin), 2):
        if act is not None and random.random() < 0.15:
            act()
            return f"{place.path} {'dropped' if act is place.drop else 'repeated'}"
    value = random.choice(_ODD) if odd and random.random() < 0.5 else _other(place.value, random)
    if value is None and not odd:
        return ""
    try:
        place.set(value)
    except (TypeError, ValueError, OverflowError, UnicodeError):
        return ""
    return f"{place.path} = {str(value)[:40]!r}"


def _other(value: Any, random: Random) -> Any:
    """Another value of the same type, or None where there is none."""
    match value:
        case bool():
            return not value
        case int() | np.integer():
            return random.choice((*_INTEGERS, int(value) + 1, int(value) - 1, int(value) * 2))
        case float() | np.floating():
            return random.choice((*_FLOATS, float(value) * 1.5, -float(value)))
        case str():
            return random.choice((*_TEXTS, value + "x", value[:-1], value.upper()))
        case bytes():
            return _by_bytes(value, random)[0]
        case np.ndarray() if value.size:
            return np.frombuffer(_by_bytes(value.tobytes(), random)[0], np.uint8).copy()
    return None


def _nudge(array: np.ndarray, random: Random) -> np.ndarray:
    """One bit flipped, or one entry moved, negated or zeroed; the same type and size."""
    changed = np.array(array, copy=True).reshape(-1)
    i = random.randrange(changed.size)
    if random.random() < 0.5 or changed.dtype.kind not in "fiu":
        raw = changed.view(np.uint8)
        raw[random.randrange(raw.size)] ^= 1 << random.randrange(8)
    elif changed.dtype.kind == "f":
        changed[i] = random.choice((0, -changed[i], changed[i] * 1.25, changed[i] + 1))
    else:
        with np.errstate(over="ignore"):
            changed[i] = random.choice((changed[i] & 0, ~changed[i], changed[i] + np.array(1, changed.dtype)))
    return changed.reshape(array.shape)


def _one_off(value: float | bytes, random: Random) -> float | bytes:
    """A number of a Core ML program, or the bytes of several, otherwise than it was."""
    match value:
        case bool():
            return not value
        case bytes():
            return _nudge(np.frombuffer(value, np.uint8), random).tobytes()
        case int():
            return random.choice((value + 1, -value, value ^ (1 << random.randrange(8)))) % 2**20
    return float(_nudge(np.array([value], np.float32), random)[0])


def without_manifest(kind: str, path: Path) -> None:
    """Take the manifest out of a file, which stays well formed."""
    if kind == "coreml":
        from coremltools.proto import Model_pb2

        file = path / "Data/com.apple.CoreML/model.mlmodel"
        program = Model_pb2.Model()
        program.ParseFromString(file.read_bytes())
        program.description.metadata.userDefined.pop(MANIFEST_KEY)
        file.write_bytes(program.SerializeToString(deterministic=True))
    elif kind == "onnx":
        import onnx

        model = onnx.load(path)
        kept = [entry for entry in model.metadata_props if entry.key != MANIFEST_KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        path.write_bytes(model.SerializeToString(deterministic=True))
    else:
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema

        packed = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
        packed.metadata = [entry for entry in packed.metadata if entry.name != MANIFEST_KEY.encode()]
        builder = flatbuffers.Builder(len(path.read_bytes()))
        builder.Finish(packed.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))


def _onnx(data: bytes, random: Random, way: str) -> tuple[bytes, str]:
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(data)
    if way == "manifest":
        entry = next(e for e in model.metadata_props if e.key == MANIFEST_KEY)
        entry.value, said = _text(entry.value, random)
    elif way == "constant":
        tensor = random.choice(model.graph.initializer)
        values = _nudge(numpy_helper.to_array(tensor), random)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        said = f"constant {tensor.name}"
    else:
        said = _change(trees.protobuf(model), random)
    return model.SerializeToString(deterministic=True), said


def _tflite(data: bytes, random: Random, way: str) -> tuple[bytes, str]:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    if way == "manifest":
        entry = next(m for m in model.metadata if m.name == MANIFEST_KEY.encode())
        text, said = _document(bytes(model.buffers[entry.buffer].data), random)
        model.buffers[entry.buffer].data = np.frombuffer(text, np.uint8)
    elif way == "constant":
        graph = model.subgraphs[0]
        read = [t for t in graph.tensors if t.buffer and _holds(model.buffers[t.buffer])]
        tensor = random.choice(read)
        scales = tensor.quantization.scale if tensor.quantization is not None else None
        if scales is not None and len(scales) and random.random() < 0.3:
            what = random.choice(("scale", "zeroPoint") if len(tensor.quantization.zeroPoint) else ("scale",))
            kind = np.float32 if what == "scale" else np.int64
            setattr(tensor.quantization, what, _nudge(np.asarray(getattr(tensor.quantization, what), kind), random))
            said = f"a {what} of {tensor.name!r}"
        else:
            holder = model.buffers[tensor.buffer]
            raw = np.asarray(holder.data, np.uint8)
            floats = tensor.type == schema.TensorType.FLOAT32 and raw.size % 4 == 0
            holder.data = np.frombuffer(_nudge(raw.view(np.float32) if floats else raw, random).tobytes(), np.uint8)
            said = f"constant {tensor.name!r}"
    else:
        said = _change(trees.objects(model), random)
    builder = flatbuffers.Builder(len(data))
    try:
        builder.Finish(model.Pack(builder), b"TFL3")
    except Exception:  # the generated packer takes no odd values: nothing was made
        return data, ""
    return bytes(builder.Output()), said


def _holds(buffer: Any) -> bool:
    return buffer.data is not None and len(buffer.data) > 0


def _json(data: bytes, random: Random, way: str) -> tuple[bytes, str]:
    if way == "constant" or random.random() < 0.05:
        text = random.choice(("[" * 100_000, '{"a":' * 50_000, "null", "[]", "1", '"x"', "{}", "1e999", "\ufeff{}"))
        return text.encode(), "another document"
    document = json.loads(data)
    said = _change(trees.plain(document), random, odd=True)
    return json.dumps(document).encode(), said


def _document(data: bytes, random: Random) -> tuple[bytes, str]:
    """A manifest damaged as text or as JSON."""
    return _by_bytes(data, random) if random.random() < 0.3 else _json(data, random, "structure")


def _text(value: str, random: Random) -> tuple[str, str]:
    """The same where only text can stand."""
    changed, said = _document(value.encode(), random)
    return changed.decode("utf-8", "ignore"), said


def _toml(data: bytes, random: Random, way: str) -> tuple[bytes, str]:
    lines = data.decode().splitlines()
    at = random.choice([i for i, line in enumerate(lines) if "=" in line])
    key, _, value = lines[at].partition("=")
    odd = (
        "[" * 5000,
        "{" * 500,
        "1e400",
        "nan",
        "-inf",
        '"\\u0000"',
        "true",
        "[]",
        "{}",
        "1979-05-27",
        '""',
        "9" * 400,
    )
    match random.randrange(4):
        case 0:
            lines[at] = f"{key}= {random.choice(odd)}"
        case 1:
            lines[at] = f"{random.choice(_TEXTS[3:])!r} ={value}"
        case 2:
            lines.insert(
                at, random.choice((lines[at], "[prune]", "[[budgets]]", "[budgets.pixel-4.onnx.size]", "a.b.c = 1"))
            )
        case _:
            lines[at] = f"{key}= " + "[" * random.choice((3, 2000)) + "1"
    return "\n".join(lines).encode("utf-8", "surrogatepass"), f"line {at + 1}"


def _zip(data: bytes, random: Random, way: str) -> tuple[bytes, str]:
    """A checkpoint's archive with one member damaged, dropped or renamed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = random.choice([n for n in members if way == "constant" or "/data/" not in n] or list(members))
    content = members[name]
    if way == "structure" and random.random() < 0.2:
        del members[name]
    elif way == "structure" and random.random() < 0.2:
        members[random.choice(("../evil", "archive/data/999", "x" * 300))] = members.pop(name)
    else:
        members[name] = _by_bytes(content, random)[0]
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return whole.getvalue(), f"member {name}"


def _safetensors(data: bytes, random: Random, way: str) -> tuple[bytes, str]:
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    if way == "constant":
        return data[: 8 + length] + _by_bytes(body, random)[0], "the tensors' bytes"
    changed, said = _json(header, random, way)
    return len(changed).to_bytes(8, "little") + changed + body, said


def _package(folder: Path, random: Random, way: str) -> str:
    """A Core ML package: its manifest, its program or its weights."""
    program = folder / "Data/com.apple.CoreML/model.mlmodel"
    weights = folder / "Data/com.apple.CoreML/weights/weight.bin"
    if way == "manifest":
        return _program(program, random, way)
    if way == "constant":
        file = random.choice([f for f in (program, weights) if f.exists()])
        if file == weights:
            raw = np.frombuffer(file.read_bytes(), np.uint8)
            file.write_bytes(_nudge(raw, random).tobytes())
            return "a bit of weight.bin"
        return _program(file, random, way)
    if way == "structure":
        match random.randrange(8):
            case 0:
                manifest = folder / "Manifest.json"
                changed, said = _json(manifest.read_bytes(), random, way)
                manifest.write_bytes(changed)
                return f"manifest {said}"
            case 1:
                file = random.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
                file.unlink()
                return f"{file.name} removed"
            case 2:
                file = random.choice([f for f in (program, weights) if f.exists()])
                file.unlink()
                file.symlink_to("/dev/null")
                return f"{file.name} a link out of the package"
            case _:
                return _program(program, random, way)
    file = random.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    changed, said = _by_bytes(file.read_bytes(), random)
    file.write_bytes(changed)
    return f"{file.name}: {said}"


def _program(file: Path, random: Random, way: str) -> str:
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model()
    model.ParseFromString(file.read_bytes())
    if way == "manifest":
        metadata = model.description.metadata.userDefined
        metadata[MANIFEST_KEY], said = _text(metadata[MANIFEST_KEY], random)
    elif way == "constant":
        leaves = [p for p in trees.protobuf(model) if "/immediateValue/tensor/" in p.path and p.value not in (b"", "")]
        place = random.choice([p for p in leaves if isinstance(p.value, int | float | bytes)])
        place.set(_one_off(place.value, random))
        said = f"{place.path} = {str(place.value)[:20]} changed"
    else:
        said = _change(trees.protobuf(model), random)
    file.write_bytes(model.SerializeToString(deterministic=True))
    return said


_BY_MEANING: dict[str, Callable[[bytes, Random, str], tuple[bytes, str]]] = {
    "onnx": _onnx,
    "tflite": _tflite,
    "pt": _zip,
    "safetensors": _safetensors,
    "toml": _toml,
    "baseline": _json,
}
