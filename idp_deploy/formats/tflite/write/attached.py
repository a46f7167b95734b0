"""Files that a .tflite brings behind its model, as a zip archive: labels and vocabularies of its metadata."""

from __future__ import annotations

import zlib
from io import BytesIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from idp_deploy.errors import ConversionError

MOST_BYTES = 64 << 20  # unpacked: an archive may claim anything
_END, _ENTRY = b"PK\5\6", b"PK\1\2"  # an archive's last record, and one of its list of files
_END_BYTES, _LONGEST_COMMENT = 22, 65535
_UNREADABLE = (BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error)


def with_files_of(content: bytes, model: bytes) -> bytes:
    """`model` with the files that lie behind another, at the places that the archive now gives them.

    Raises:
        ConversionError: they are too many to be carried over, or cannot be read.
    """
    if not _ends_in_an_archive(content):  # the usual file
        return model
    whole = BytesIO(model)
    try:
        with ZipFile(BytesIO(content)) as archive, ZipFile(whole, "a") as beside:
            beside.comment = archive.comment
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                raise ValueError(f"they unpack to more than {MOST_BYTES >> 20} MB")
            for entry in archive.infolist():
                beside.writestr(entry, _unpacked(archive, entry))
    except _UNREADABLE as error:
        raise ConversionError(
            f"the files behind the model cannot be carried over: {error}",
            way_out="take them out of the file first, and put them back with the tool that wrote them",
        ) from None
    return whole.getvalue()


def _ends_in_an_archive(content: bytes) -> bool:
    """Whether what looks like an archive's last record is one, and not four bytes of a weight.

    It ends with the file, comment included, or there is a list of files in front of it; a damaged one has either.

    >>> _ends_in_an_archive(b"TFL3 PK\\5\\6 and as many weights as an archive's record has bytes")
    False
    """
    place = content.rfind(_END, max(0, len(content) - _END_BYTES - _LONGEST_COMMENT))
    record = content[place : place + _END_BYTES]
    if place < 0 or len(record) < _END_BYTES:
        return False
    comment = int.from_bytes(record[-2:], "little")
    return place + _END_BYTES + comment == len(content) or _ENTRY in content[:place]


def _unpacked(archive: ZipFile, entry: ZipInfo) -> bytes:
    """As many bytes as it claims, whatever it unpacks to."""
    if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):  # Python unpacks others whole
        raise ValueError(f"'{entry.filename}' is compressed by method {entry.compress_type}, and not by deflate")
    with archive.open(entry) as file:
        return file.read(entry.file_size)
