"""The seal: a digest of a finished file, kept in its own manifest, that tells whether it is still the file we wrote.

It is taken over all bytes with the seal itself blank, and put into its place without moving anything. A tool that
changes one bit, or writes the file anew, breaks it; `verify` then looks at everything in the file, not at the pruned
weights and the outputs alone. It protects from accidents and from tools, not from somebody who forges it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from glob import escape
from pathlib import Path

from idp_deploy import documents, files

DIGITS = 32  # of SHA-256, hexadecimal
BLANK = "0" * DIGITS
_BEFORE = b'"seal":"'  # as canonical JSON writes it


def seal(path: Path) -> str:
    """Seal a file or package whose manifest holds `BLANK`; the seal, or "" where there is no such place."""
    found = _find(path)
    if found is None:
        return ""
    holder, at, _ = found
    digest = _digest(path, holder, at)
    data = bytearray(documents.read_bytes(holder))
    data[at : at + DIGITS] = digest.encode()
    files.write_bytes(holder, bytes(data))
    return digest


def intact(path: Path) -> bool | None:
    """Whether the file is as it was sealed; None where it carries no seal.

    Raises:
        OSError: it cannot be read.
    """
    found = _find(path)
    if found is None or found[2] == BLANK.encode():
        return None
    holder, at, value = found
    return value == _digest(path, holder, at).encode()


def _find(path: Path) -> tuple[Path, int, bytes] | None:
    """(the file that holds the seal, where, what it says)."""
    for member in files.members(path):
        data = documents.read_bytes(member)
        at = data.rfind(_BEFORE)
        if at >= 0:
            start = at + len(_BEFORE)
            return member, start, data[start : start + DIGITS]
    return None


def _digest(path: Path, holder: Path, at: int) -> str:
    digest = hashlib.sha256()
    for member in _parts(path):
        data = documents.read_bytes(member)
        if member == holder:
            data = data[:at] + BLANK.encode() + data[at + DIGITS :]
        if path.is_dir():
            digest.update(str(member.relative_to(path)).encode() + b"\0")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:DIGITS]


def _parts(path: Path) -> Iterator[Path]:
    """Every file that belongs to it: a package's members, and the tensors that a large ONNX file keeps beside it."""
    yield from files.members(path)
    yield from sorted(path.parent.glob(f"{escape(path.name)}.????????????.data"))
