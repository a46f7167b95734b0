"""The way out of an int8 file that does not agree with its model: the layers to leave float, as a command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idp_deploy.cli.output import say
from idp_deploy.cli.session import Session
from idp_deploy.rendering.document import shell

if TYPE_CHECKING:
    from idp_deploy.flow import CompressedModel, FormatName
    from idp_deploy.tasks import Task


def spared_layers(
    session: Session,
    model: CompressedModel,
    source: Path,
    formats: Mapping[FormatName, Mapping[str, Any]],
    example_inputs: tuple[Any, ...],
    task: Task | None,
) -> str:
    """What to type so that the file agrees, which was tried; or that there is no such thing; nothing but for int8.

    Args:
        source: the checkpoint of `model`.
        formats: those that do not agree, each with what it was exported with.
    """
    from idp_deploy.relieving import NONE, layers_to_spare

    if not formats or model.quantization is None or model.quantization.scheme != "int8":
        return ""
    say(f"looking for layers that {' and '.join(formats)} would need in floats")
    globs = layers_to_spare(model, formats, example_inputs, task=task)
    if not globs:
        return NONE
    before = _before(source)
    floats = " ".join(f"--float {shlex.quote(glob)}" for glob in globs)
    words = f"{_words(model)} {floats}"
    if before is None:
        return f"with these layers float the file agrees: 'quantize {words}' from the checkpoint before {shell(source)}"
    again = session.follow("quantize", before, f"{words} -o {shell(source)}")
    return f"with these layers float the file agrees: '{again}', then export again"


def _before(source: Path) -> Path | None:
    """The float checkpoint, where `quantize` named its own after that."""
    stem = source.name.removesuffix(".int8.pt")
    found = [source.with_name(f"{stem}{suffix}") for suffix in (".pt", ".safetensors", ".pth")]
    return next((path for path in found if path != source and path.is_file()), None) if stem != source.name else None


def _words(model: CompressedModel) -> str:
    """The options that the model was quantized with."""
    steps = [step for step in model.provenance.steps if step.startswith("quantize ")]
    return steps[-1].removeprefix("quantize ") if steps else "--scheme int8"
