"""export --to coreai: an .aimodel whose pruned weights are stored sparse.

The route is torch.export → Apple's coreai-torch → program → our storage pass → package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from idp_deploy import files
from idp_deploy.capturing import Captured, capture, refuse_returned_inputs
from idp_deploy.errors import UsageError
from idp_deploy.exporting.randomness import refuse_random
from idp_deploy.flow import Artifact, CompressedModel
from idp_deploy.formats import manifest
from idp_deploy.formats.coreai.write import package
from idp_deploy.formats.coreai.write.conversion import convert, quiet
from idp_deploy.formats.coreai.write.storing import Storage, store
from idp_deploy.formats.notes import Placement, storage_notes
from idp_deploy.masks import prunable_weights

ENCODINGS = ("auto", "dense", "sparse")
PRECISIONS = ("float16", "float32")
SCHEMES = {"": "", "fp16": "", "int8": "int8", "int8-weights": "int8", "lut4": "lut4"}
TARGET = "runs on macOS 27 and iOS 27 or later: Core AI has no older deployment target"


def export_coreai(
    model: CompressedModel,
    example_inputs: tuple[Any, ...],
    path: Path,
    *,
    encoding: str = "auto",
    precision: str = "float16",
) -> Artifact:
    """Write `model` as an .aimodel. The batch is the example's.

    Args:
        encoding: auto takes the smallest per tensor; dense none sparse; sparse all with a zero, also where larger.
        precision: float16 (what Apple's accelerators compute in) or float32; inputs and outputs are float32.

    Raises:
        UsageError: an option that does not exist.
        ConversionError: an operator that Apple's converter does not know, or weights beyond float16.
    """
    if encoding not in ENCODINGS:
        raise UsageError(f"Core AI has no encoding {encoding!r}", way_out=f"one of {', '.join(ENCODINGS)}")
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}", way_out=f"one of {', '.join(PRECISIONS)}")
    captured = capture(model, example_inputs)
    refuse_random(captured)
    refuse_returned_inputs(captured, "Core AI")
    weights = _weights(captured)
    storage = Storage(
        weights,
        {name: mask for name, mask in captured.masks.items() if name in weights},
        {n: found.output_axis for n, found in prunable_weights(model.module, embeddings=True).items() if n in weights},
        encoding=encoding,
        scheme=SCHEMES[model.quantization.scheme if model.quantization else ""],
        covered=model.quantization.covered if model.quantization else frozenset(),
    )
    dense = convert(captured, precision)
    with quiet():
        program = package.program_of(dense)
        store(program, storage)
        bytecode = package.bytecode_of(program)
    provenance = manifest.build(
        model,
        inputs=captured.input_names(),
        outputs=captured.output_names(),
        weights=storage.placed,
        options={"encoding": encoding, "precision": precision},
        packages=("torch", "coreai-core", "coreai-torch"),
    )
    with files.replacing(path, package=True) as temporary:
        package.write(temporary, bytecode, {manifest.KEY: manifest.dumps(provenance)})
    return Artifact(path, "coreai", files.size_bytes(path), provenance, _notes(model, storage))


def _weights(captured: Captured) -> dict[str, np.ndarray]:
    """Float parameters and buffers by name; a tied weight appears under each of its names."""
    state = captured.module.state_dict()
    return {name: t.detach().cpu().float().numpy() for name, t in state.items() if t.is_floating_point()}


def _notes(model: CompressedModel, storage: Storage) -> tuple[str, ...]:
    notes = [TARGET]
    if model.quantization and model.quantization.scheme == "int8":
        notes.append("int8: the weights are int8, activations stay floating point")
    placed = {
        name: Placement(
            tensor,
            storage.encodings[tensor].startswith("sparse"),
            not storage.scheme or storage.encodings[tensor].endswith(storage.scheme),
        )
        for name, tensor in storage.placed.items()
    }
    return (*notes, *storage_notes(model, placed, storage.encoding))
