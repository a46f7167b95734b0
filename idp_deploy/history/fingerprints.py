"""What a run depends on, told without importing anything of it: contents of files, source code, versions.

A stage of a run is done again where one of these changed. The code is found by reading: the modules that a factory or
a task names, and every module of the user's that these import, down to the last. What reading cannot find (modules
that are imported by a computed name, files of data) is noted while the stage runs, see `watching`.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, version
from pathlib import Path
from typing import Any

from idp_deploy import files

HASHED_BYTES = 16 << 20  # of a file of data: larger ones are told apart by size and time, which takes no reading
WATCHED_FILES = 20_000  # of a data set in many files: the first ones tell of a change as well as all
GONE = "missing"
_OURS = Path(__file__).parents[1]
_INSTALLED = {"site-packages", "dist-packages"}
_WRITES = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Code:
    """The user's own source files behind some names, and the installed packages that these import."""

    files: tuple[Path, ...]
    packages: tuple[str, ...]  # top-level import names


class Digests:
    """Digests of files, each computed once while the file stays as it is: between commands too, where one is given.

    Args:
        known: stamp → digest, as `used` of an earlier command.
    """

    def __init__(self, known: Mapping[str, str] | None = None) -> None:
        self._known = known or {}
        self.used: dict[str, str] = {}

    def of(self, path: Path) -> str:
        """What changes when a file or a folder does; `GONE` where there is none: a pipe or a device has no content."""
        if not path.is_file() and not path.is_dir():
            return GONE
        try:
            members = files.members(path)
            stamp = _stamp(members)
        except OSError:
            return GONE
        if stamp not in self.used:
            self.used[stamp] = self._known.get(stamp) or files.sha256(path)
        return self.used[stamp]

    def of_data(self, path: Path) -> str:
        """As `of`, for a file that may be huge and that the user's code alone reads."""
        try:
            found = path.stat()
        except OSError:
            return GONE
        return f"{found.st_size} bytes at {found.st_mtime_ns}" if found.st_size > HASHED_BYTES else self.of(path)


def _stamp(members: Iterable[Path]) -> str:
    """Changes with every write to a file and every change of its times; needs no reading."""
    found = ((str(path.absolute()), path.stat()) for path in members)
    parts = [(name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in found]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Distribution → installed version; those that are not installed are left out.

    >>> versions(["pydantic", "no-such-package"]).keys()
    dict_keys(['pydantic'])
    """
    found = {}
    for name in sorted(packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def distributions(packages: Iterable[str]) -> set[str]:
    """The distributions that bring some top-level import names.

    Most are called what they bring. For others the lists of all installed files are read, which takes half a second.

    >>> distributions(["numpy", "yaml", "no_such_package"]) == {"numpy", "PyYAML"}
    True
    """
    alike = {name for name in packages if _is_called_so(name)}
    others = set(packages) - alike
    brings = packages_distributions() if others else {}
    return alike | {one for name in others for one in brings.get(name, ())}


def _is_called_so(package: str) -> bool:
    try:
        says = distribution(package).read_text("top_level.txt")
    except PackageNotFoundError:
        return False
    return says is None or package in says.split()


# ── code ────────────────────────────────────────────────────────────────────────────────────────────────────────────


_CLASSES = re.compile(r"([^\W\d][\w.]*)\.\w+\(")  # the module of `pkg.conf.Config(…)` among a callable's arguments


def code_of(specs: Iterable[str]) -> Code:
    """The source behind "pkg.mod:callable" names, with every module of the user's that it imports.

    Nothing is imported or run. Modules are looked for as the names' own import would: the working folder first.
    """
    found: dict[str, Path] = {}
    installed: set[str] = set()
    specs = tuple(specs)
    todo = [spec.partition(":")[0] for spec in specs]
    todo += [name for spec in specs for name in _CLASSES.findall(spec.partition("(")[2])]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if not name or name in seen:
            continue
        seen.add(name)
        todo.append(name.rpartition(".")[0])  # a package's __init__ runs before its modules
        place = _find(name)
        if place is None or (place.origin is None and place.inside):
            continue
        if place.origin is None or not is_local(place.origin):
            installed.add(name.partition(".")[0])
            continue
        found[name] = place.origin
        if place.origin.suffix == ".py":
            todo += _imported(place.origin, name, bool(place.inside))
    return Code(tuple(sorted(set(found.values()))), tuple(sorted(installed - set(sys.stdlib_module_names))))


def is_local(path: Path) -> bool:
    """Whether a module's file is the user's: neither Python's own, nor installed, nor of this package."""
    standard = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    return (
        not _INSTALLED & set(path.parts)
        and not path.is_relative_to(_OURS)
        and not any(path.is_relative_to(place) for place in standard)
    )


@dataclass(frozen=True)
class _Place:
    """Where a module lies: its file, if it has one, and the folders of its submodules, if it has any."""

    origin: Path | None
    inside: tuple[str, ...]


def _find(name: str) -> _Place | None:
    """A module's place, without importing its parents as `importlib.util.find_spec` would."""
    parent, _, last = name.rpartition(".")
    above = _find(parent) if parent else _Place(None, (*files.code_folders(), *sys.path))
    if above is None or not above.inside:
        return None
    spec = PathFinder.find_spec(last, above.inside)
    for finder in sys.meta_path if spec is None and not parent else ():  # editable installs bring finders of their own
        look = getattr(finder, "find_spec", None)
        spec = spec or (look(name, None) if look is not None else None)
    if spec is None:
        return None
    if spec.has_location and spec.origin:
        return _Place(Path(spec.origin), tuple(spec.submodule_search_locations or ()))
    folders = (str(Path(place, last)) for place in above.inside)  # a package without __init__
    return _Place(None, tuple(folder for folder in folders if os.path.isdir(folder)))


def _imported(path: Path, module: str, is_package: bool) -> list[str]:
    """Names that a file imports anywhere in it; `from a import b` gives both a and a.b, one of which may be none."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, is_package)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")]
    return names


def _absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    parents = parts[: len(parts) - node.level + is_package]
    return ".".join([*parents, *([node.module] if node.module else [])])


# ── what the user's code was seen to read ───────────────────────────────────────────────────────────────────────────


@dataclass
class _Watch:
    roots: tuple[Path, ...]
    read: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)


_watches: list[_Watch] = []


@contextmanager
def watching(roots: Iterable[Path], *, without: Collection[Path]) -> Iterator[set[Path]]:
    """Collect the files below `roots` that are read inside, modules among them: a set, filled at the end.

    Files that are written too are results, not inputs. What native code or another process opens is not seen.

    Args:
        without: files and folders that do not count, such as the run's own outputs.
    """
    _listen()
    watch, seen = _Watch(tuple(root.resolve() for root in roots)), set[Path]()
    own = tuple(path.resolve() for path in without)
    _watches.append(watch)
    try:
        yield seen
    finally:
        _watches.remove(watch)
        sources = {str(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
        for name in sorted((watch.read | sources) - watch.written):
            if len(seen) < WATCHED_FILES and _counts(Path(name), watch.roots, own):
                seen.add(Path(name))


def _counts(path: Path, roots: Iterable[Path], own: Iterable[Path]) -> bool:
    inside = path.resolve()
    root = next((root for root in roots if inside.is_relative_to(root)), None)
    if root is None or any(inside.is_relative_to(place) for place in own):
        return False
    hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.relative_to(root).parts)
    return not hidden and is_local(inside) and inside.is_file()


@cache
def _listen() -> None:
    """An audit hook stays for the life of the process; without a watch it does nothing."""
    sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watches or event != "open":
        return
    name, _, flags = arguments
    if not isinstance(name, str | bytes | os.PathLike) or not isinstance(flags, int):
        return
    with suppress(OSError):  # the working folder may be gone
        place = os.path.abspath(os.fsdecode(name))
        for watch in _watches:
            (watch.written if flags & _WRITES else watch.read).add(place)
