"""A format's name in whatever a user writes: configuration, device profiles, workload descriptions."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from idp_deploy.formats import COMPILED_FROM, FORMATS, usual, written


def _known(name: str) -> str:
    if name not in FORMATS:
        raise PydanticCustomError("format", "input should be one of {names}", {"names": ", ".join(FORMATS)})
    return name


def _written(name: str) -> str:
    names = (*written(), *COMPILED_FROM, "all")
    if name not in names:
        raise PydanticCustomError("format", "input should be one of {names}", {"names": ", ".join(names)})
    return name


def _spelled(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for name in names for one in (usual() if name == "all" else (name,))))


KnownFormat = Annotated[str, AfterValidator(_known)]
# a format that is written, or what a vendor's compiler makes of one
KnownOutput = Annotated[str, StringConstraints(to_lower=True), AfterValidator(_written)]
KnownOutputs = Annotated[tuple[KnownOutput, ...], Field(min_length=1), AfterValidator(_spelled)]  # "all" spelled out
