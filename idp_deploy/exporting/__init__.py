"""export: CompressedModel → Artifact, in any format that has a row in `formats.FORMATS`.

    capture → the format's convert, slow and once → manifest → the format's store, fast and often → a sealed file

`export` is both at once. Who asks what many distributions of zeros would weigh converts once and stores each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import keystr, tree_leaves_with_path

from idp_deploy.arguments import arguments_of, truth
from idp_deploy.capturing import Captured, capture
from idp_deploy.capturing.lengths import asked_length
from idp_deploy.errors import ConversionError, NoOperatorError, UsageError
from idp_deploy.exporting.randomness import refuse_random
from idp_deploy.exporting.sparing import sparing
from idp_deploy.exporting.ways_out import naming_the_widest, saying_what_instead
from idp_deploy.flow import Artifact, CompressedModel, FormatName
from idp_deploy.formats import known, manifest
from idp_deploy.formats.notes import storage_notes
from idp_deploy.formats.writing import Converted, Written
from idp_deploy.ledger import refuse_filled
from idp_deploy.sealing import key_of, seal
from idp_deploy.soundness import refuse_bfloat16, refuse_unsound


@dataclass(frozen=True, eq=False)
class Conversion:
    """A model in one format's words, that can be stored with its own zeros or with other ones."""

    model: CompressedModel
    format: FormatName
    example_inputs: tuple[Any, ...]
    options: Mapping[str, Any]  # what it was converted with, the encoding among it
    captured: Captured
    converted: Converted

    def holds(self, model: CompressedModel) -> bool:
        """Whether `model` is the converted one but for more zeros, in weights whose constants are known."""
        if model.quantization is not self.model.quantization:
            return False
        ours, theirs = self.captured.original.state_dict(), model.module.state_dict()
        if ours.keys() != theirs.keys():
            return False
        for name, weight in ours.items():
            mask = model.masks.get(name)
            pruned = weight if mask is None or mask.shape != weight.shape else weight.where(mask.cpu(), 0)
            if not torch.equal(pruned, theirs[name].cpu()):
                return False
        aliases, movable = self.captured.aliases, self.converted.tensors.keys() - self.converted.fixed
        moved = {aliases.get(name, name) for name in model.masks} & self.captured.used
        return moved <= {aliases.get(name, name) for name in movable}


def export(
    model: CompressedModel,
    format: FormatName,
    example_inputs: tuple[Any, ...],
    path: Path,
    *,
    encoding: str = "auto",
    **options: Any,
) -> Artifact:
    """Write `model` to `path` in one format with sparse weight encodings.

    Args:
        example_inputs: positional arguments of the module's forward.
        path: the file (or .mlpackage directory) to write; replaced atomically.
        encoding: auto picks the smallest per tensor; dense turns sparse storage off; or one of the format's names.
        options: the format's own, as its `convert` documents them; `dynamic_batch`, where it can leave the batch open.

    Raises:
        UsageError: unknown format or encoding, or weights that were written to after hardening.
        ConversionError: an operator the format cannot hold; a weight or a statistic that is not finite.
        MissingDependencyError: the format's converter is not installed.
    """
    return store(convert(model, format, example_inputs, encoding=encoding, **options), path)


def convert(
    model: CompressedModel,
    format: FormatName,
    example_inputs: tuple[Any, ...],
    *,
    encoding: str = "auto",
    dynamic_batch: bool = True,
    **options: Any,
) -> Conversion:
    """All of an export that takes long; arguments and errors as for `export`."""
    example_inputs = arguments_of("example_inputs", example_inputs, needed=True)
    refuse_unsound(model.module)
    refuse_bfloat16(model.module, example_inputs)
    refuse_filled(model)
    row, dynamic_batch = known(format), truth("dynamic_batch", dynamic_batch)
    with_batch = {"dynamic_batch": dynamic_batch} if row.free_batch else {}
    converter = row.function("convert")
    _refuse_unknown(format, options, _defaults(converter))
    with sparing():
        with saying_what_instead():
            captured = capture(model, example_inputs, **with_batch)
        refuse_random(captured)
        with naming_the_widest(format, model, example_inputs), saying_what_instead():
            try:
                converted = converter(captured, model.quantization, encoding, **options)
            except ConversionError as error:
                if not captured.dynamic_batch or isinstance(error, NoOperatorError):
                    raise
                captured = capture(model, example_inputs)  # an operator that wants the batch as a number
                converted = converter(captured, model.quantization, encoding, **options)
    if row.free_batch and dynamic_batch and not captured.dynamic_batch:
        line = asked_length(captured.original, example_inputs)
        fixed = "the model fixes its batch: the file does too"
        fixed += f" ({line} asks for len(…), a plain number to Python; x.shape[0] leaves it free)" if line else ""
        if not line and captured.fixed_at:
            fixed += f" ({captured.fixed_at} does not hold for every number of samples)"
        converted = replace(converted, notes=(*converted.notes, fixed))
    converted = replace(converted, notes=(*_held_inputs(example_inputs), *captured.notes, *converted.notes))
    used = {"encoding": encoding, **with_batch, **_defaults(converter), **options}
    return Conversion(model, format, example_inputs, used, captured, converted)


def _refuse_unknown(format: FormatName, options: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    if unknown := [name for name in options if name not in known]:
        raise UsageError(
            f"the export to {format} has no option '{unknown[0]}'",
            way_out=f"it has {', '.join(['encoding', 'dynamic_batch', *known])}",
        )


def _held_inputs(example_inputs: tuple[Any, ...]) -> Iterator[str]:
    """A note on each number and word among the inputs, which a file takes for a part of the model."""
    for path, leaf in tree_leaves_with_path(example_inputs):
        if isinstance(leaf, bool | int | float | str):
            yield f"input {keystr(path)} is {leaf!r}: the file holds it and has no such input"


def store(conversion: Conversion, path: Path, model: CompressedModel | None = None, *, proved: bool = True) -> Artifact:
    """Write what `convert` made.

    Args:
        model: stored in place of the converted one, which it must equal but for its zeros (`Conversion.holds`).
        proved: run the file first where the format's runtimes take wrong ones without a word.
    """
    path, model = Path(path), model or conversion.model
    refuse_filled(model)
    row, converted = known(conversion.format), conversion.converted
    masks = {name: mask.cpu().numpy().astype(bool, copy=False) for name, mask in model.masks.items()}
    entry = manifest.build(
        model,
        inputs=converted.inputs,
        outputs=converted.outputs,
        weights=converted.tensors,
        layouts=converted.layouts,
        options=_asked(conversion),
        packages=row.versions,
    )
    role = "prove" if proved and row.prove else "store"
    with naming_the_widest(conversion.format, model, conversion.example_inputs):
        written: Written = row.function(role)(converted, masks, manifest.dumps(entry))
    size = written.save(path)
    entry |= seal(path, key_of(model))
    unread = conversion.captured.unread(model)
    stored = storage_notes(model, written.placed, conversion.options["encoding"], unread)
    notes = (*converted.notes, *stored, *written.notes)
    return Artifact(path, conversion.format, size, entry, notes, unread)


def _asked(conversion: Conversion) -> dict[str, str | bool]:
    """The options that are not as an export takes them where nobody says anything."""
    usual = {"encoding": "auto", "dynamic_batch": True, **_defaults(known(conversion.format).function("convert"))}
    given = conversion.options.items()
    return {name: value for name, value in given if isinstance(value, str | bool) and value != usual.get(name)}


def _defaults(converter: Callable[..., Converted]) -> dict[str, Any]:
    """A format's own options, as they are where nobody says anything."""
    own = signature(converter).parameters.values()
    return {one.name: one.default for one in own if one.kind is one.KEYWORD_ONLY}
