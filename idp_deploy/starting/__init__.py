"""new_project: a whole small project that trains, prunes, exports and gates, to be changed into one's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.resources import files as resources
from pathlib import Path

from idp_deploy import files
from idp_deploy.errors import FileError, UsageError, require

# place in the project → template beside this file
FILES = {
    "net.py": "net.txt",
    "data.py": "data.txt",
    "train.py": "train.txt",
    "idp-deploy.toml": "configuration.txt",
    "README.md": "readme.txt",
    ".gitignore": "gitignore.txt",
    ".github/workflows/check.yml": "workflow.txt",
}


def new_project(folder: Path) -> list[Path]:
    """Write the project and train its model, which takes seconds; the folder appears once all of that is done.

    Returns:
        The files, relative to the folder.

    Raises:
        UsageError: something is there already, other than an empty folder, or its name is none for a project.
        FileError: the folder cannot be written, or the training fails. MissingDependencyError: PyTorch is missing.
    """
    place = Path(os.path.realpath(folder))
    if not re.fullmatch(r"[^\W_][\w. -]*", place.name):
        raise UsageError(f"{folder} is no name for a project", way_out="letters, digits, dots and dashes")
    if os.path.lexists(place) and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(f"{folder} is there already", way_out="name a folder that is not there, or an empty one")
    files.landing(
        place / "idp-deploy.toml", elsewhere=f"name a folder elsewhere: 'idp-deploy new /elsewhere/{place.name}'"
    )
    require("torch", "")
    with files.workspace(place.parent) as holder:
        project = holder / place.name
        for name, template in FILES.items():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            text = (resources(__package__) / "project" / template).read_text(encoding="utf-8")
            (project / name).write_text(text.replace("{name}", place.name), encoding="utf-8")
        trained = subprocess.run(
            [sys.executable, "-B", "train.py"], cwd=project, capture_output=True, text=True, check=False
        )
        if trained.returncode:
            last = (trained.stderr.strip().splitlines() or ["no message"])[-1]
            raise FileError(f"training the new project fails: {last}", way_out="see 'idp-deploy doctor'")
        project.replace(place)
    return sorted(path.relative_to(place) for path in place.rglob("*") if path.is_file())
