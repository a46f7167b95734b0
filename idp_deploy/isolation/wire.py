"""What goes through the pipe: a JSON value and named arrays, never a pickle — the child may have been taken over.

>>> value, arrays = unpack(pack({"n": 1}, {"x": np.zeros((2, 0))}))
>>> value, arrays["x"].shape
({'n': 1}, (2, 0))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load, save

Message = tuple[Any, dict[str, np.ndarray]]
_LENGTH = 8  # bytes of the JSON part's length, little-endian


def pack(value: Any, arrays: Mapping[str, np.ndarray]) -> bytes:
    """JSON and arrays (numbers, booleans and names, any shape) as bytes."""
    names = [name for name, array in arrays.items() if array.dtype.kind in "OSU"]
    text = json.dumps([value, names]).encode()
    ready = {name: _as_bytes(array) if name in names else array for name, array in arrays.items()}
    body = save({name: np.asarray(array, order="C") for name, array in ready.items()})
    return len(text).to_bytes(_LENGTH, "little") + text + body


def unpack(data: bytes) -> Message:
    """The inverse of `pack`; ValueError where `data` is something else."""
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    try:
        value, names = json.loads(data[_LENGTH:end])
        arrays = load(data[end:])
        return value, arrays | {name: _as_names(arrays[name]) for name in names}
    except Exception as error:  # safetensors raises a type of its own
        raise ValueError("no message") from error


def _as_bytes(names: np.ndarray) -> np.ndarray:
    """Names as the bytes of their text, on an axis behind their own."""
    said = [name if isinstance(name, bytes) else str(name).encode() for name in names.reshape(-1)]
    coded = np.array(said, np.bytes_)
    return coded.view(np.uint8).reshape(*names.shape, coded.itemsize)


def _as_names(coded: np.ndarray) -> np.ndarray:
    return coded.reshape(-1).view(f"S{coded.shape[-1]}").reshape(coded.shape[:-1])
