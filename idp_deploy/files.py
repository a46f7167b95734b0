"""Writing so that an interrupted command leaves the old file or none: temporary sibling, sync, rename."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

GZIP_LEVEL = 6  # what web servers use by default
BROTLI_QUALITY = 5  # 11 saves a few per cent more and takes a minute for tens of megabytes


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` (file or directory), else it is removed.

    The caller creates the file or the directory at the yielded path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary = holder / path.name
    try:
        yield temporary
        for file in [temporary, *temporary.rglob("*")] if temporary.is_dir() else [temporary]:
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        move(temporary, path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def move(source: Path, path: Path) -> None:
    """Rename a file or directory on one file system; what stands at `path` is replaced, or kept if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_dir() or path.is_symlink():
        os.replace(source, path)
        return
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        path.rename(holder / "retired")
        try:
            source.rename(path)
        except OSError:
            (holder / "retired").rename(path)
            raise
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Atomically write `data` to `path`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def members(path: Path) -> list[Path]:
    """The regular files of an artifact in name order: the file itself, or everything in a package directory."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def size_bytes(path: Path) -> int:
    """Bytes on disk of a file or of a package directory."""
    return sum(p.stat().st_size for p in members(path))


def transfer_bytes(path: Path) -> tuple[int, int]:
    """(gzip, brotli) bytes that a download of the file takes; a package's files are compressed one by one.

    Compressed once, however often it is asked for, until the file changes.
    """
    return _compressed(stamp(path))


def stamp(path: Path) -> tuple[tuple[Path, int, int, int], ...]:
    """What changes when a file or a package does: (path, inode, bytes, time of the last change) of each member."""
    found = ((member, member.stat()) for member in members(path))
    return tuple((member.absolute(), stat.st_ino, stat.st_size, stat.st_mtime_ns) for member, stat in found)


@lru_cache(maxsize=64)
def _compressed(stamped: tuple[tuple[Path, int, int, int], ...]) -> tuple[int, int]:
    import brotli  # here, since most commands compress nothing

    contents = [member.read_bytes() for member, *_ in stamped]
    return (
        sum(len(gzip.compress(data, GZIP_LEVEL, mtime=0)) for data in contents),
        sum(len(brotli.compress(data, quality=BROTLI_QUALITY)) for data in contents),
    )


def sha256(path: Path) -> str:
    """Hex digest of a file, or of a package directory (names and contents in name order)."""
    digest = hashlib.sha256()
    for member in members(path):
        if path.is_dir():
            digest.update(str(member.relative_to(path)).encode() + b"\0")
        with member.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
