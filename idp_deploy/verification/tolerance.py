"""Which error a file may have, declared by the stage that lost precision, read from the file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from idp_deploy.flow import Contents, GraphOp, Quantization
from idp_deploy.formats.operators import classes_of

FLOAT32 = 1e-4
FLOAT16 = 2e-2
# A tensor quantized to 8 bits with its peak at 8 times its root mean square has 34 dB; 30 dB leaves room for what the
# layers after it amplify. Noise of independent tensors adds up in power.
DB_PER_QUANTIZED_ACTIVATION = 30.0
LOWEST_DB = 10.0
_MOVING = ("view", "pad", "memory")  # classes of operators that hand integers on as they are


@dataclass(frozen=True)
class Tolerance:
    """A limit, and how the error is taken: "max" or "rms" as in `comparing.error_of`."""

    limit: float
    measure: str = "max"


def declared(contents: Contents, runtime: str, quantization: Quantization | None = None) -> Tolerance:
    """The tolerance of one runtime on one file.

    - Integer activations: noise power of 10^(−d/10) for each of the n that are rounded, so an rms error of at most
      √n · 10^(−d/20), and never more than 10^(−10/20) ≈ 0.32. d is 30 dB, or 3 dB below the noisiest layer that
      `quantize` measured and let pass.
    - Float16 weights or activations, or a runtime that computes in float16: 2e-2.
    - Otherwise, integer or palette weights with float activations too, 1e-4: the model holds their dequantized values.
    """
    integers = quantized_activations(contents)
    if integers:
        classes = classes_of(contents.format)
        rounded = sum(classes.get(op.kind) not in _MOVING for op in integers) or 1
        each = min(DB_PER_QUANTIZED_ACTIVATION, _noisiest(quantization) - 3)
        decibel = max(LOWEST_DB, each - 10 * math.log10(rounded))
        return Tolerance(10 ** (-decibel / 20), "rms")
    stored = {tensor.dtype for tensor in contents.tensors} | {value.dtype for value in contents.values.values()}
    return Tolerance(FLOAT16 if "float16" in stored or "float16" in runtime else FLOAT32)


def _noisiest(quantization: Quantization | None) -> float:
    if quantization is None:
        return math.inf
    measured = quantization.activation_db.items()
    return min((db for name, db in measured if name not in quantization.kept_float), default=math.inf)


def quantized_activations(contents: Contents) -> list[GraphOp]:
    """The operators whose results are activations in 8-bit integers, once for each such result."""
    inputs = set(contents.inputs)
    return [
        op
        for op in contents.ops
        for name in op.outputs
        if name in contents.values and contents.values[name].dtype in ("int8", "uint8") and name not in inputs
    ]
