"""Zeros that a file stores although it need not: the same file as this tool stores it, from the rows of `FORMATS`."""

from __future__ import annotations

from collections.abc import Iterator

from idp_deploy.errors import FileError, IdpDeployError, UsageError
from idp_deploy.flow import Contents
from idp_deploy.formats import FORMATS


def sparse_forms(contents: Contents, *, encoding: str = "auto") -> Iterator[bytes]:
    """The file anew with its zeros left out, the smallest form first; the others are for runtimes that fail on it.

    None of them has been run: `restore` proves the one it writes.

    Raises:
        UsageError: the format has no such way, or no such encoding. ConversionError: this file cannot hold sparse
        weights. FileError: it cannot be taken apart.
    """
    row = FORMATS[contents.format]
    if not row.restore:
        raise UsageError(
            f"{contents.path}: {row.name} files cannot be stored anew",
            way_out=f"export --to {row.name} stores the model's zeros sparse",
        )
    try:
        yield from row.function("restore")(contents, encoding=encoding)
    except IdpDeployError:
        raise
    except Exception as error:  # libraries take a file apart here that no runtime has vouched for
        raise FileError(f"{contents.path} cannot be stored anew: {type(error).__name__}: {error}") from error


def sparse_bytes(contents: Contents) -> int | None:
    """How large the file would be with its zeros left out; None where it cannot be stored anew."""
    try:
        return min(contents.size_bytes, len(next(sparse_forms(contents))))
    except (IdpDeployError, StopIteration):
        return None
