"""TensorFlow Lite Micro behind the pipe: the stock runtime of microcontrollers, and the memory it asks for.

It decodes `TFLM_DECODE` operators and knows no DENSIFY. Everything but the model lies in one arena whose size the
program chooses. Where that is too small the runtime mostly says so and sometimes ends on a signal, so each size is
tried in the child process.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from idp_deploy.errors import FileError, require
from idp_deploy.isolation import ForeignError, Session, open_isolated

EXTRA = "tflm"
RUNTIME = "tflite-micro"
_TOTAL = re.compile(r"Arena allocation total (\d+) bytes")
_LEAST, _LARGEST = 1 << 20, 1 << 28
_STEP = 128  # bytes to which the arena is told
_ABOVE = 1 << 14  # what preparing takes beyond what the runtime counts, at most


def name() -> str:
    """`tflite-micro 0.dev20261023182759`."""
    return f"{RUNTIME} {version('tflite-micro')}"


def open_micro(content: bytes, about: str) -> Session:
    """The file in the runtime, with an arena that is large enough: methods `details`, `run` and `counted`.

    Raises:
        FileError: it refuses the file, or ends over it. MissingDependencyError: it is not installed.
    """
    require("tflite_micro", EXTRA)
    size = max(_LEAST, 4 * len(content))
    while True:
        try:
            return _opened(content, about, size)
        except ForeignError as error:
            size *= 4
            if size > _LARGEST:
                raise FileError(
                    f"{RUNTIME} cannot prepare {about}: {error}",
                    way_out="export it with --encoding tflm, from a model that is float or int8 as a whole",
                ) from error


@lru_cache(maxsize=8)
def least_arena(content: bytes, about: str) -> int:
    """The smallest arena, in bytes, with which the runtime prepares the file: tried, to 128 bytes.

    Raises:
        FileError: it refuses the file with any arena. MissingDependencyError: it is not installed.
    """
    counted, _ = open_micro(content, about).call("counted")
    low, high = counted // _STEP, (counted + _ABOVE) // _STEP
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _opened(content, about, middle * _STEP)
            high = middle
        except (ForeignError, FileError):
            low = middle
    return high * _STEP


def _opened(content: bytes, about: str, arena: int) -> Session:
    return open_isolated(f"{__name__}:Child", runtime=RUNTIME, about=about, content=content, arena=arena)


class Child:
    """The child's object."""

    def __init__(self, content: bytes, *, arena: int) -> None:
        from tflite_micro.python.tflite_micro import runtime

        self.interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)

    @staticmethod
    def prepare() -> None:
        """Import the library."""
        from tflite_micro.python.tflite_micro import runtime  # noqa: F401

    def counted(self, _: Mapping[str, np.ndarray]) -> tuple[int, dict[str, np.ndarray]]:
        """What the runtime itself counts, which it only prints."""
        with tempfile.TemporaryFile() as file:
            kept = os.dup(2)
            os.dup2(file.fileno(), 2)
            try:
                self.interpreter.print_allocations()
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
                os.close(kept)
            file.seek(0)
            found = _TOTAL.search(file.read().decode(errors="replace"))
        if found is None:
            raise RuntimeError("it does not say what it allocates")
        return int(found[1]), {}

    def details(
        self, _: Mapping[str, np.ndarray], *, inputs: int, outputs: int
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Inputs and outputs in the file's order; the runtime does not say how many there are."""
        asked = {
            "inputs": [self.interpreter.get_input_details(i) for i in range(inputs)],
            "outputs": [self.interpreter.get_output_details(i) for i in range(outputs)],
        }
        return {role: [_plain(entry) for entry in entries] for role, entries in asked.items()}, {}

    def run(self, arrays: Mapping[str, np.ndarray], *, outputs: int) -> tuple[None, dict[str, np.ndarray]]:
        """One inference; arrays by position."""
        for position, array in arrays.items():
            self.interpreter.set_input(array, int(position))
        self.interpreter.invoke()
        return None, {str(i): self.interpreter.get_output(i) for i in range(outputs)}


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    scales, zero_points = (entry["quantization_parameters"][key] for key in ("scales", "zero_points"))
    return {
        "shape": [int(n) for n in entry["shape"]],
        "dtype": np.dtype(entry["dtype"]).str,
        "scale": float(scales[0]) if len(scales) else 0.0,
        "zero_point": int(zero_points[0]) if len(zero_points) else 0,
    }
