"""What comes from outside, read so that no file can hold or fill the process: regular files, bounded, one error kind.

A pipe would be waited for without end, a device would fill memory, deep nesting would end in a RecursionError. Here
each is an OSError or a ValueError like any other broken file, for the caller to word.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TEXT_BYTES = 64 << 20  # a report or configuration; ours take kilobytes
# first bytes, in small letters, of what lies in place of a file that was never fetched → what it is, and the way out
INSTEAD: dict[bytes, tuple[str, str]] = {
    b"<!doctype": ("a web page, not the file itself", "fetch it again, from the address of the file"),
    b"<html": ("a web page, not the file itself", "fetch it again, from the address of the file"),
    b"<?xml": ("an XML document, such as a server's error, not the file itself", "fetch it again"),
    b"{": ("a JSON document, not the file itself", "fetch it again, from the address of the file"),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself", "fetch it: git lfs pull"),
    b"/annex/objects/": ("a pointer of git-annex, not the file itself", "fetch it: git annex get"),
    b"\x1f\x8b": ("compressed with gzip", "unpack it first"),
}
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def read_bytes(path: Path, *, limit: int | None = None) -> bytes:
    """The content of a regular file, or of what a link leads to if that is one.

    Raises:
        OSError: missing, no permission, a folder, pipe, socket or device, over `limit` bytes, or more than memory.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer opens at once
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no file")
            raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
        if limit is not None and found.st_size > limit:
            raise OSError(errno.EFBIG, f"it is over {limit >> 20} MB", str(path))
        try:
            return file.read() if limit is None else file.read(limit)
        except (MemoryError, OverflowError):
            what = f"its {found.st_size >> 20:,} MB do not fit into memory"
            raise OSError(errno.ENOMEM, what, str(path)) from None


def instead(head: bytes) -> tuple[str, str] | None:
    """What lies in place of a file that begins with `head`, and the way out; None where it may be the file itself.

    >>> instead(b"\\n<HTML>Not found")[0]
    'a web page, not the file itself'
    """
    begins = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((said for first, said in INSTEAD.items() if begins.startswith(first)), None)


def read_head(path: Path, count: int) -> bytes:
    """The first bytes of a regular file, at most `count`; OSError as in `read_bytes`."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return file.read(count)


def read_text(path: Path) -> str:
    """A UTF-8 text of at most `TEXT_BYTES`, without the mark that editors on Windows begin it with.

    Raises:
        OSError: as in `read_bytes`. UnicodeDecodeError, a ValueError.
    """
    return read_bytes(path, limit=TEXT_BYTES).decode("utf-8-sig")


def parse_json(text: str | bytes) -> Any:
    """A JSON value; ValueError for whatever is wrong with it.

    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    ...
    ValueError: it is nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def line_of(text: str, keys: Sequence[str]) -> int | None:
    """The line of a TOML text, from 1, with a key of a table; None where it is not written on a line of its own.

    >>> line_of('a = 1\\n[budgets.pixel-4.onnx]\\nsize = "1 MB"\\n', ("budgets", "pixel-4", "onnx", "size"))
    3
    """
    return next((number for number, own, header in _lines(text) if own == [*keys] and not header), None)


def nearest_line(text: str, keys: Sequence[str]) -> int | None:
    """The line with a key, else that of its table, or of the value it is inside of; None where none is written.

    >>> nearest_line("a = 1\\n[prune]\\nrules = {linear = 3}\\n", ("prune", "rules", "linear"))
    3
    """
    best, depth = None, 0
    for number, own, _ in _lines(text):
        common = min(len(own), len(keys))
        if common > depth and own[:common] == [*keys[:common]]:
            best, depth = number, common
    return best


def _lines(text: str) -> Iterator[tuple[int, list[str], bool]]:
    """Number, keys from the root, and whether it is the header of a table, of every line that begins one or a value."""
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\[?([^\[\]]+)\]\]?\s*(#|$)", line):
            table = _parts(header[1])
            yield number, table, True
        elif assigned := re.match(rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*=", line):
            yield number, [*table, *_parts(assigned[1])], False


_KEY = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""


def _parts(dotted: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(_KEY, dotted)]


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML table; ValueError for whatever is wrong with it."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
