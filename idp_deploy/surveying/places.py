"""The folders below one that hold its owner's own files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from idp_deploy.formats import FORMATS

DEEPEST = 6  # logs/train/runs/2026-01-01_10-00-00/checkpoints is 5
# folders that hold other people's code, or none
ELSEWHERE = {"site-packages", "node_modules", "build", "dist", "__pycache__", "venv", "env"}
PACKAGES = {row.suffix for row in FORMATS.values() if row.package} | {".mlmodelc"}  # models that are folders


def folders(top: Path) -> Iterator[Path]:
    """A folder and those below it that hold its owner's own files."""
    for place, inside, _ in os.walk(top):
        depth = len(Path(place).relative_to(top).parts)
        own = (name for name in inside if not name.startswith(".") and name not in ELSEWHERE)
        here = {name for name in own if Path(name).suffix.lower() not in PACKAGES}
        inside[:] = sorted(one for one in here if depth < DEEPEST and not (Path(place) / one / "pyvenv.cfg").exists())
        yield Path(place)
