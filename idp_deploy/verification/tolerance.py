"""Which error a file may have, declared by the stage that lost precision, read from the file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from idp_deploy.flow import Contents

FLOAT32 = 1e-4
FLOAT16 = 2e-2
# A tensor quantized to 8 bits with its peak at 8 times its root mean square has 34 dB; 25 dB leaves room for clipping
# and for what the layers after it amplify. Noise of independent tensors adds up in power.
DB_PER_QUANTIZED_ACTIVATION = 25.0
LOWEST_DB = 6.0


@dataclass(frozen=True)
class Tolerance:
    """A limit, and how the error is taken: "max" or "rms" as in `comparing.error_of`."""

    limit: float
    measure: str = "max"


def declared(contents: Contents, runtime: str) -> Tolerance:
    """The tolerance of one runtime on one file.

    - Integer activations: noise power of 10^(−25/10) for each of the n quantized activations, so an rms error of at
      most √n · 10^(−25/20), and never more than 10^(−6/20) ≈ 0.5.
    - Float16 weights or activations, or a runtime that computes in float16: 2e-2.
    - Otherwise, integer or palette weights with float activations too, 1e-4: the model holds their dequantized values.
    """
    quantized = quantized_activations(contents)
    if quantized:
        decibel = max(LOWEST_DB, DB_PER_QUANTIZED_ACTIVATION - 10 * math.log10(quantized))
        return Tolerance(10 ** (-decibel / 20), "rms")
    stored = {tensor.dtype for tensor in contents.tensors} | {value.dtype for value in contents.values.values()}
    return Tolerance(FLOAT16 if "float16" in stored or "float16" in runtime else FLOAT32)


def quantized_activations(contents: Contents) -> int:
    """How many activations the file computes as 8-bit integers."""
    inputs = set(contents.inputs)
    return sum(
        1
        for op in contents.ops
        for name in op.outputs
        if name in contents.values and contents.values[name].dtype in ("int8", "uint8") and name not in inputs
    )
