"""The tensors beside the pruned weights: biases, norms, tables, constants.

Converters fold, fuse and drop them, so that one which is not in the file says nothing. One that is there all but a few
entries says that the file was changed: an embedding's row, say, that the compared inputs never look up.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from idp_deploy.capturing import Captured
from idp_deploy.flow import WeightProof
from idp_deploy.verification.entries import Pair, Reference, Stored, pairs

_FEWEST = 8  # telling entries below which a likeness may be chance
_ALIKE = 0.9  # share of telling entries that agree, from which a tensor is meant to be the parameter
_CHANGED = 1e-3  # of the largest value: what lies below may be a converter's own arithmetic


def altered(
    captured: Captured, masked: Collection[str], stored: Sequence[Stored], explained: Collection[str]
) -> list[WeightProof]:
    """Failed proofs of float tensors that are in the file but for a few entries.

    Args:
        masked: parameters that are proved by themselves. explained: names of stored tensors that a proof has found.
    """
    known = {captured.aliases.get(name, name) for name in masked}
    names = captured.used - known
    floats = [s for s in stored if s.tensor.dtype.startswith("float") and "lut" not in s.tensor.encoding]
    by_size: dict[int, list[Stored]] = {}
    for candidate in floats:
        by_size.setdefault(candidate.tensor.size, []).append(candidate)
    found, missing = set(explained), []
    for name in sorted(names):
        values = captured.weight(name)
        if values.dtype.kind != "f":
            continue
        reference = Reference(name, values.astype(np.float32), quantized=False)
        fitting = [pair for s in by_size.get(values.size, ()) for pair in pairs(reference, s, exact=False)]
        same = [pair.stored.tensor.name for pair in fitting if pair.may_agree and pair.prove().passed]
        found.update(same)
        if not same:
            missing.append(fitting)
    alike = (_alike([pair for pair in fitting if pair.stored.tensor.name not in found]) for fitting in missing)
    proofs = [pair.prove() for pair in alike if pair is not None]
    return [proof for proof in proofs if proof.max_relative_error > _CHANGED]


def _alike(fitting: Sequence[Pair]) -> Pair | None:
    """The pair of which nearly all entries agree; zeros and ones, which any tensor may hold, do not count."""
    for pair in fitting:
        telling = ~np.isin(np.abs(pair.expected), (0.0, 1.0))
        if telling.sum() >= _FEWEST and pair.agreement()[telling].mean() >= _ALIKE:
            return pair
    return None
