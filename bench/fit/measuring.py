"""What its files take on this host: the net without channels against the unstructured one that scores as much."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, Recipe
from idp_deploy.shrinking import shrink_as_asked
from idp_deploy.simulation.measurement import measure_all

SPARSITIES = (0.95, 0.9, 0.85, 0.8, 0.7)  # from the sparsest that scores no less, down to the last one
REPEATS = 200
Trained = Callable[[int, Recipe | None], tuple[CompressedModel | None, float]]


def measure(seed: int, line: Mapping[str, Any], trained: Trained, inputs: tuple[Any, ...]) -> dict[str, Any]:
    """Train both again, export both and time them in turns.

    Args:
        line: of `bench.fit run`, which says how the device wanted the net.
    """
    options = {"rules": line["rules"], "shares": line["shares"]}
    ours, score = trained(seed, Recipe(sparsity=line["zeros"]["device"], options=options))
    for share in SPARSITIES:
        other, other_score = trained(seed, Recipe(sparsity=share))
        if other_score >= score:
            break
    assert ours is not None
    assert other is not None
    smaller, why = shrink_as_asked(CompressedModel(ours.module, ours.masks, Recipe(pattern="channel")), inputs)
    assert not why, why
    with tempfile.TemporaryDirectory() as folder:
        files = [
            export(model, "onnx", inputs, Path(folder) / f"{name}.onnx").path
            for name, model in (("ours", smaller), ("other", other))
        ]
        mine, theirs = measure_all(files, repeats=REPEATS)
    return {
        "seed": seed, "score": score, "zeros": share, "other_score": other_score, "ms": mine.median_ms,
        "other_ms": theirs.median_ms, "times_faster": theirs.median_ms / mine.median_ms, "repeats": REPEATS,
        "host": mine.host,
    }  # fmt: skip
