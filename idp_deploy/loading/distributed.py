"""Folders of `torch.distributed.checkpoint`: `.metadata` says where each part of each tensor lies.

The index is a pickle. It is read into stand-ins that have fields and no behaviour, so that nothing named in it is
imported or called; the parts are read with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idp_deploy.errors import FileError, UnsafeFileError
from idp_deploy.loading.reading_files import read_bytes, read_content

_STATE_DICTS = ("schedule", "sites")  # the dicts in the state of a Pruner
_RECORDS = ("torch.*", "pathlib.*Path", "pathlib._local.*Path")


class _Record:
    """Any class of the index: its fields, or what it was built from."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class _Index(pickle.Unpickler):
    """Only this module's stand-ins, tuples and dicts come out of it."""

    def find_class(self, module: str, name: str) -> Any:
        whole = f"{module}.{name}"
        if whole == "torch.Size":
            return _size
        if whole == "collections.OrderedDict":
            return OrderedDict
        if not any(fnmatchcase(whole, glob) for glob in _RECORDS):
            raise UnsafeFileError(f"its index wants to build {whole}", way_out="write it again with torch")
        return type(name, (_Record,), {})


def _size(extents: Any = ()) -> tuple[Any, ...]:
    return tuple(extents)


def read_distributed(folder: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Every tensor of the checkpoint, whole, in the dicts it was saved from; and the hashes of the files.

    Raises:
        FileError: the index or a file is damaged or missing, or parts do not make up their tensor.
        UnsafeFileError: the index holds something else than records of torch.
    """
    path = folder / ".metadata"
    data = read_bytes(path)
    digests = [(path.name, hashlib.sha256(data).hexdigest())]
    try:
        index = _Index(io.BytesIO(data)).load()
        tensors = {
            str(name): (_extents(entry.size), [_extents(chunk.offsets) for chunk in entry.chunks])
            for name, entry in index.state_dict_metadata.items()
            if hasattr(entry, "chunks")
        }
        places = {
            (key.fqn, _extents(getattr(key, "offset", None) or ())): where for key, where in index.storage_data.items()
        }
        flattened = getattr(index, "planner_data", None)
        keys = {str(name): tuple(map(str, key)) for name, key in flattened.items()} if flattened else {}
        needed = {_plain_name(where.relative_path) for where in places.values()}
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path}: {error.message}", way_out=error.way_out) from None
    except Exception as error:  # an unpickler fails on broken bytes in many ways
        raise FileError(f"{path} is damaged: {error}", way_out="copy the folder again, whole") from None
    files: dict[str, bytes] = {}
    for name in sorted(needed):
        if not (folder / name).is_file():
            raise FileError(f"{path} names {name}, which is missing", way_out="copy the folder again, whole")
        files[name] = read_bytes(folder / name)
        digests.append((name, hashlib.sha256(files[name]).hexdigest()))
    found: dict[str, Any] = {}
    for name, (size, offsets) in tensors.items():
        parts = [(offset, _part(path, files, places.get((name, offset)))) for offset in offsets]
        _put(path, found, keys.get(name) or (name,), _whole(path, name, size, parts))
    for name in _plain_values(keys, tensors):
        _put(path, found, keys[name], _value(path, files, places.get((name, ()))))
    return found, digests


def _put(path: Path, found: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    home = found
    for key in keys[:-1]:
        home = home.setdefault(key, {})
        if not isinstance(home, dict):
            raise FileError(f"{path}: '{key}' is a tensor and a dict", way_out="copy the folder again, whole")
    home[keys[-1]] = value


def _plain_values(keys: Mapping[str, tuple[str, ...]], tensors: Collection[str]) -> list[str]:
    """Of all that is no tensor, what belongs to a pruner's state: it says which zeros the weights should have."""
    paths = set(keys.values())
    dicts = {key[:depth] for key in paths for depth in range(1, len(key))}
    states = {key[:-1] for key in paths if key[-1:] == ("steps",) and {(*key[:-1], k) for k in _STATE_DICTS} <= dicts}
    inside = (n for n, key in keys.items() if any(key[:depth] in states for depth in range(len(key))))
    return [name for name in inside if name not in tensors]


def _part(path: Path, files: dict[str, bytes], where: Any) -> Tensor:
    part = _value(path, files, where)
    if not isinstance(part, Tensor) or part.is_meta or part.layout != torch.strided or part.is_quantized:
        raise FileError(
            f"{path.parent / where.relative_path} holds something else than tensors", way_out="copy it again"
        )
    return part


def _value(path: Path, files: dict[str, bytes], where: Any) -> Any:
    try:
        start, length = int(where.offset), int(where.length)
        if getattr(where, "transform_descriptors", None):
            raise FileError(f"{path}: its parts are compressed", way_out="write it again without transforms")
        data = files[_plain_name(where.relative_path)][start : start + length]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise FileError(f"{path} does not say where every part lies", way_out="copy the folder again, whole") from None
    return read_content(path.parent / where.relative_path, data)


def _whole(path: Path, name: str, size: tuple[int, ...], parts: list[tuple[tuple[int, ...], Tensor]]) -> Tensor:
    """The parts at their offsets; together they cover the tensor, and each has the bytes that it claims."""
    held = sum(part.numel() for _, part in parts)
    backed = all(part.numel() * part.element_size() <= part.untyped_storage().nbytes() for _, part in parts)
    if not parts or held != math.prod(size) or not backed:
        raise FileError(
            f"{path}: the parts of '{name}' have {held} values, where shape {size} has {math.prod(size)}",
            way_out="let every process call save() of torch.distributed.checkpoint, not the first alone; or copy the "
            "folder again, whole",
        )
    whole = torch.empty(size, dtype=parts[0][1].dtype)
    covered = torch.zeros(size, dtype=torch.bool)
    for offset, part in parts:
        region = tuple(slice(start, start + extent) for start, extent in zip(offset, part.shape, strict=False))
        if whole[region].shape != part.shape:
            raise FileError(f"{path}: a part of '{name}' lies outside of it", way_out="copy the folder again, whole")
        whole[region] = part
        covered[region] = True
    if not bool(covered.all()):
        raise FileError(f"{path}: parts of '{name}' lie on each other", way_out="copy the folder again, whole")
    return whole


def _extents(value: Any) -> tuple[int, ...]:
    return tuple(int(extent) for extent in value)


def _plain_name(name: Any) -> str:
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f"{name!r} is not a file beside the index")
    return name
