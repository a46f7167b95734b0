"""What an operator does, whatever its format calls it. Each format's `words.py` lists its words by these classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module

from idp_deploy.flow import FormatName
from idp_deploy.formats import FORMATS

# class → what its operators do
CLASSES: dict[str, str] = {
    "convolution": "a kernel over channels and places",
    "depthwise": "a kernel a channel",
    "transposed": "a convolution backwards",
    "product": "a matrix product, with a weight or between activations",
    "packed": "a product with a matrix of a few bits in blocks, or with a few experts: nobody published its cost",
    "attention": "softmax(queries · keys) · values: two products over the same extents",
    "recurrence": "a matrix product a step",
    "loop": "what is inside runs as often as the data say, which the file does not",
    "table": "rows of a table, looked up by index",
    "view": "no arithmetic and no copy: the operand seen otherwise, or nothing at inference",
    "fused": "done on the way out of the operator before it",
    "quantizer": "numbers in another type and scale",
    "dequantizer": "integers as floats in front of an operator that the runtime runs on the integers",
    "pad": "a border",
    "pool": "a maximum or a mean over windows",
    "reduction": "one value of many",
    "elementwise": "arithmetic entry by entry",
    "piecewise": "a few multiplications and clamps for every entry",
    "transcendental": "an exponential, a logarithm or a power for every entry",
    "normalizing": "the same, with sums over neighbours: softmax, local response normalization",
    "memory": "entries moved",
}


@cache
def classes_of(format: FormatName) -> Mapping[str, str]:
    """The format's operator kinds → their class; a kind that is not there is unknown.

    >>> classes_of("onnx")["Gemm"], classes_of("tflite")["FULLY_CONNECTED"], classes_of("coreml")["linear"]
    ('product', 'product', 'product')
    """
    rows: Mapping[str, str] = import_module(FORMATS[format].words).WORDS
    return {kind: name for name, kinds in rows.items() for kind in kinds.split()}


def is_channels_last(format: FormatName) -> bool:
    """Whether the format's activations lie as (N, H, W, C) and its kernels with their input channels last."""
    return bool(import_module(FORMATS[format].words).CHANNELS_LAST)
