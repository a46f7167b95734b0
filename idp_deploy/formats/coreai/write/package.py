"""An .aimodel folder with the same bytes for the same model: no date, nothing drawn at random.

The libraries would stamp the day into metadata.json, and name each constant that is a resource by a random number; so
ours lie in the program itself, all but indices of four bits, which have no other packed form and get names of ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ASSET_VERSION = "2.0"


def bytecode_of(program: Any) -> bytes:
    """The program as the libraries serialize it for their oldest system, macOS 27 and iOS 27."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "program.aimodel"
        program.save_asset(path)
        return (path / "main.mlirb").read_bytes()


def program_of(bytecode: bytes) -> Any:
    """The inverse of `bytecode_of`, in a context of its own, where no constant's name is taken."""
    from coreai.authoring import AIModelAsset

    with TemporaryDirectory() as folder:
        path = Path(folder) / "program.aimodel"
        write(path, bytecode, {})
        return AIModelAsset.load(path).program


def write(directory: Path, bytecode: bytes, custom: Mapping[str, str]) -> None:
    """Create the package.

    Args:
        directory: does not exist yet.
        custom: entries of our own in its metadata.
    """
    from coreai.authoring.asset import _COREAI_PRODUCER

    metadata = {"assetVersion": ASSET_VERSION, "creatorDefinedMetadata": dict(custom), "producer": _COREAI_PRODUCER}
    directory.mkdir()
    (directory / "main.mlirb").write_bytes(bytecode)
    (directory / "main.hash").write_bytes(hashlib.sha256(bytecode).digest())
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    (directory / "metadata.json").write_text(text + "\n", encoding="utf-8")
