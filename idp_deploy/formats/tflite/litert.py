"""LiteRT behind the pipe: a file in its interpreter, with either set of kernels, or in its CompiledModel.

Only the child imports the library itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from idp_deploy.errors import FileError, require
from idp_deploy.formats.sessions import as_float32
from idp_deploy.isolation import ForeignError, Session, open_isolated

RUNTIMES = ("litert-xnnpack", "litert-builtin")  # the interpreter's kernel sets
COMPILED = "litert-compiled"  # the interface that LiteRT moves to; XNNPACK stands behind it as well


@dataclass(frozen=True)
class Detail:
    """An input or output as the runtime declares it, layout as in the file; scale 0 where it is not quantized."""

    position: int  # among the inputs or outputs, as the file lists them
    name: str
    shape: tuple[int, ...]  # −1 where a call may bring any extent
    dtype: np.dtype
    scale: float
    zero_point: int


class Litert:
    """One loaded file in one runtime, in a child process: its main subgraph, or the one of a signature.

    Raises:
        FileError: the runtime cannot read or prepare the file, or ends over it.
        MissingDependencyError: LiteRT is not installed.
    """

    def __init__(
        self, content: bytes, runtime: str, about: str, *, threads: int = 1, signature: str | None = None
    ) -> None:
        require("ai_edge_litert", "tflite")
        chosen = {} if signature is None else {"signature": signature}
        try:
            self._session: Session = open_isolated(
                place_of(runtime),
                runtime=runtime,
                about=about,
                content=content,
                kernels=runtime,
                threads=threads,
                **chosen,
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


def place_of(runtime: str) -> str:
    """The child's class for a runtime."""
    return f"{__name__}:{'Compiled' if runtime == COMPILED else 'Native'}"


class Native:
    """The child's object. Methods take and return what goes through the pipe."""

    def __init__(self, content: bytes, *, kernels: str, threads: int, signature: str | None = None) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolvers = {
            "litert-xnnpack": OpResolverType.AUTO,
            "litert-builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        }
        self.interpreter = Interpreter(
            model_content=content, num_threads=threads, experimental_op_resolver_type=resolvers[kernels]
        )
        self.runner = None if signature is None else self.interpreter.get_signature_runner(signature)
        self.listed = _listed(self.interpreter, self.runner, free=True)
        self.free = any(-1 in entry["shape"] for entry in self.listed["inputs"])
        if self.runner is None and not self.free:  # others are where a call tells the sizes
            self.interpreter.allocate_tensors()

    @staticmethod
    def prepare() -> None:
        """Import the library."""
        import ai_edge_litert.interpreter  # noqa: F401

    def details(self, _: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Inputs and outputs as the interpreter lists them."""
        return self.listed, {}

    def run(self, arrays: Mapping[str, np.ndarray]) -> tuple[None, dict[str, np.ndarray]]:
        """One inference; arrays by position."""
        if self.runner is not None:
            given = {entry["name"]: arrays[str(i)] for i, entry in enumerate(self.listed["inputs"])}
            made = self.runner(**given)
            return None, {str(i): made[entry["name"]] for i, entry in enumerate(self.listed["outputs"])}
        if self.free:
            self._resize(arrays)
        for i, entry in enumerate(self.interpreter.get_input_details()):
            self.interpreter.set_tensor(entry["index"], arrays[str(i)])
        self.interpreter.invoke()
        outputs = self.interpreter.get_output_details()
        return None, {str(i): self.interpreter.get_tensor(entry["index"]) for i, entry in enumerate(outputs)}

    def _resize(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Give inputs the extents of a call."""
        for i, entry in enumerate(self.interpreter.get_input_details()):
            self.interpreter.resize_tensor_input(entry["index"], arrays[str(i)].shape)
        self.interpreter.allocate_tensors()

    def time_ms(self, _: Mapping[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
        """CPU time of one inference."""
        start = time.process_time()
        self.interpreter.invoke()
        return (time.process_time() - start) * 1e3, {}


class Compiled:
    """The child's object for CompiledModel, which tells tensors apart by their index in the file.

    Raises:
        ValueError: an input or output of a type that its buffers cannot hold (such as int64), listed twice, or both.
    """

    def __init__(self, content: bytes, *, kernels: str, threads: int) -> None:
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.cpu_options import CpuOptions
        from ai_edge_litert.hardware_accelerator import HardwareAccelerator
        from ai_edge_litert.interpreter import Interpreter
        from ai_edge_litert.options import Options

        options = Options(HardwareAccelerator.CPU, cpu_options=CpuOptions(num_threads=threads))
        self.model = CompiledModel.from_buffer(content, options=options)
        interpreter = Interpreter(model_content=content)  # lists what CompiledModel does not: order, scales
        self.listed = _listed(interpreter)
        given, made = interpreter.get_input_details(), interpreter.get_output_details()
        if -1 in [n for entry in given for n in entry["shape_signature"][1:]]:
            raise ValueError("the file leaves open how large an input is")
        if {int(entry["index"]) for entry in given} & {int(entry["index"]) for entry in made}:
            raise ValueError("an output is one of its inputs, and then it computes from what was in memory")
        self.key = self.model.get_signature_by_index(0)["key"]
        self.inputs = _places(self.model.get_input_tensor_details(self.key), given)
        self.outputs = _places(self.model.get_output_tensor_details(self.key), made)

    @staticmethod
    def prepare() -> None:
        """Import the library, and let it load what it has for accelerators."""
        from ai_edge_litert.environment import Environment

        Environment.create()

    def details(self, _: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Inputs and outputs as the interpreter lists them."""
        return self.listed, {}

    def run(self, arrays: Mapping[str, np.ndarray]) -> tuple[None, dict[str, np.ndarray]]:
        """One inference; arrays by position."""
        given = {name: self.model.create_input_buffer_by_name(self.key, name) for name in self.inputs}
        made = {name: self.model.create_output_buffer_by_name(self.key, name) for name in self.outputs}
        for name, position in self.inputs.items():
            given[name].write(arrays[str(position)])
        self.model.run_by_name(self.key, given, made)
        results = {}
        for name, position in self.outputs.items():
            entry = self.listed["outputs"][position]
            flat = made[name].read(math.prod(entry["shape"]), np.dtype(entry["dtype"]))
            results[str(position)] = flat.reshape(entry["shape"])
        return None, results


def _places(named: Mapping[str, Any], listed: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """A signature's names → positions among the file's tensors."""
    from ai_edge_litert.tensor_buffer import TensorBuffer

    by_index = {int(entry["index"]): i for i, entry in enumerate(listed)}
    if len(by_index) < len(listed) or len(named) != len(listed):
        raise ValueError("an input or output is listed twice")
    for entry in listed:
        TensorBuffer.create_from_host_memory(np.zeros(1, entry["dtype"]))  # says which types it holds
    return {name: by_index[int(details["index"])] for name, details in named.items()}


def _listed(interpreter: Any, runner: Any = None, *, free: bool = False) -> dict[str, Any]:
    """Inputs and outputs as plain values.

    Args:
        runner: of a signature, whose they are then, by its words for them.
        free: extents that a call may choose are −1 where there are more of them than the first, the batch.
    """
    found = {"inputs": interpreter.get_input_details(), "outputs": interpreter.get_output_details()}
    if runner is not None:
        ends = {"inputs": runner.get_input_details(), "outputs": runner.get_output_details()}
        found = {role: [{**entries[name], "name": name} for name in sorted(entries)] for role, entries in ends.items()}
    return {
        role: [
            {
                "name": entry["name"],
                "shape": [int(n) for n in _extents(entry, free=free)],
                "dtype": np.dtype(entry["dtype"]).str,
                "scale": float(entry["quantization"][0]),
                "zero_point": int(entry["quantization"][1]),
            }
            for entry in entries
        ]
        for role, entries in found.items()
    }


def _extents(entry: Mapping[str, Any], *, free: bool) -> Sequence[int]:
    signature: Sequence[int] = entry["shape_signature"]
    return signature if free and -1 in signature[1:] and len(signature) == len(entry["shape"]) else entry["shape"]


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
