"""LiteRT behind the pipe: a loaded file in one of its two kernel sets. Only the child imports the library itself."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from idp_deploy.errors import FileError, require
from idp_deploy.formats.sessions import as_float32
from idp_deploy.isolation import ForeignError, Session, open_isolated

RUNTIMES = ("litert-xnnpack", "litert-builtin")


@dataclass(frozen=True)
class Detail:
    """An input or output as the runtime declares it, layout as in the file; scale 0 where it is not quantized."""

    position: int  # among the inputs or outputs, as the file lists them
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    scale: float
    zero_point: int


class Litert:
    """One loaded file in one runtime, in a child process.

    Raises:
        FileError: the runtime cannot read or prepare the file, or ends over it.
        MissingDependencyError: LiteRT is not installed.
    """

    def __init__(self, content: bytes, runtime: str, about: str, *, threads: int = 1) -> None:
        require("ai_edge_litert", "tflite")
        place = f"{__name__}:Native"
        try:
            self._session: Session = open_isolated(
                place, runtime=runtime, about=about, content=content, kernels=runtime, threads=threads
            )
            details, _ = self._session.call("details")
        except ForeignError as error:
            raise FileError(f"{runtime} cannot load {about}: {first_line(error)}") from error
        self.inputs = [_detail(i, entry) for i, entry in enumerate(details["inputs"])]
        self.outputs = [_detail(i, entry) for i, entry in enumerate(details["outputs"])]

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Outputs of one call, both in the order of `inputs` and `outputs`. ForeignError: the runtime refused it."""
        _, results = self._session.call("run", {str(i): array for i, array in enumerate(arrays)})
        return tuple(results[str(i)] for i in range(len(self.outputs)))

    def time_ms(self) -> float:
        """CPU milliseconds of one more inference on the arrays of the last call, measured in the child."""
        value, _ = self._session.call("time_ms")
        return float(value)


class Native:
    """The child's object. Methods take and return what goes through the pipe."""

    def __init__(self, content: bytes, *, kernels: str, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolvers = {
            "litert-xnnpack": OpResolverType.AUTO,
            "litert-builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        }
        self.interpreter = Interpreter(
            model_content=content, num_threads=threads, experimental_op_resolver_type=resolvers[kernels]
        )
        self.interpreter.allocate_tensors()

    @staticmethod
    def prepare() -> None:
        """Import the library."""
        import ai_edge_litert.interpreter  # noqa: F401

    def details(self, _: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Inputs and outputs as the interpreter lists them."""
        found = {"inputs": self.interpreter.get_input_details(), "outputs": self.interpreter.get_output_details()}
        return {
            role: [
                {
                    "name": entry["name"],
                    "shape": [int(n) for n in entry["shape"]],
                    "dtype": np.dtype(entry["dtype"]).str,
                    "scale": float(entry["quantization"][0]),
                    "zero_point": int(entry["quantization"][1]),
                }
                for entry in entries
            ]
            for role, entries in found.items()
        }, {}

    def run(self, arrays: Mapping[str, np.ndarray]) -> tuple[None, dict[str, np.ndarray]]:
        """One inference; arrays by position."""
        for i, entry in enumerate(self.interpreter.get_input_details()):
            self.interpreter.set_tensor(entry["index"], arrays[str(i)])
        self.interpreter.invoke()
        outputs = self.interpreter.get_output_details()
        return None, {str(i): self.interpreter.get_tensor(entry["index"]) for i, entry in enumerate(outputs)}

    def time_ms(self, _: Mapping[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
        """CPU time of one inference."""
        start = time.process_time()
        self.interpreter.invoke()
        return (time.process_time() - start) * 1e3, {}


def quantized(array: np.ndarray, detail: Detail) -> np.ndarray:
    """Floats as the levels of an integer input; other arrays in the type that the input has."""
    if detail.scale and detail.dtype.kind in "iu" and array.dtype.kind == "f":
        limits = np.iinfo(detail.dtype)
        levels = np.rint(array / detail.scale) + detail.zero_point
        return np.clip(levels, limits.min, limits.max).astype(detail.dtype)
    return np.array(array, detail.dtype, order="C")


def dequantized(array: np.ndarray, detail: Detail) -> np.ndarray:
    """The numbers that an integer output stands for; any float as float32."""
    if detail.scale and array.dtype.kind in "iu":
        return (array.astype(np.float32) - detail.zero_point) * np.float32(detail.scale)
    return as_float32(array)


def first_line(error: Exception) -> str:
    """What a message can hold of a runtime's error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _detail(position: int, entry: Mapping[str, Any]) -> Detail:
    shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
    return Detail(position, entry["name"], shape, dtype, entry["scale"], entry["zero_point"])
