"""What a refusal may promise: ONNX is a way out only where it takes the same model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from idp_deploy.capturing import Captured
from idp_deploy.errors import ConversionError
from idp_deploy.formats.onnx.write.conversion import convert


@contextmanager
def naming_onnx(captured: Captured) -> Iterator[None]:
    """Add "or export to ONNX" to the way out of a ConversionError raised inside, if torch.onnx converts `captured`.

    That takes seconds, spent only where the export has failed already.
    """
    try:
        yield
    except ConversionError as error:
        if not _onnx_holds(captured):
            raise
        way_out = f"{error.way_out}, or export to ONNX" if error.way_out else "export to ONNX"
        raise ConversionError(error.message, way_out=way_out) from error


def _onnx_holds(captured: Captured) -> bool:
    try:
        convert(captured)
    except Exception:  # whatever stops it, ONNX is no way out
        return False
    return True
