"""measure: run a file in its runtime on this host. It says nothing about a phone."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from idp_deploy import documents
from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.flow import Contents, FormatName, Measurement
from idp_deploy.formats import FORMATS
from idp_deploy.formats.tflite.litert import Litert, first_line
from idp_deploy.isolation import ForeignError
from idp_deploy.reading import read

WARM_UP = 3


def measure(path: Path | str, *, repeats: int = 30, threads: int = 1) -> Measurement:
    """Median CPU time of one inference of an .onnx or .tflite file here; see `measure_all`."""
    return measure_all([path], repeats=repeats, threads=threads)[0]


def measure_all(files: Sequence[Path | str | Contents], *, repeats: int = 30, threads: int = 1) -> list[Measurement]:
    """Time several files in turns, so that a disturbance of the machine meets all of them alike.

    CPU time per inference of the process that runs it: the median of `repeats` after 3 to warm up, with the
    quartiles. Inputs are seeded noise (indices: zeros); extents the file leaves open are 1.

    Raises:
        UsageError: a Core ML package (it runs on Apple systems alone), or no repeats.
        MissingDependencyError: LiteRT is not installed. ConversionError: the runtime refuses the file.
    """
    if repeats < 1 or threads < 1:
        raise UsageError(f"repeats is {repeats} and threads is {threads}", way_out="both are at least 1")
    runs = [_prepare(file if isinstance(file, Contents) else read(file), threads) for file in files]
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(WARM_UP + repeats):
        for (_, _, run), seen in zip(runs, times, strict=True):
            taken = run()
            if turn >= WARM_UP:
                seen.append(taken)
    found = []
    for (path, runtime, _), seen in zip(runs, times, strict=True):
        low, median, high = (float(q) for q in np.quantile(seen, (0.25, 0.5, 0.75)))
        found.append(Measurement(path, runtime, _host(), threads, median, low, high, repeats))
    return found


def runs_here(format: FormatName) -> bool:
    """Whether a runtime of the format can be timed on this host."""
    return FORMATS[format].timed


def _host() -> str:
    return f"{platform.system()} {platform.machine()}"


def _prepare(contents: Contents, threads: int) -> tuple[Path, str, Callable[[], float]]:
    path = contents.path
    if contents.format == "onnx":
        return path, "onnxruntime", _onnxruntime(contents, threads)
    if contents.format == "tflite":
        return path, "litert-xnnpack", _litert(contents, threads)
    raise UsageError(f"{path} is a Core ML package, which runs on Apple systems alone", way_out="simulate it instead")


def _noise(shape: Sequence[int], dtype: np.dtype, rng: np.random.Generator) -> np.ndarray:
    extents = [extent if isinstance(extent, int) and extent > 0 else 1 for extent in shape]
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(extents).astype(dtype)
    return np.zeros(extents, dtype)


def _onnxruntime(contents: Contents, threads: int) -> Callable[[], float]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(contents.path), options, ["CPUExecutionProvider"])
        rng = np.random.default_rng(0)
        feeds = {item.name: _noise(item.shape, np.dtype(_numpy_name(item.type)), rng) for item in session.get_inputs()}
        session.run(None, feeds)
    except Exception as error:  # onnxruntime raises many kinds
        raise ConversionError(f"onnxruntime cannot run {contents.path}: {str(error).splitlines()[0]}") from error

    def timed() -> float:
        start = time.process_time()
        session.run(None, feeds)
        return (time.process_time() - start) * 1e3

    return timed


def _numpy_name(onnx_type: str) -> str:
    plain = onnx_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(plain, plain)


def _litert(contents: Contents, threads: int) -> Callable[[], float]:
    litert = Litert(documents.read_bytes(contents.path), "litert-xnnpack", str(contents.path), threads=threads)
    rng = np.random.default_rng(0)
    try:
        litert.run([_noise(item.shape, item.dtype, rng) for item in litert.inputs])
    except ForeignError as error:
        raise ConversionError(f"LiteRT cannot run {contents.path}: {first_line(error)}") from error
    return litert.time_ms
