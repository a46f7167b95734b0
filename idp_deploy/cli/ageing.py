"""Whether files were made of the weights that configuration names now: told by the digest that each carries."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from idp_deploy import files
from idp_deploy.cli.session import Session
from idp_deploy.flow import Contents

MOST_BYTES = 256 << 20  # read for it: half a second
MOST_HEAD = 1 << 20


def of_other_weights(session: Session, contents: Sequence[Contents]) -> list[str]:
    """A sentence for each file that was made of other weights than those that lie there now.

    Nothing is said of weights in several files, of very large ones, and of files of other tools.
    """
    weights = session.configuration.path(session.configuration.weights)
    made = {each.path: _digest(each) for each in contents}
    if weights is None or not any(made.values()):
        return []
    try:
        small = weights.is_file() and weights.stat().st_size <= MOST_BYTES
        present = files.sha256(weights) if small and weights.suffix != ".json" else ""
    except OSError:
        return []
    named = "another file was named, or it was written anew since: 'idp-deploy run' makes it again"
    old = [path for path, digest in made.items() if present and digest and digest != present]
    if old and _is_ours(weights):  # a checkpoint that a file was made of remembers the weights that it was made of
        return []
    return [f"{path}: not made of the present {_short(weights)} ({named})" for path in old]


def _is_ours(weights: Path) -> bool:
    """Whether it is a checkpoint that idp-deploy wrote, told without PyTorch."""
    try:
        with zipfile.ZipFile(weights) as archive:
            name = next((one for one in archive.namelist() if one.endswith("/data.pkl")), "")
            with archive.open(name) as member:
                return b"idp-deploy" in member.read(MOST_HEAD)
    except (OSError, KeyError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile):
        return False


def _digest(contents: Contents) -> str:
    said = contents.manifest.get("provenance")
    digest = said.get("input_sha256") if isinstance(said, dict) else None
    return digest if isinstance(digest, str) else ""


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
