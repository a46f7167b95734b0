"""What a refusal may promise: another format is a way out only where it takes the same model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from idp_deploy.capturing import capture
from idp_deploy.errors import ConversionError
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS, Format


@contextmanager
def naming_the_widest(format: FormatName, model: CompressedModel, example_inputs: tuple[Any, ...]) -> Iterator[None]:
    """Add "or export to …" to the way out of a ConversionError raised inside, where that format converts the model.

    That takes seconds, spent only where the export has failed already.
    """
    try:
        yield
    except ConversionError as error:
        said = error.way_out or ""
        others = [row for row in FORMATS.values() if row.widest and row.name != format and "export to" not in said]
        more = [f"export to {row.title}" for row in others if _holds(row, model, example_inputs)]
        if not more:
            raise
        raise type(error)(error.message, way_out=", or ".join([said, *more] if said else more)) from error


def _holds(row: Format, model: CompressedModel, example_inputs: tuple[Any, ...]) -> bool:
    try:
        row.function("convert")(capture(model, example_inputs), None, "auto")
    except Exception:  # whatever stops it, this format is no way out
        return False
    return True
