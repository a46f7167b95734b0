"""check: a file just made, loaded and run by LiteRT before anyone else sees it.

Runtimes take some malformed sparse tensors without a word and compute garbage, so a file counts as written only
when XNNPACK and the builtin kernels both reproduce the model's outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from idp_deploy.errors import FileError
from idp_deploy.formats.tflite.litert import RUNTIMES, Litert, dequantized, first_line, quantized
from idp_deploy.isolation import ForeignError

Named = Mapping[str, np.ndarray]

_NAMES = dict(zip(RUNTIMES, ("XNNPACK", "the builtin kernels"), strict=True))


@dataclass(frozen=True)
class Tolerance:
    """The largest error allowed, relative to the largest output, or with `rms` to the outputs' root mean square."""

    limit: float
    rms: bool = False


# Integer activations round everywhere, so only what is no quantization of the model at all (6 dB) is refused here.
TOLERANCES: dict[str | None, Tolerance] = {
    None: Tolerance(1e-4),
    "fp16": Tolerance(2e-2),
    "int8-weights": Tolerance(1e-4),
    "int8": Tolerance(0.5, rms=True),
}


def failure_of(content: bytes, calls: Sequence[tuple[Named, Named]], tolerance: Tolerance) -> str:
    """What is wrong with a file: a runtime rejects it, or an output is further off than `tolerance`; empty if nothing.

    Args:
        calls: (inputs, expected outputs) by tensor name and in the file's own layout.
    """
    for runtime in RUNTIMES:
        try:
            litert = Litert(content, runtime, "the TFLite file")
            results = [_run(litert, inputs) for inputs, _ in calls]
        except (FileError, ForeignError, KeyError) as error:
            return f"the TFLite file does not run with {_NAMES[runtime]}: {first_line(error)}"
        for (_, expected), result in zip(calls, results, strict=True):
            for name, wanted in expected.items():
                distance = relative_error(result[name], wanted, rms=tolerance.rms)
                if not distance <= tolerance.limit:
                    size = "root mean square" if tolerance.rms else "largest value"
                    return (
                        f"the TFLite file differs from the model with {_NAMES[runtime]}: output {name!r} is off by "
                        f"{distance:.3g} of its {size} (tolerance {tolerance.limit:g})"
                    )
    return ""


def _run(litert: Litert, inputs: Named) -> dict[str, np.ndarray]:
    results = litert.run([quantized(inputs[detail.name], detail) for detail in litert.inputs])
    return {detail.name: dequantized(result, detail) for detail, result in zip(litert.outputs, results, strict=True)}


def relative_error(result: np.ndarray, wanted: np.ndarray, *, rms: bool = False) -> float:
    """max |result − wanted| / max |wanted|, or the ratio of root mean squares.

    Infinite where shapes differ, not a number where only one of the two is.

    >>> relative_error(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    0.5
    """
    if result.shape != wanted.shape:
        return float("inf")
    a, b = result.astype(np.float64), wanted.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore"):
        distance = np.where(same, 0.0, np.abs(a - b))
    size = np.abs(b[np.isfinite(b)])
    if rms:
        return float(np.sqrt(np.mean(distance**2)) / max(np.sqrt(np.mean(size**2)), 1e-12)) if size.size else np.inf
    return float(distance.max() / max(size.max(initial=0.0), 1e-12))
