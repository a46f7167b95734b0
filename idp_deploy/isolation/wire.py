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
    """JSON and arrays (numbers and booleans, any shape) as bytes."""
    text = json.dumps(value).encode()
    body = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    return len(text).to_bytes(_LENGTH, "little") + text + body


def unpack(data: bytes) -> Message:
    """The inverse of `pack`; ValueError where `data` is something else."""
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    try:
        return json.loads(data[_LENGTH:end]), load(data[end:])
    except Exception as error:  # safetensors raises a type of its own
        raise ValueError("no message") from error
