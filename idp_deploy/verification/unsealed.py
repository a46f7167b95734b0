"""A file that carries no seal of this checkpoint, held against the one that the checkpoint gives today.

The proof of pruned weights and the comparison of outputs leave room: for a bias in 8 bits, a scale, a constant that the
compared inputs never reach. So the model is exported once more, and whatever the two files hold must be the same —
entry by entry where they are built alike, and by their outputs in the same runtime where a tool has rebuilt the file.

A file without a manifest may be another tool's, or ours with the manifest taken out: that it is ours shows in that it
is built alike. If it is not, it has been proved as any other tool's file is, by its pruned weights and its outputs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from idp_deploy.distance import error_of
from idp_deploy.errors import IdpDeployError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, Contents, OutputParity, StoredTensor, WeightProof
from idp_deploy.formats import FORMATS
from idp_deploy.reading import read
from idp_deploy.verification.calls import Arrays
from idp_deploy.verification.comparing import output_names

SAME_FILE = 1e-6  # of outputs: one file twice in one runtime; room for a kernel that sums in another order
REBUILT = 2e-2  # rms, where a tool rebuilt an integer file: single roundings fall the other way
_ROUNDING = 1e-5  # of stored values, where other versions of the converters folded in another order
_MOST = 5  # differences to name

Found = tuple[tuple[OutputParity, ...], tuple[WeightProof, ...], tuple[str, ...]]
Run = Callable[[Path, Sequence[Arrays]], Mapping[str, Sequence[Arrays]]]


def against_fresh(
    contents: Contents,
    model: CompressedModel,
    example_inputs: tuple[Any, ...],
    calls: Sequence[Arrays],
    results: Mapping[str, Sequence[Arrays]],
    run: Run,
) -> Found:
    """Export the model again, compare; (outputs beside the fresh file's, a failed proof per difference, notes).

    Args:
        results: runtime → the outputs of `calls` in the file at hand. run: runs a file in its runtimes.
    """
    with tempfile.TemporaryDirectory(prefix="idp-deploy-") as folder:
        path = Path(folder) / contents.path.name
        try:
            export(model, contents.format, example_inputs, path, **_options(contents))
        except IdpDeployError as error:
            note = f"not sealed for this checkpoint, which could not be exported to compare: {error.message}"
            return (), (_failed("the file", "", float("nan")),) if contents.manifest else (), (note,)
        fresh = read(path)
        alike = _shape_of(contents) == _shape_of(fresh)
        if not alike and not contents.manifest:
            note = "not exported by this tool: proved by its pruned weights and its outputs, not by every constant"
            return (), (), (note,)
        proofs = tuple(_differences(contents, fresh)) if alike else ()
        wanted = run(path, calls)
    limit, measure = (SAME_FILE, "max") if alike else (REBUILT, "rms")
    names = output_names(fresh, len(next(iter(wanted.values()))[0]))
    parities = []
    for runtime, given in results.items():
        for i, name in enumerate(names):
            pairs = [call[i] for call in wanted[runtime]], [call[i] if i < len(call) else None for call in given]
            parities.append(OutputParity(f"{runtime} again", name, error_of(*pairs, measure), limit, measure))
    if not alike:
        note = "another tool has rebuilt this file: compared with a fresh export by its outputs"
    elif proofs:
        note = f"not as this checkpoint gives it: {len(proofs)} tensors or operators differ from a fresh export"
    else:
        note = "its seal does not fit this checkpoint, but what it holds is what a fresh export holds"
    return tuple(parities), proofs[:_MOST], (note,)


def _options(contents: Contents) -> dict[str, Any]:
    """What the file says it was exported with, as far as its format's exporter takes that."""
    said = contents.manifest.get("options", {})
    taken = {*signature(FORMATS[contents.format].function("convert")).parameters, "dynamic_batch"}
    return {name: value for name, value in said.items() if name in taken and isinstance(value, str | bool)}


def _shape_of(contents: Contents) -> tuple[Any, ...]:
    """What two files have in common that are built alike: names and kinds, no values."""
    ops = tuple((op.kind, op.inputs, op.outputs, tuple(sorted(op.weights.items()))) for op in contents.ops)
    return ops, tuple(sorted((t.name, t.shape, t.dtype) for t in contents.tensors)), contents.inputs, contents.outputs


def _differences(contents: Contents, fresh: Contents) -> list[WeightProof]:
    versions = [one.manifest.get("versions") for one in (contents, fresh)]
    room = 0.0 if versions[0] == versions[1] else _ROUNDING
    expected = {tensor.name: tensor for tensor in fresh.tensors}
    found = []
    for tensor in contents.tensors:
        error = _error(tensor, expected[tensor.name])
        if not error <= room:
            found.append(_failed(tensor.name, tensor.encoding, error, tensor, expected[tensor.name]))
    for op, other in zip(contents.ops, fresh.ops, strict=True):
        if repr(op.attributes) != repr(other.attributes):
            found.append(_failed(f"operator {op.name or op.outputs[0]}", "", float("nan")))
    return found


def _error(tensor: StoredTensor, expected: StoredTensor) -> float:
    """The largest difference of stored or dequantized values, over the largest value; bits that differ count."""
    worst = 0.0
    for a, b in ((tensor.values, expected.values), (tensor.dequantize, expected.dequantize)):
        if a is None or b is None:
            continue
        given, wanted = a(), b()
        if given.tobytes() == wanted.tobytes():
            continue
        if given.shape != wanted.shape or given.dtype.kind not in "fiu":
            return float("inf")
        x, y = given.astype(np.float64), wanted.astype(np.float64)
        with np.errstate(invalid="ignore"):
            off = float(np.max(np.abs(x - y), initial=0.0) / max(float(np.max(np.abs(y), initial=0.0)), 1e-30))
        worst = max(worst, off if np.isfinite(off) else float("inf"), np.finfo(np.float64).tiny)
    return worst


def _failed(
    name: str, encoding: str, error: float, tensor: StoredTensor | None = None, expected: StoredTensor | None = None
) -> WeightProof:
    zeros = (expected.zeros if expected else 0, tensor.zeros if tensor else 0)
    return WeightProof(name, name, encoding, tensor.size_bytes if tensor else 0, *zeros, error, passed=False)
