"""The parts of an .aimodel folder, each read once and no more of it than a size allows.

model.aimodel/
  main.mlirb       the program and its constants, MLIR bytecode
  main.hash        its SHA-256
  metadata.json    who made it, and entries of the maker's own under "creatorDefinedMetadata"
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idp_deploy import documents, packages
from idp_deploy.errors import FileError

PROGRAM, HASH, METADATA = "main.mlirb", "main.hash", "metadata.json"
CUSTOM = "creatorDefinedMetadata"
_MAGIC = b"ML\xefR"  # of MLIR bytecode
_METADATA_BYTES = 16 << 20
_AGAIN = "export the package again"


@dataclass(frozen=True, eq=False)
class Package:
    """What lies in the folder. `metadata` are the maker's own entries."""

    bytecode: bytes
    metadata: dict[str, Any]
    producer: str
    warnings: tuple[str, ...]


def load(path: Path) -> Package:
    """Read the parts.

    Raises:
        FileError: it is no such folder, or a part is missing or is something else.
    """
    if not path.is_dir():
        raise FileError(f"{path} is no .aimodel: that is a folder", way_out="check the path")
    try:
        bytecode = documents.read_bytes(path / PROGRAM)
    except FileNotFoundError as error:
        raise FileError(f"{path} is no .aimodel with a program: it has no {PROGRAM}", way_out=_AGAIN) from error
    except OSError as error:
        raise FileError(f"{path / PROGRAM} cannot be read: {error.strerror}", way_out=_AGAIN) from error
    if not bytecode.startswith(_MAGIC):
        raise FileError(f"{path / PROGRAM} is no MLIR bytecode", way_out=_AGAIN)
    entries = _metadata(path)
    custom, producer = entries.get(CUSTOM, {}), entries.get("producer", "")
    return Package(
        bytecode,
        {str(key): value for key, value in custom.items()} if isinstance(custom, dict) else {},
        producer if isinstance(producer, str) else "",
        (*packages.strays(path), *_warnings(path, bytecode)),
    )


def _metadata(path: Path) -> dict[str, Any]:
    try:
        found = documents.parse_json(documents.read_bytes(path / METADATA, limit=_METADATA_BYTES))
    except OSError as error:
        raise FileError(f"{path / METADATA} cannot be read: {error.strerror}", way_out=_AGAIN) from error
    except ValueError as error:
        raise FileError(f"{path / METADATA} is no JSON: {error}", way_out=_AGAIN) from error
    if not isinstance(found, dict):
        raise FileError(f"{path / METADATA} is no mapping", way_out=_AGAIN)
    return found


def _warnings(path: Path, bytecode: bytes) -> list[str]:
    try:
        said = documents.read_bytes(path / HASH, limit=1024)
    except OSError:
        return [f"{HASH} is missing: nothing says that {PROGRAM} is whole"]
    return [] if said == hashlib.sha256(bytecode).digest() else [f"{HASH} is not that of {PROGRAM}: it was changed"]
