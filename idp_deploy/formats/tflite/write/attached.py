"""Files that a .tflite brings behind its model, as a zip archive: labels and vocabularies of its metadata."""

from __future__ import annotations

from io import BytesIO
from zipfile import BadZipFile, ZipFile

from idp_deploy.errors import ConversionError

MOST_BYTES = 64 << 20  # unpacked: an archive may claim anything


def with_files_of(content: bytes, model: bytes) -> bytes:
    """`model` with the files that lie behind another, at the places that the archive now gives them.

    Raises:
        ConversionError: they are too many to be carried over.
    """
    try:
        archive = ZipFile(BytesIO(content))
    except BadZipFile:  # the usual file: no archive
        return model
    if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
        raise ConversionError(
            f"the files behind the model unpack to more than {MOST_BYTES >> 20} MB",
            way_out="take them out of the file first, and put them back with the tool that wrote them",
        )
    whole = BytesIO(model)
    with archive, ZipFile(whole, "a") as beside:
        beside.comment = archive.comment
        for entry in archive.infolist():
            beside.writestr(entry, archive.read(entry))
    return whole.getvalue()
