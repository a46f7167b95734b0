"""export --to coreai: an .aimodel whose pruned weights are stored sparse.

The route is torch.export → Apple's coreai-torch → program → our storage pass → package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from idp_deploy import files
from idp_deploy.capturing import Captured, refuse_returned_inputs
from idp_deploy.errors import UsageError
from idp_deploy.flow import Quantization
from idp_deploy.formats import manifest
from idp_deploy.formats.coreai.write import package
from idp_deploy.formats.coreai.write.conversion import convert, quiet
from idp_deploy.formats.coreai.write.storing import Storage, located, store
from idp_deploy.formats.notes import Placement
from idp_deploy.formats.writing import Converted, Written
from idp_deploy.masks import prunable_weights

ENCODINGS = ("auto", "dense", "sparse")
PRECISIONS = ("float16", "float32")
SCHEMES = {"": "", "fp16": "", "int8": "int8", "int8-weights": "int8", "lut4": "lut4"}
TARGET = "runs on macOS 27 and iOS 27 or later: Core AI has no older deployment target"


@dataclass(frozen=True, eq=False)
class _Source:
    """The program with its weights dense, and how they are to be stored."""

    bytecode: bytes
    storage: Storage  # without masks


def convert_coreai(
    captured: Captured, quantization: Quantization | None, encoding: str, *, precision: str = "float16"
) -> Converted:
    """The model as Core AI's program. The batch is the example's.

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
    refuse_returned_inputs(captured, "Core AI")
    weights = _weights(captured)
    prunable = prunable_weights(captured.original, embeddings=True)
    scheme = quantization.scheme if quantization else ""
    storage = Storage(
        weights,
        axes={name: found.output_axis for name, found in prunable.items() if name in weights},
        encoding=encoding,
        scheme=SCHEMES[scheme],
        covered=quantization.covered if quantization else frozenset(),
        levels=quantization.levels if quantization else {},
    )
    bytecode = convert(captured, precision)
    with quiet():
        found = located(package.program_of(bytecode), weights)
    storage = replace(storage, found=found)
    shared = [one.match.names for one in found.values()]
    aliases = captured.aliases
    return Converted(
        _Source(bytecode, storage),
        inputs=tuple(captured.input_names()),
        outputs=tuple(captured.output_names()),
        tensors=storage.places(),
        fixed=frozenset(n for names in shared if len({aliases.get(m, m) for m in names}) > 1 for n in names),
        notes=(TARGET, "int8: the weights are int8, activations stay floating point")[: 1 + (scheme == "int8")],
    )


def store_coreai(converted: Converted, masks: Mapping[str, np.ndarray], record: str) -> Written:
    """The package, every weight in its smallest form."""
    source: _Source = converted.source
    storage = source.storage.with_masks(masks)
    with quiet():
        program = package.program_of(source.bytecode)
        encodings = store(program, storage)
        bytecode = package.bytecode_of(program)
    placed = {
        name: Placement(
            tensor,
            encodings[tensor].startswith("sparse"),
            not storage.scheme or encodings[tensor].endswith(storage.scheme),
        )
        for name, tensor in storage.places().items()
    }
    return Written(partial(_save, bytecode, record), placed)


def _save(bytecode: bytes, record: str, path: Path) -> int:
    with files.replacing(path, package=True) as temporary:
        package.write(temporary, bytecode, {manifest.KEY: record})
    return files.size_bytes(path)


def _weights(captured: Captured) -> dict[str, np.ndarray]:
    """Float parameters and buffers by name; a tied weight appears under each of its names."""
    state = captured.module.state_dict()
    return {name: t.detach().cpu().float().numpy() for name, t in state.items() if t.is_floating_point()}
