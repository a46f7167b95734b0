"""Writing so that an interrupted command leaves the old file or none: temporary sibling, sync, rename.

Nothing but a file ever makes way for a file. A folder stays, whatever it is, save for one: a package (`packages`) that
holds nothing else makes way for a package of its kind.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path

from idp_deploy import packages
from idp_deploy.errors import ELSEWHERE, FileError, UsageError
from idp_deploy.waiting import counted

GZIP_LEVEL = 6  # what web servers use by default
GZIP = 16 + zlib.MAX_WBITS  # zlib's word for gzip's header and trailer
_BLOCK_BYTES = 1 << 24
BROTLI_QUALITY = 5  # 11 saves a few per cent more and takes a minute for tens of megabytes

SOURCES = "src"  # a folder that holds packages and is none itself

_HOLDER = re.compile(r"\.idp-deploy-[0-9a-f]{32}")
_RETIRED = "retired"
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)


def code_folders() -> tuple[str, ...]:
    """Where a user's modules are looked for before those that are installed: the working folder, and its `src`."""
    here = Path.cwd()
    inside = here / SOURCES
    beside = inside.is_dir() and not (inside / "__init__.py").exists()
    return (str(here), *([str(inside)] if beside else []))


@contextmanager
def replacing(path: Path, *, package: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, else it is removed.

    The caller creates the file, or with `package` the folder, at the yielded path. A link at `path` stays, and what it
    leads to is replaced. Folders that are missing on the way appear with it, in one step.

    Raises:
        UsageError: what stands at `path` may not be replaced; see `landing`.
    """
    place = landing(path, package=package)
    if ".." in place.parts:
        place = Path(os.path.realpath(place))
    stands = next(parent for parent in place.parents if parent.exists())
    with workspace(stands) as holder:
        temporary = holder / place.relative_to(stands)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
        except OSError as error:
            if error.filename is None:  # a write does not say where: full, over a quota, too large
                error.filename = os.fspath(path)
            raise
        for file in members(temporary):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if package and place.is_dir():
            _swap(temporary, place, holder / _RETIRED, packages.kind_of(path))
        else:  # never takes the place of a folder, or with a folder that of a file, since the system refuses that
            _settle(temporary, place, holder, stands)


def _settle(temporary: Path, place: Path, holder: Path, stands: Path) -> None:
    """Let a file, or with it the folders between `stands` and its place, which lie in `holder`, take their names."""
    if stands != place.parent:
        first = place.relative_to(stands).parts[0]
        with suppress(OSError):  # somebody made the folder in the meantime
            os.rename(holder / first, stands / first)
            return
        place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(temporary, place)


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """A temporary folder in `folder`, which is made where it is missing; what killed commands left there goes.

    It is locked while its process lives, and a lock that can be had tells that nobody is left to use the folder.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    sweep(folder)
    for parent in folder.absolute().parents[:_ABOVE]:  # where one lies that was killed as it made `folder`
        if parent not in _swept:
            _swept.add(parent)
            sweep(parent)
    lock: int | None = None
    holder = folder
    try:
        while lock is None:  # another command may sweep it away before it is locked
            holder = folder / f".idp-deploy-{uuid.uuid4().hex}"
            _holders[holder.absolute()] = None
            holder.mkdir(mode=0o700, parents=True)
            _holders[holder.absolute()] = lock = _locked(holder)
        yield holder
    finally:  # a signal may come in here as well: what it leaves is removed as the process ends
        if holder != folder:
            shutil.rmtree(holder, ignore_errors=True)
            _holders.pop(holder.absolute(), None)
        if lock is not None:
            os.close(lock)
        with suppress(OSError):  # there is something in it, which is why it was made
            for empty in made:
                empty.rmdir()


_ABOVE = 3  # levels that are looked through, once a process
_swept: set[Path] = set()
_holders: dict[Path, int | None] = {}  # temporary folders that this process has in use, and their locks


def _remove_own() -> None:
    for holder in _holders:
        _discard(holder)


def _leave_to_parent() -> None:
    """A child that outlives its parent, as workers of data loaders do for seconds, holds no lock of the parent's."""
    for lock in filter(None, _holders.values()):
        os.close(lock)
    _holders.clear()


atexit.register(_remove_own)
os.register_at_fork(after_in_child=_leave_to_parent)


def _locked(holder: Path) -> int | None:
    """A lock on a temporary folder, held until closed; None where another process has it or the folder is gone."""
    import fcntl

    try:
        descriptor = os.open(holder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if holder.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    os.close(descriptor)
    return None


def sweep(folder: Path) -> None:
    """Remove temporary folders of dead processes; a package that one had moved out of the way goes back."""
    for holder in folder.glob(".idp-deploy-*"):
        if not _HOLDER.fullmatch(holder.name) or (lock := _locked(holder)) is None:
            continue
        _discard(holder)
        os.close(lock)


def discard(folder: Path, names: Set[str]) -> bool:
    """Remove a folder in one step; False where it stays, since there is more in it than files of these names."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    sweep(folder)
    if not names >= set(os.listdir(folder)):
        return False
    with workspace(folder.parent) as holder:
        taken = holder / folder.name
        folder.rename(taken)
        if names >= set(os.listdir(taken)):
            return True
        taken.rename(folder)  # something was put into it since it was looked at
    return False


def _discard(holder: Path) -> None:
    for package in (holder / _RETIRED).glob("*"):
        if not os.path.lexists(holder.parent / package.name):
            package.rename(holder.parent / package.name)
    shutil.rmtree(holder, ignore_errors=True)


def _swap(new: Path, place: Path, retired: Path, kind: packages.Kind) -> None:
    """One package takes another's place, in one step where the system can; else the old one waits in `retired`."""
    if _exchange(new, place):
        if reason := kind.why_kept(new):  # somebody put something into it since it was looked at
            _exchange(new, place)
            raise _kept(place, reason)
        return
    retired.mkdir()
    old = retired / place.name
    try:  # a signal may come between any two lines
        place.rename(old)
        if reason := kind.why_kept(old):
            raise _kept(place, reason)
        new.rename(place)
    except BaseException:
        if old.exists() and not place.exists():
            old.rename(place)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where that cannot be: Linux alone is asked."""
    call = getattr(ctypes.CDLL(None), "renameat2", None)
    if call is None:
        return False
    return int(call(_HERE, os.fsencode(one.absolute()), _HERE, os.fsencode(other.absolute()), _EXCHANGE)) == 0


def move(source: Path, path: Path) -> None:
    """Move a file or a package to where `replacing` may put it."""
    with replacing(path, package=source.is_dir()) as temporary:
        shutil.move(source, temporary)


def landing(path: Path, *, package: bool = False, elsewhere: str = ELSEWHERE) -> Path:
    """Where that which is written to `path` will lie: `path`, or what it links to.

    Args:
        package: a package is to be written, which is a folder, of the kind that its suffix says.
        elsewhere: how one names another place.

    Raises:
        UsageError: a folder stands there (other than a package where one is to be written), a file where a package is
            to be written, a device, a pipe, or links that lead in a circle.
        FileError: the folder it would lie in takes no new files.
    """
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    if place.is_symlink():
        raise UsageError(f"{path} is a link that leads back to itself", way_out=f"remove it, or {elsewhere}")
    if path.is_dir():
        if not package:
            raise UsageError(f"{path} is a directory", way_out="name a file: a folder is never replaced")
        if reason := packages.kind_of(path).why_kept(path):
            raise _kept(path, reason, elsewhere)
    elif path.exists() and not path.is_file():
        raise UsageError(f"{path} is a device or a pipe, no file", way_out="name a file, or print to stdout")
    elif package and path.exists():
        raise UsageError(f"{path} is a file, and a package is a folder", way_out=f"move it away, or {elsewhere}")
    folder = next((parent for parent in place.absolute().parents if parent.exists()), Path("/"))
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise FileError(f"{path} cannot be written: {folder} takes no new files", way_out=elsewhere)
    return place


def _kept(path: Path, reason: str, elsewhere: str = ELSEWHERE) -> UsageError:
    return UsageError(f"{path} {reason}", way_out=f"move it away, or {elsewhere}")


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
    from concurrent.futures import ThreadPoolExecutor  # here, since most commands compress nothing

    import brotli

    gzipped = brotlied = 0
    for member, _, size, _ in stamped:
        one, other = zlib.compressobj(GZIP_LEVEL, wbits=GZIP), brotli.Compressor(quality=BROTLI_QUALITY)
        with member.open("rb") as handle, ThreadPoolExecutor(1) as beside:
            blocks = iter(partial(handle.read, _BLOCK_BYTES), b"")
            for block in counted(blocks, f"compressing {member.name}", -(-size // _BLOCK_BYTES)):
                first = beside.submit(one.compress, block)
                brotlied += len(other.process(block))
                gzipped += len(first.result())
        gzipped, brotlied = gzipped + len(one.flush()), brotlied + len(other.finish())
    return gzipped, brotlied


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
