"""Run an .aimodel on this machine in Apple's own runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from idp_deploy.errors import ConversionError
from idp_deploy.flow import Contents, Value
from idp_deploy.formats.coreai.native import RUNTIME, one_line
from idp_deploy.formats.sessions import Arrays, Session, as_float32
from idp_deploy.isolation import ForeignError


def open_coreai(contents: Contents, *, threads: int = 1) -> dict[str, Session]:
    """One session, "coreai": Apple's runtime, which offers no choice of threads here.

    A call with k times the batch of the file is run as k calls, since the file's batch is fixed.
    """

    def run(call: Arrays) -> Arrays:
        names = contents.interface.inputs
        if len(call) != len(names):
            raise ConversionError(
                f"{contents.path} takes {len(names)} inputs ({', '.join(names)}); the call brings {len(call)}"
            )
        declared = [contents.parsed.inputs.get(name) for name in names]
        parts = [_once(contents, names, part) for part in _batches(contents, declared, call)]
        return tuple(_joined([part[at] for part in parts]) for at in range(len(contents.interface.outputs)))

    return {RUNTIME: run}


def _once(contents: Contents, names: Sequence[str], call: Sequence[np.ndarray]) -> list[np.ndarray]:
    declared = contents.parsed.inputs
    given = {
        name: np.asarray(array, np.dtype(declared[name].dtype), order="C")
        for name, array in zip(names, call, strict=True)
        if name in declared
    }
    try:
        results = contents.parsed.native.run(given)
    except ForeignError as error:
        raise ConversionError(f"Core AI cannot run {contents.path}: {one_line(error)}") from error
    missing = [name for name in contents.interface.outputs if name not in results]
    if missing:
        raise ConversionError(f"Core AI gives no output '{missing[0]}' of {contents.path}")
    return [as_float32(results[name]) for name in contents.interface.outputs]


def _batches(contents: Contents, declared: Sequence[Value | None], call: Arrays) -> list[Sequence[np.ndarray]]:
    """The call, or the file's own batches in it. ConversionError: shapes that do not fit."""
    if all(value is None or _fits(array.shape, value.shape) for value, array in zip(declared, call, strict=True)):
        return [call]
    counts = {
        array.shape[0] // value.shape[0]
        for value, array in zip(declared, call, strict=True)
        if value is not None and array.ndim and value.shape and value.shape[0] > 0
    }
    count = counts.pop() if len(counts) == 1 else 0
    split = [
        [array] * count if value is None or not value.shape else np.array_split(array, max(1, count))
        for value, array in zip(declared, call, strict=True)
    ]
    parts: list[Sequence[np.ndarray]] = list(zip(*split, strict=True)) if count else []
    fit = all(
        value is None or _fits(array.shape, value.shape)
        for part in parts
        for value, array in zip(declared, part, strict=True)
    )
    if not parts or not fit:
        wanted = [value.shape for value in declared if value is not None]
        raise ConversionError(
            f"{contents.path} takes inputs of shape {wanted}; the call brings {[array.shape for array in call]}",
            way_out="Core AI packages have fixed shapes: export with inputs of this shape",
        )
    return parts


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(b in (-1, a) for a, b in zip(shape, wanted, strict=True))


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts[0].ndim else np.stack(parts)
