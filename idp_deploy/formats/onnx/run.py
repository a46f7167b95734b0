"""Run an .onnx file in onnxruntime on the CPU."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from idp_deploy.distance import error_of
from idp_deploy.errors import ConversionError, FileError
from idp_deploy.flow import Contents
from idp_deploy.formats.sessions import Arrays, Session, as_float32, first_line, noise

RUNTIME = "onnxruntime"
_PLAIN = "write a file that takes and gives float32 and casts inside"
# types of tensors that onnxruntime does not take from Python, or does not give to it
_UNKNOWN = re.compile(r"tensor\((bfloat16|float8.*|float4.*|u?int[24])\)")
_NO_RANK = "write the input's shape into the file; `verify` takes it as --inputs 1x3x224x224"
_TENSORS = "only files whose inputs are tensors can be run here: write one around the part that takes tensors"


# Without VNNI, onnxruntime's kernels for x86 add products of uint8 and int8 in pairs of 16 bits, and cut off what is
# beyond: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "When to use reduce range".
# With the first entry they compute in full, as those for ARM and VNNI do anyway. Under it 1.31 refuses zero points that
# weights share and blocks of scales without any; then every operator runs as it is written, on floats.
EXACT_INTEGERS = ("session.x64quantprecision", "1")
AS_WRITTEN = ("session.disable_quant_qdq", "1")


def open_onnx(contents: Contents, *, threads: int = 1, exact_integers: bool = True) -> dict[str, Session]:
    """One session. Inputs are cast to the types the file declares.

    Args:
        exact_integers: what the file means, whatever the CPU; without it a session as anybody would open it.

    Raises:
        FileError: onnxruntime cannot load the file.
    """
    if not exact_integers:
        return {RUNTIME: _opened(contents, threads, ())}
    try:
        exact = _opened(contents, threads, EXACT_INTEGERS)
    except FileError:
        return {RUNTIME: _opened(contents, threads, AS_WRITTEN)}

    def run(call: Arrays) -> Arrays:
        try:
            return exact(call)
        except ConversionError:
            return _opened(contents, threads, AS_WRITTEN)(call)

    return {RUNTIME: run}


def open_plain(contents: Contents) -> dict[str, Session]:
    """One session as anybody opens it, integers as this CPU adds them.

    Raises:
        FileError: onnxruntime cannot load the file.
    """
    return open_onnx(contents, exact_integers=False)


def _opened(contents: Contents, threads: int, entry: tuple[str, ...]) -> Session:
    """A session with this entry of its configuration, or with none.

    Raises:
        FileError: onnxruntime cannot load the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it complains of is in the exception, and some of it is tried once more
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    if entry:
        options.add_session_config_entry(*entry)
    path, (inputs, outputs) = contents.path, (contents.interface.inputs, contents.interface.outputs)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises several unrelated types, all for a file it cannot load
        raise FileError(f"onnxruntime cannot load {path}: {first_line(error)}") from error
    declared = {value.name: value for value in session.get_inputs()}

    def run(call: Arrays) -> Arrays:
        """
        Raises:
            ConversionError: onnxruntime cannot run this call.
        """
        if len(call) != len(inputs):
            raise ConversionError(f"{path} takes {len(inputs)} inputs ({', '.join(inputs)}), a call brings {len(call)}")
        for name in declared.keys() & set(inputs):
            if not (kind := declared[name].type).startswith("tensor"):
                raise ConversionError(f"{path}: input '{name}' is a {kind}, no tensor", way_out=_TENSORS)
        for end, value in (*(("input", v) for v in declared.values()), *(("output", v) for v in session.get_outputs())):
            if _UNKNOWN.fullmatch(value.type):
                said = f"{path}: {end} '{value.name}' is a {value.type}, which {RUNTIME} has no Python type for"
                raise ConversionError(said, way_out=_PLAIN)
        feed = {
            name: np.asarray(array, _dtype(declared[name].type, array), order="C")
            for name, array in zip(inputs, call, strict=True)
            if name in declared
        }
        try:
            return tuple(as_float32(_array(output)) for output in session.run(list(outputs), feed))
        except Exception as error:
            for name, array in zip(inputs, call, strict=True):
                if not np.ndim(array) and name in contents.values and not contents.values[name].has_rank:
                    said = f"{path} does not say how many axes its input '{name}' has, and onnxruntime cannot run none"
                    raise ConversionError(f"{said}: {first_line(error)}", way_out=_NO_RANK) from error
            raise ConversionError(f"onnxruntime cannot run {path}: {first_line(error)}") from error

    return run


def _array(output: Any) -> np.ndarray:
    """What onnxruntime gives: of a sequence whose tensors differ in shape, their entries one after the other, and of a
    map, such as scores by class, its values in the order of its keys."""
    if isinstance(output, dict):
        return np.array([output[key] for key in sorted(output)])
    if isinstance(output, list):
        output = [_array(item) if isinstance(item, dict) else item for item in output]
    if isinstance(output, list) and len({np.shape(item) for item in output}) > 1:
        return np.concatenate([np.ravel(item) for item in output])
    return np.asarray(output)


def usual(contents: Contents, call: Arrays, tolerance: float) -> tuple[str, ...]:
    """A note where a session without `EXACT_INTEGERS` is off by more than `tolerance` on this CPU."""
    if platform.machine() not in ("x86_64", "AMD64") or _has_vnni():
        return ()
    exact, plain = (open_onnx(contents, exact_integers=way)[RUNTIME](call) for way in (True, False))
    off = max((error_of([a], [b], "rms") for a, b in zip(exact, plain, strict=True)), default=0.0)
    if off <= tolerance:
        return ()
    name, value = EXACT_INTEGERS
    return (
        f"compared in exact integers, as ARM and x86 with VNNI have them; a usual session of {RUNTIME} on this CPU cuts"
        f" sums off at 16 bits, by which outputs move by {off:.2g}: set its session option '{name}' to '{value}' here",
    )


def _has_vnni() -> bool:
    """Whether this x86 CPU adds products of 8 bits in 32; False where the system does not say."""
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def time_onnx(contents: Contents, threads: int) -> tuple[str, Callable[[], float]]:
    """The runtime's name, and one more inference on seeded noise: CPU milliseconds of this process.

    Raises:
        ConversionError: onnxruntime refuses the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(contents.path), options, ["CPUExecutionProvider"])
        generator, usual = np.random.default_rng(0), np.zeros(0, np.float32)
        feeds = {i.name: noise(i.shape, _dtype(i.type, usual), generator) for i in session.get_inputs()}
        session.run(None, feeds)
    except Exception as error:  # onnxruntime raises many kinds
        raise ConversionError(f"onnxruntime cannot run {contents.path}: {first_line(error)}") from error

    def timed() -> float:
        start = time.process_time()
        session.run(None, feeds)
        return (time.process_time() - start) * 1e3

    return RUNTIME, timed


def _dtype(declared: str, array: np.ndarray) -> np.dtype[Any]:
    """ "tensor(float)" → float32."""
    names = {"float": "float32", "double": "float64"}
    inner = declared.removeprefix("tensor(").removesuffix(")")
    try:
        return np.dtype(names.get(inner, inner))
    except TypeError:
        return array.dtype
