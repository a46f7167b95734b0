"""measure: run a file in its runtime on this host. It says nothing about a phone."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from idp_deploy.errors import UsageError
from idp_deploy.flow import Contents, FormatName, Measurement
from idp_deploy.formats import FORMATS
from idp_deploy.reading import read
from idp_deploy.simulation.question import Question
from idp_deploy.waiting import counted

WARM_UP = 3


def measure(path: Path | str, *, repeats: int = 30, threads: int = 1) -> Measurement:
    """Median CPU time of one inference of an .onnx or .tflite file here; see `measure_all`."""
    return measure_all([path], repeats=repeats, threads=threads)[0]


def measurements(question: Question) -> list[Measurement]:
    """Every file that a runtime of this host can time."""
    files = [file.contents for file in question.files if file.contents and runs_here(file.format)]
    return measure_all(files, threads=question.threads)


def measure_all(files: Sequence[Path | str | Contents], *, repeats: int = 30, threads: int = 1) -> list[Measurement]:
    """Time several files in turns, so that a disturbance of the machine meets all of them alike.

    CPU time per inference of the process that runs it: the median of `repeats` after 3 to warm up, with the
    quartiles. Inputs are seeded noise (indices: zeros); extents the file leaves open are 1.

    Raises:
        UsageError: a format that no runtime of this host times, or no repeats.
        MissingDependencyError: LiteRT is not installed. ConversionError: the runtime refuses the file.
    """
    if repeats < 1 or threads < 1:
        raise UsageError(f"repeats is {repeats} and threads is {threads}", way_out="both are at least 1")
    runs = [_prepare(file if isinstance(file, Contents) else read(file), threads) for file in files]
    times: list[list[float]] = [[] for _ in runs]
    for turn in counted(range(WARM_UP + repeats), "measuring on this host"):
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
    return bool(FORMATS[format].time)


def _host() -> str:
    return f"{platform.system()} {platform.machine()}"


def _prepare(contents: Contents, threads: int) -> tuple[Path, str, Callable[[], float]]:
    row = FORMATS[contents.format]
    if not row.time:
        raise UsageError(
            f"{contents.path} is a {row.title} file, which no runtime of this machine times",
            way_out="simulate it instead",
        )
    return contents.path, *row.function("time")(contents, threads)
