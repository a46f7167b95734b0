"""Outputs of a file beside those of the model, or of its runtimes beside each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from idp_deploy.distance import error_of, filled_from
from idp_deploy.flow import Contents, OutputParity, Quantization
from idp_deploy.verification.calls import Arrays
from idp_deploy.verification.liveness import output_notes, tolerance_for, variation
from idp_deploy.verification.tolerance import Tolerance, declared

Results = Mapping[str, Sequence[Arrays]]  # runtime → the outputs of each call

_LARGEST_HALF, _FAR_IN_HALF = 65504.0, 2.9e4
_IN_FLOATS = (
    "8 bits are too few for what this model computes on the way, or for what it chooses by (the largest of near "
    "values): calibrate on a task's inputs if they were random, or quantize with --scheme int8-weights, which keeps "
    "activations float"
)


def with_model(
    contents: Contents,
    expected: Sequence[Arrays],
    results: Results,
    tolerance: float | None,
    quantization: Quantization | None = None,
) -> tuple[tuple[OutputParity, ...], tuple[str, ...]]:
    """Every output of every runtime against the model's, over all calls; (parities, notes)."""
    names = output_names(contents, len(expected[0]))
    parities, notes = [], []
    for runtime, calls in results.items():
        allowed = declared(contents, runtime, quantization) if tolerance is None else Tolerance(tolerance)
        if len(calls[0]) != len(names):
            notes.append(f"{runtime} gives {len(calls[0])} outputs where the model gives {len(names)}")
        parities += [
            OutputParity(runtime, f"output {extra}, which the model lacks", math.inf, 0.0)
            for extra in range(len(names), len(calls[0]))
        ]
        for i, name in enumerate(names):
            wanted = [call[i] for call in expected]
            given = [call[i] if i < len(call) else None for call in calls]
            if "float16" in runtime:
                given, held = within_half(wanted, given)
                notes += [f"{runtime} gives '{name}' {held}"] if held else []
            limit = allowed.limit if tolerance is not None else tolerance_for(variation(wanted), allowed.limit)
            error = error_of(wanted, given, allowed.measure)
            parities.append(OutputParity(runtime, name, error, limit, allowed.measure))
            first = given[0]
            if first is not None and first.shape != wanted[0].shape:
                notes.append(f"{runtime} gives '{name}' the shape {first.shape}, the model {wanted[0].shape}")
    if any(parity.measure == "rms" and not parity.passed for parity in parities):
        notes.append(_IN_FLOATS)
    limit = min(parity.tolerance for parity in parities) if parities else 0.0
    return tuple(parities), (*notes, *output_notes(names, expected, limit))


def within_half(
    wanted: Sequence[np.ndarray], given: Sequence[np.ndarray | None]
) -> tuple[list[np.ndarray | None], str]:
    """`given` with what `wanted` has where a mask's fill is beyond float16 and as far as that goes is there; a note.

    A file in float16 holds 3e4 for what stands for "as far as can be"; an overflow, which is infinite, stays one.
    """
    least = max(filled_from(wanted), np.nextafter(_LARGEST_HALF, np.inf))
    found: list[np.ndarray | None] = []
    said = ""
    for want, got in zip(wanted, given, strict=True):
        if got is not None and got.shape == want.shape and math.isfinite(least):
            far = (np.abs(want) >= least) & (np.abs(got) >= _FAR_IN_HALF) & np.isfinite(got) & ((want > 0) == (got > 0))
            if far.any():
                said = f"{got[far][0]:g} for {want[far][0]:g}, which float16 has not: --precision float32 keeps it"
            got = np.where(far, want, got)
        found.append(got)
    return found, said


def between_runtimes(
    contents: Contents, results: Results, tolerance: float | None
) -> tuple[tuple[OutputParity, ...], tuple[str, ...]]:
    """Every runtime against the first one, whose own outputs must be finite; (parities, notes)."""
    first, reference = next(iter(results.items()))
    names = output_names(contents, len(reference[0]))
    parities = []
    for runtime, calls in results.items():
        allowed = declared(contents, runtime) if tolerance is None else Tolerance(tolerance)
        for i, name in enumerate(names):
            given = [call[i] if i < len(call) else None for call in calls]
            error = error_of([call[i] for call in reference], given, allowed.measure)
            parities.append(OutputParity(runtime, name, error, allowed.limit, allowed.measure))
    compared = (
        f"outputs compared with those of {first}" if len(results) > 1 else f"{first} ran; nothing to compare with"
    )
    note = f"without a model: {compared}; values and zeros of the weights were read but not proved"
    return tuple(parities), (note, *output_notes(names, reference, max(p.tolerance for p in parities)))


def output_names(contents: Contents, count: int) -> list[str]:
    """The names of `count` outputs in the model's order, else numbered."""
    names = list(contents.interface.outputs)
    return names if len(names) == count else [f"output {i}" for i in range(count)]
