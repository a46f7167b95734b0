"""read: a file of any format → Contents, by code that shares nothing with the writers.

`inspect`, `verify`, `simulate` and `check` all start here. Inputs are hostile until parsed: a broken file raises
`FileError` naming the file and what is wrong with it, and nothing in it is ever executed.
"""

from __future__ import annotations

from idp_deploy.arguments import FilePath, path_of
from idp_deploy.errors import FileError
from idp_deploy.flow import Contents
from idp_deploy.formats import FORMATS, format_of
from idp_deploy.formats.foreign import instead_of_model

__all__ = ["format_of", "read"]


def read(path: FilePath) -> Contents:
    """Parse an artifact.

    Raises:
        FileError: the file is missing, truncated, or not what its suffix says.
    """
    path = path_of("artifact", path)
    try:
        found: Contents = FORMATS[format_of(path)].function("read")(path)
    except FileError as error:
        folder = any(row.package and row.suffix == path.suffix.lower() for row in FORMATS.values())
        known = instead_of_model(path, folder=folder)
        if known is None:
            raise
        raise FileError(f"{path} is {known[0]}", way_out=known[1]) from error
    return found
