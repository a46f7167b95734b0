"""Weights that stay float because somebody asks for it, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from idp_deploy.errors import UsageError

ASKED = "asked for"  # the reason in `Quantization.kept_float`


def asked_float(globs: Sequence[str], weights: Iterable[str], twins: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The weights that one of `globs` names, by their own name or by that of a module they are a part of.

    Args:
        weights: those that the scheme applies to.
        twins: further names of a weight that several layers share.

    Raises:
        UsageError: a glob that names none of them; the nearest name is in the way out.

    >>> names = ["stem.weight", "head.0.weight", "head.2.weight"]
    >>> list(asked_float(["head"], names, {})), list(asked_float(["*.2"], names, {}))
    (['head.0.weight', 'head.2.weight'], ['head.2.weight'])
    >>> asked_float(["haed.*"], names, {})
    Traceback (most recent call last):
    ...
    idp_deploy.errors.UsageError: 'haed.*' names no weight that could be quantized — did you mean 'head.*'?
    """
    names = {
        weight: [*_parts(weight), *(part for twin in twins.get(weight, ()) for part in _parts(twin))]
        for weight in weights
    }
    for glob in globs:
        if not any(fnmatchcase(part, glob) for parts in names.values() for part in parts):
            raise UsageError(f"{glob!r} names no weight that could be quantized", way_out=_nearest(glob, names))
    return {
        weight: ASKED
        for weight, parts in names.items()
        if any(fnmatchcase(part, glob) for part in parts for glob in globs)
    }


def twins_of(module: nn.Module) -> dict[str, list[str]]:
    """The first name of every shared parameter → its other ones."""
    first: dict[int, str] = {}
    found: dict[str, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owner = first.setdefault(id(parameter), name)
        if owner != name:
            found.setdefault(owner, []).append(name)
    return found


def _parts(weight: str) -> Iterator[str]:
    """The weight, its layer, and every module around that.

    >>> list(_parts("head.0.weight"))
    ['head.0.weight', 'head.0', 'head']
    """
    while weight:
        yield weight
        weight = weight.rpartition(".")[0]


def _nearest(glob: str, names: Mapping[str, Sequence[str]]) -> str:
    known = list(dict.fromkeys(part for parts in names.values() for part in parts))
    starred = [f"{part}.*" for part in known if part not in names]
    near = get_close_matches(glob, [*starred, *known] if "*" in glob else known, 1, cutoff=0.5)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"they are {', '.join(list(names)[:8])}{', …' if len(names) > 8 else ''}" if names else "leave it out"
