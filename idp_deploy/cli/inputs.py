"""Example inputs from the command line: `1x3x224x224`, `1x32:int64`, or `pkg.mod:callable`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch

from idp_deploy.configuration.shapes import CALLABLE, shapes
from idp_deploy.errors import UsageError
from idp_deploy.loading import resolve

_DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "int64", "int32", "int8", "uint8", "bool")}
_MOST = 1 << 31  # elements of one tensor: files count them in 32 bits


def example_inputs(specifications: Sequence[str]) -> tuple[Any, ...]:
    """One example tensor a specification, or whatever tuple the named callable returns.

    Floats are drawn from a normal distribution with a fixed seed; integers alternate 0 and 1, which any vocabulary
    holds; the caller's random state is untouched.

    >>> [tuple(x.shape) for x in example_inputs(["1x3x8x8", "1x4:int64"])]
    [(1, 3, 8, 8), (1, 4)]

    Raises:
        UsageError: a shape, dtype or callable that cannot be read.
    """
    if len(specifications) == 1 and re.fullmatch(CALLABLE, specifications[0]):
        made = resolve(specifications[0], what="--inputs")()
        return tuple(made) if isinstance(made, (tuple, list)) else (made,)
    each = [shape for text in specifications for shape in shapes(text)]
    return tuple(_tensor(text, index) for index, text in enumerate(each))


def _tensor(text: str, index: int) -> torch.Tensor:
    shape_text, _, dtype_text = text.partition(":")
    dtype = dtype_text or "float32"
    if dtype not in _DTYPES:
        raise UsageError(f"unknown dtype {dtype!r} in the input {text!r}", way_out=f"one of {', '.join(_DTYPES)}")
    shape = [int(extent) for extent in shape_text.split("x")]
    if math.prod(shape) > _MOST:
        raise UsageError(
            f"the input {text!r} has over {_MOST:.0e} elements", way_out="write the size that the model sees at once"
        )
    if _DTYPES[dtype].is_floating_point:
        generator = torch.Generator().manual_seed(index)
        return torch.randn(shape, generator=generator).to(_DTYPES[dtype])
    count = torch.Size(shape).numel()
    return (torch.arange(count) % 2).reshape(shape).to(_DTYPES[dtype])
