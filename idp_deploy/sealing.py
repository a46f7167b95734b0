"""The seal: a digest of a finished file, kept in its own manifest, that tells whether it is still the file we wrote.

It is taken over all bytes with the seal itself blank, and put into its place without moving anything. A tool that
changes one bit, or writes the file anew, breaks it; `verify` then looks at everything in the file, not at the pruned
weights and the outputs alone. It protects from accidents and from tools, not from somebody who forges it.
"""

from __future__ import annotations

import hashlib
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
    holder, data, at = found
    digest = _digest(path, holder, data, at)
    files.write_bytes(holder, data[:at] + digest.encode() + data[at + DIGITS :])
    return digest


def intact(path: Path) -> bool | None:
    """Whether the file is as it was sealed; None where it carries no seal.

    Raises:
        OSError: it cannot be read.
    """
    found = _find(path)
    if found is None:
        return None
    holder, data, at = found
    value = data[at : at + DIGITS]
    return None if value == BLANK.encode() else value == _digest(path, holder, data, at).encode()


def _find(path: Path) -> tuple[Path, bytes, int] | None:
    """(the file that holds the seal, its content, where the seal stands in it)."""
    for member in files.members(path):
        data = documents.read_bytes(member)
        at = data.rfind(_BEFORE)
        if at >= 0:
            return member, data, at + len(_BEFORE)
    return None


def _digest(path: Path, holder: Path, data: bytes, at: int) -> str:
    digest = hashlib.sha256()
    for member in (*files.members(path), *sorted(path.parent.glob(f"{escape(path.name)}.????????????.data"))):
        if path.is_dir():
            digest.update(str(member.relative_to(path)).encode() + b"\0")
        digest.update(member.stat().st_size.to_bytes(8, "little"))
        if member == holder:
            for part in (memoryview(data)[:at], BLANK.encode(), memoryview(data)[at + DIGITS :]):
                digest.update(part)
        else:
            with member.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()[:DIGITS]
