"""Packages: models that are folders, recognised by what lies in them, never by their name.

A folder is somebody's work. One that is a package and holds nothing else, of any maker, may make way for a package of
the same kind; every other stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from idp_deploy import documents, units
from idp_deploy.errors import FileError

METADATA_BYTES = 16 << 20  # a package's own is a few kilobytes
_NAMED = 5  # files that are no part of a package, each by its name

_WEIGHTS = re.compile(r"(\d+-)?weight\.bin")  # numbered where a package holds several models
_DEBUGGING = Path("executorch_debug_handle_mapping.json")  # coremltools writes it beside the manifest
_BYTECODE = b"ML\xefR"


@dataclass(frozen=True)
class Kind:
    """One kind of package."""

    name: str
    parts: Callable[[Path], set[Path]]  # what belongs to it in a folder; empty where that is no such package

    def why_kept(self, folder: Path) -> str:
        """Why a folder may not make way for such a package; empty where it is one, of any maker, and nothing else."""
        parts = self.parts(folder)
        if not parts:
            return f"is a directory, and no {self.name} package"
        homes = {parent for part in parts for parent in part.parents}
        for entry in sorted(folder.rglob("*")):
            inside = entry.relative_to(folder)
            known = inside in homes or inside in parts if entry.is_dir() else _belongs(inside, parts)
            if not known or entry.is_symlink():
                return f"holds {inside}, which is no part of a {self.name} package"
        return ""


def _coreml(folder: Path) -> set[Path]:
    """The files and folders that the manifest lists, and the manifest."""
    manifest = folder / "Manifest.json"
    try:
        content = documents.parse_json(documents.read_bytes(manifest, limit=METADATA_BYTES))
        listed = {Path("Data", entry["path"]) for entry in content["itemInfoEntries"].values()}
        content["itemInfoEntries"][content["rootModelIdentifier"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return set()
    return listed | {Path(manifest.name), _DEBUGGING}


def _coreai(folder: Path) -> set[Path]:
    """A program in MLIR bytecode, its hash, and metadata that say which version of the layout this is."""
    program, metadata = folder / "main.mlirb", folder / "metadata.json"
    try:
        content = documents.parse_json(documents.read_bytes(metadata, limit=METADATA_BYTES))
        with program.open("rb") as file:
            whole = file.read(len(_BYTECODE)) == _BYTECODE and isinstance(content["assetVersion"], str)
    except (OSError, ValueError, LookupError, TypeError):
        return set()
    return {Path(program.name), Path("main.hash"), Path(metadata.name)} if whole else set()


KINDS: dict[str, Kind] = {".mlpackage": Kind("Core ML", _coreml), ".aimodel": Kind("Core AI", _coreai)}


def kind_of(path: Path) -> Kind:
    """The kind that is to be written to a path, by its suffix; Core ML where it says nothing."""
    return KINDS.get(path.suffix.lower(), KINDS[".mlpackage"])


def strays(folder: Path) -> tuple[str, ...]:
    """What to say of files in a package that are no part of it: they travel with the model, and nothing reads them.

    The largest are named, and the others counted.

    Raises:
        FileError: they are larger than anything that a tool leaves beside a model.
    """
    kind = kind_of(folder)
    parts = kind.parts(folder)
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if parts and path.is_file())
    beside = {inside: (folder / inside).stat().st_size for inside in found if not _belongs(inside, parts)}
    named = sorted(sorted(beside, key=lambda inside: -beside[inside])[:_NAMED])
    what = f"no part of a {kind.name} package"
    said = [f"holds {inside} ({units.show(beside[inside], 'bytes')}), which is {what}" for inside in named]
    whole = sum(beside.values())
    if more := len(beside) - len(named):
        rest = whole - sum(beside[inside] for inside in named)
        said.append(f"holds {more:,} more ({units.show(rest, 'bytes')}) that are {what}")
    if whole > METADATA_BYTES:
        raise FileError(f"{folder}: {'; '.join(said)}", way_out=f"move {'them' if more else 'it'} out of the package")
    return tuple(said)


def _belongs(inside: Path, parts: set[Path]) -> bool:
    """Whether a file is a part, or the weights in one that is a folder."""
    return inside in parts or (inside.parent in parts and _WEIGHTS.fullmatch(inside.name) is not None)
