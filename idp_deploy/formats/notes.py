"""What an export has to say of itself: which pruned weights it could not store sparsely or in few bits, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from idp_deploy.flow import CompressedModel
from idp_deploy.legible import gathered


@dataclass(frozen=True)
class Placement:
    """How one weight lies in a file."""

    tensor: str  # its name there
    is_sparse: bool  # its zeros are left out
    is_narrow: bool  # in the number form of the model's quantization scheme
    fits: bool = True  # or could be, for that form means what the model holds


def storage_notes(
    model: CompressedModel, placed: Mapping[str, Placement], encoding: str, unread: Collection[str] = ()
) -> tuple[str, ...]:
    """One note a reason, naming every masked weight that is stored dense, left float, or not there by itself.

    Args:
        placed: by parameter name; what is missing was split, merged or computed away by a converter.
        encoding: what was asked for.
        unread: weights that no output depends on.
    """
    reasons = _reasons(model, placed, encoding, unread)
    return tuple(f"{reason}: {gathered(names)}" for reason, names in reasons if names)


def _reasons(
    model: CompressedModel, placed: Mapping[str, Placement], encoding: str, unread: Collection[str]
) -> Iterator[tuple[str, Iterable[str]]]:
    yield "not in the file, for no output depends on them", sorted(model.masks.keys() & unread)
    masked = sorted(model.masks.keys() - unread)
    why = "as asked" if encoding == "dense" else "since sparse would not be smaller"
    yield f"stored dense, {why}", [name for name in masked if name in placed and not placed[name].is_sparse]
    yield (
        "split, merged or computed away by the converter, stored by their zeros without a name",
        [name for name in masked if name not in placed],
    )
    quantization = model.quantization
    if quantization is None:
        return
    scheme = quantization.scheme
    yield (
        "left float",
        [f"{name} ({quantization.kept_float[name]})" for name in masked if name in quantization.kept_float],
    )
    covered = quantization.covered or set(masked) - set(quantization.kept_float)
    found = {name: placed[name] for name in masked if name in placed and name in covered}
    yield (
        f"stored as floats, since {scheme} with what it needs beside would not be smaller",
        [name for name, one in found.items() if one.fits and not one.is_narrow],
    )
    yield (
        f"stored as floats, since no integers or palette of {scheme} are what they hold",
        [name for name, one in found.items() if not one.fits],
    )
