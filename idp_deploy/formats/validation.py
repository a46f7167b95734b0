"""A format's name in whatever a user writes: configuration, device profiles, workload descriptions."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from idp_deploy.formats import COMPILED_FROM, FORMATS


def _known(name: str) -> str:
    if name not in FORMATS:
        raise PydanticCustomError("format", "input should be one of {names}", {"names": ", ".join(FORMATS)})
    return name


def _written(name: str) -> str:
    return name if name in COMPILED_FROM else _known(name)


KnownFormat = Annotated[str, AfterValidator(_known)]
KnownOutput = Annotated[str, AfterValidator(_written)]  # a format, or what a vendor's compiler makes of one
