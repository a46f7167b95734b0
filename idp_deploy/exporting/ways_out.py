"""What a refusal may promise: another format is a way out only where it takes the same model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from idp_deploy.capturing import capture
from idp_deploy.errors import ConversionError
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.formats import FORMATS, Format

_ORTHONORMAL = (
    "a rotation comes of two vectors as well: x / |x|, then y less its part along x, then their cross product; or "
    "leave the decomposition to the program around the file"
)
# operators that no format holds, and what comes to the same of plain ones
_INSTEAD: Mapping[str, str] = {
    "linalg_svd": _ORTHONORMAL,
    "linalg_eigh": _ORTHONORMAL,
    "linalg_eig": "leave the decomposition to the program around the file",
    "linalg_qr": "of independent columns, R is torch.linalg.cholesky(A.mT @ A).mT, and Q is "
    "torch.linalg.solve_triangular(R, A, upper=True, left=False), both up to signs",
    "linalg_pinv": "of independent columns it is torch.linalg.solve(A.mT @ A, A.mT)",
    "linalg_lstsq": "of independent columns it is torch.linalg.solve(A.mT @ A, A.mT @ b)",
    "ctc_loss": "return the logits in evaluation: a loss is for training",
    "gcd": "compute it where the integers come from, and give it as an input",
    "bincount": "say how many there are: torch.nn.functional.one_hot(x, n).sum(0)",
    "frexp": "the exponent is torch.floor(torch.log2(x.abs())) + 1, and the rest x / 2**exponent",
}


@contextmanager
def saying_what_instead() -> Iterator[None]:
    """Name plain operators for the one that a ConversionError raised inside stopped at, where such are known."""
    try:
        yield
    except ConversionError as error:
        named = re.findall(r"\b(?:aten|prims)\.(\w+)", error.message)
        instead = next((_INSTEAD[name.strip("_")] for name in named if name.strip("_") in _INSTEAD), None)
        if instead is None:
            raise
        raise type(error)(error.message, way_out=instead) from error


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
