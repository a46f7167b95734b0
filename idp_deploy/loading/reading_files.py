"""Bytes of a .pt, .pth or .safetensors file → tensors and plain values, without running anything in it."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idp_deploy import documents
from idp_deploy.errors import FileError, UnsafeFileError
from idp_deploy.loading.foreign import ENDINGS, MAGICS, SAVE_WEIGHTS, ending, stand_in, way_out
from idp_deploy.loading.protocols import in_older_protocol

_HEAD_BYTES = 512
_ENCRYPTED = 1  # of a zip member's flags
_RUNS_CODE = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"}


def read_bytes(path: Path) -> bytes:
    """The file's bytes.

    Raises:
        FileError: it is missing, a directory, empty or not readable.
    """
    if path.is_dir():
        raise FileError(f"{path} is a directory, not a checkpoint", way_out="name the .pt or .safetensors file")
    try:
        data = documents.read_bytes(path)
    except FileNotFoundError:
        if path.with_name(path.name + ".index").exists():  # TensorFlow calls a checkpoint by what its files begin with
            path = path.with_name(path.name + ".index")
            raise FileError(f"{path} is {ENDINGS['.index'][0]}", way_out=ENDINGS[".index"][1]) from None
        raise FileError(f"no such file: {path}", way_out="check the path") from None
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error
    if not data:
        raise FileError(f"{path} is empty", way_out="save it again")
    return data


def read_content(path: Path, data: bytes, *, trust: bool = False) -> Any:
    """What `torch.save` or safetensors put into the file: a state dict, or a dict around one.

    Args:
        trust: read a .pt2 (torch.export) archive too, whose loading can run code.

    Raises:
        UnsafeFileError: loading it could run code: a pickled module, a TorchScript or .pt2 archive.
        FileError: it is truncated, damaged or something else altogether.
    """
    if path.suffix.lower() == ".safetensors" or data[6:10] == b'\0\0{"':  # its header, under any name
        return _read_safetensors(path, data)
    if data[:4] == b"PK\x03\x04":
        members = _check_zip(path, data)
        if any(name.endswith(("models/model.json", "serialized_exported_program.json")) for name in members):
            return _read_exported_program(path, data, trust)
        if members and all(name.endswith(".npy") for name in members):
            raise FileError(f"{path} is an archive of numpy arrays", way_out=way_out("numpy"))
        if any(name.endswith("constants.pkl") for name in members):
            raise UnsafeFileError(f"{path} is a TorchScript archive: it holds code", way_out=SAVE_WEIGHTS)
        if not any(name.endswith("/data.pkl") for name in members):
            inside = sorted(name for name in members if name.endswith((".pt", ".pth", ".ckpt", ".safetensors")))
            if inside:
                several = len(inside) > 1
                raise FileError(
                    f"{path} is a zip file around {', '.join(map(repr, inside[:4]))}" + ", …" * (len(inside) > 4),
                    way_out="unpack it, and name the one with the model's weights" if several else "unpack it first",
                )
            if known := ending(path.name):
                raise FileError(f"{path} is {known[0]}", way_out=known[1])
            raise FileError(f"{path} is a zip file, but not one that torch.save wrote", way_out=SAVE_WEIGHTS)
        if any(members.values()):
            raise FileError(f"{path} is a compressed zip file, which torch.save never writes", way_out=SAVE_WEIGHTS)
    elif data[:1] != b"\x80":
        for magic, (what, way) in MAGICS.items():
            if data.startswith(magic):
                raise FileError(f"{path} is {what}", way_out=way)
        fetched = None if path.suffix == ".json" else documents.instead(data[:_HEAD_BYTES])
        packed = ending(".tar") if data[257:262] == b"ustar" else None
        if data.startswith(b"\x1f\x8b") or packed:
            fetched = ending(path.name) or fetched
        if known := fetched or packed or ending(path.name):
            raise FileError(f"{path} is {known[0]}", way_out=known[1])
        raise FileError(f"{path} is not a PyTorch checkpoint: it begins with {data[:8]!r}", way_out=SAVE_WEIGHTS)
    elif path.suffix.lower() == ".pt2":
        raise FileError(f"{path} is not an archive of torch.export", way_out=SAVE_WEIGHTS)
    return _load(path, data)


def _load(path: Path, data: bytes) -> Any:
    """What `torch.load` reads of it as weights and plain values, known settings and scores passed over."""
    stand_ins: dict[str, type] = {}
    while True:
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals([(v, k) for k, v in stand_ins.items()]):
                warnings.simplefilter("ignore")  # a refusal is reported below, in one message
                return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except pickle.UnpicklingError as error:
            if f"Unsupported operand {pickle.INT[0]}" in str(error) and (newer := _numbers_in_binary(data)) != data:
                data = newer
                continue
            if f"Unsupported operand {pickle.FRAME[0]}" in str(error) and (older := in_older_protocol(data)) != data:
                data = older
                continue
            name = _forbidden(str(error))
            found = stand_in(name)
            if found is not None and name not in stand_ins:
                stand_ins[name] = found
                continue
            if name or _may_run_code(data):
                what = f"it wants to build {name.removeprefix('builtins.')}" if name else "it is a pickle of objects"
                if known := ending(path.name):
                    raise UnsafeFileError(f"{path} is {known[0]}, {what}", way_out=known[1]) from None
                raise UnsafeFileError(
                    f"{path} holds more than tensors and loading it could run code: {what}",
                    way_out=way_out(f"{name} {error}"),
                ) from None
            raise _damaged(path, error) from None
        except Exception as error:  # torch.load fails on broken bytes in many ways: EOF, Index, Key, Value, Runtime
            raise _damaged(path, error) from None


def _numbers_in_binary(data: bytes) -> bytes:
    """A file that Python 2 wrote, with the numbers it wrote as text in the way that torch reads: `I5\\n` as `K\\x05`.

    Such a file is five pickles one after the other, then the bytes of the tensors.
    """
    stream, pieces, start = io.BytesIO(data), list[bytes](), 0
    try:
        for _ in range(5):
            for opcode, number, position in pickletools.genops(stream):
                if opcode.name == "INT" and position is not None:
                    pieces += [data[start:position], pickle.dumps(number, 2)[2:-1]]
                    start = data.index(b"\n", position) + 1
    except Exception:  # not five whole pickles
        return data
    return b"".join([*pieces, data[start:]])


def _read_safetensors(path: Path, data: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise FileError(
            f"{path} is not a valid safetensors file: {_first_line(error)}", way_out="copy or save it again, whole"
        ) from None


# RuntimeError: a member that calls itself encrypted
_BROKEN_ZIP = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError, RuntimeError, OSError
)  # fmt: skip


def _check_zip(path: Path, data: bytes) -> dict[str, bool]:
    """Member name → whether it is compressed, after comparing every recorded checksum: torch.load itself does not.

    Nothing is unpacked: a compressed member is refused later, and members that lie over each other at once.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(member.flag_bits & _ENCRYPTED for member in archive.infolist()):
                raise FileError(f"{path} is an encrypted zip file", way_out="unpack it with its password first")
            stored = [member for member in archive.infolist() if member.compress_type == zipfile.ZIP_STORED]
            if sum(member.file_size for member in stored) > len(data):
                raise ValueError("its members claim more bytes than the file has")
            for member in stored:
                if member.CRC:  # 0: torch wrote it with checksums switched off
                    with archive.open(member) as stream:
                        while stream.read(1 << 20):
                            pass
            return {member.filename: member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()}
    except _BROKEN_ZIP as error:
        raise _damaged(path, error) from None


def _read_exported_program(path: Path, data: bytes, trust: bool) -> dict[str, Tensor]:
    if not trust:
        raise UnsafeFileError(
            f"{path} is an archive of torch.export, and loading one can run code",
            way_out=f"pass --trust if you made it yourself, or {SAVE_WEIGHTS}",
        )
    try:
        return dict(torch.export.load(io.BytesIO(data)).state_dict)
    except Exception as error:
        raise _damaged(path, error) from error


def _forbidden(message: str) -> str:
    """The class or function that `weights_only` refused, as torch's message names it."""
    for pattern in (r"GLOBAL ([\w.]+) (?:was not|whose)", r"unrecognized function <?(?:\w+ )*([\w.]+)"):
        if found := re.search(pattern, message):
            return found.group(1) if "." in found.group(1) else f"builtins.{found.group(1)}"
    return ""


def _may_run_code(data: bytes) -> bool:
    """Whether the bytes are a pickle, or a zip around one, with an opcode that imports or calls something."""
    if data[:4] == b"PK\x03\x04":
        return True  # intact (its checksums were compared) and still refused
    try:
        return any(opcode.name in _RUNS_CODE for opcode, _, _ in pickletools.genops(data))
    except Exception:  # not a pickle
        return False


def _damaged(path: Path, error: Exception) -> FileError:
    return FileError(
        f"{path} is truncated or damaged: {_first_line(error)}", way_out="copy or save it again, whole"
    )  # fmt: skip


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0].split(". This is an internal")[0] if lines else "") or type(error).__name__
