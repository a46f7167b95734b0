"""A format's name in whatever a user writes: configuration, device profiles, workload descriptions."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, StringConstraints
from pydantic_core import PydanticCustomError

from idp_deploy.formats import COMPILED_FROM, FORMATS, written


def _known(name: str) -> str:
    if name not in FORMATS:
        raise PydanticCustomError("format", "input should be one of {names}", {"names": ", ".join(FORMATS)})
    return name


def _written(name: str) -> str:
    names = (*written(), *COMPILED_FROM)
    if name not in names:
        raise PydanticCustomError("format", "input should be one of {names}", {"names": ", ".join(names)})
    return name


KnownFormat = Annotated[str, AfterValidator(_known)]
# a format that is written, or what a vendor's compiler makes of one
KnownOutput = Annotated[str, StringConstraints(to_lower=True), AfterValidator(_written)]
