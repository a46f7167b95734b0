"""Which layers, left float, would make an int8 file agree with its model: guessed from the model, tried in the file.

rank layers by what the outputs lose to each alone → write the file with the first of them float → verify it
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idp_deploy.errors import IdpDeployError
from idp_deploy.exporting import export
from idp_deploy.flow import Artifact, CompressedModel, FormatName, Parity
from idp_deploy.formats import FORMATS
from idp_deploy.masks import copied
from idp_deploy.quantization.output_noise import output_noise
from idp_deploy.quantization.sparing import ASKED
from idp_deploy.verification import verify

if TYPE_CHECKING:
    from idp_deploy.tasks import Task

NONE = "no few layers stand out that would make it agree if they stayed float"
_CALLS = 4  # of calibration, to rank layers by
_SHARE = 0.5  # of the layers: where more are to stay float, int8 is not what the model wants


def layers_to_spare(
    model: CompressedModel,
    formats: Mapping[FormatName, Mapping[str, Any]],
    example_inputs: tuple[Any, ...],
    *,
    task: Task | None = None,
) -> tuple[str, ...]:
    """Globs for `quantize --float` with which the files agree with the model; none where no few layers stand out.

    The files are written and verified for every number of layers that is tried, at most 1, 2, 4, … of them, half of all
    first; the trial takes the quantized weights for floats, since a file is to agree with what the model holds.

    Args:
        model: quantized to int8; any other has no layers to spare.
        formats: those that do not agree, each with what it was exported with.
    """
    quantization = model.quantization
    if quantization is None or quantization.scheme != "int8":
        return ()
    measured = [name for name in quantization.activation_db if name not in quantization.kept_float]
    module = copied(model.module).cpu().eval()
    calls = quantization.calibration[:_CALLS] or (example_inputs,)
    noise = output_noise(module, measured, calls)
    ranked = sorted(noise, key=lambda name: (noise[name], quantization.activation_db[name]))

    def agrees(names: Sequence[str]) -> bool:
        kept = {**quantization.kept_float, **dict.fromkeys(names, ASKED)}
        levels = {name: one for name, one in quantization.levels.items() if name not in kept}
        trial = replace(model, quantization=replace(quantization, kept_float=kept, levels=levels))
        with tempfile.TemporaryDirectory() as folder:
            for format, options in formats.items():
                path = Path(folder) / f"trial{FORMATS[format].suffix}"
                try:
                    export(trial, format, example_inputs, path, **options)
                    if not verify(path, trial, example_inputs, task=task).passed:
                        return False
                except IdpDeployError:
                    return False
        return True

    most = int(len(ranked) * _SHARE)
    if not most or not agrees(ranked[:most]):
        return ()
    count = 1
    while count < most and not agrees(ranked[:count]):
        count *= 2
    return globs_of(ranked[: min(count, most)], quantization.covered)


def too_coarse(parity: Parity) -> bool:
    """Whether an output fails whose activations were rounded to 8 bits."""
    return any(one.measure == "rms" and not one.passed for one in parity.outputs)


def options_of(artifact: Artifact) -> dict[str, Any]:
    """What a file was exported with, as its record says, of the words that its exporter knows."""
    told = artifact.manifest.get("options")
    known = {"encoding", "dynamic_batch", *FORMATS[artifact.format].options}
    return {word: value for word, value in told.items() if word in known} if isinstance(told, Mapping) else {}


def globs_of(names: Collection[str], known: Collection[str]) -> tuple[str, ...]:
    """The fewest names of modules that name these weights and none else of `known`.

    >>> globs_of(["head.0.weight", "head.2.weight"], ["stem.weight", "head.0.weight", "head.2.weight"])
    ('head',)
    """
    found: dict[str, None] = {}
    for name in names:
        choice = name
        parent = name.rpartition(".")[0]
        while parent and all(one in names for one in known if one.startswith(f"{parent}.")):
            choice, parent = parent, parent.rpartition(".")[0]
        found[choice] = None
    return tuple(found)
