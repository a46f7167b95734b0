"""A format's name in whatever a user writes: configuration, device profiles, workload descriptions."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from idp_deploy.formats import FORMATS


def _known(name: str) -> str:
    if name not in FORMATS:
        raise PydanticCustomError("format", "input should be one of {names}", {"names": ", ".join(FORMATS)})
    return name


KnownFormat = Annotated[str, AfterValidator(_known)]
