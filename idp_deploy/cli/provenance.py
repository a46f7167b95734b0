"""Who writes a report, when and from which commit: kept in baselines, so that one can say what it is held against."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from idp_deploy import documents

_VARIABLES = ("GITHUB_SHA", "CI_COMMIT_SHA", "GIT_COMMIT", "BUILDKITE_COMMIT", "CIRCLE_SHA1")  # of CI services
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


def provenance() -> dict[str, str]:
    """Version, date and time, and the commit where one can be told."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"version": version("idp-deploy"), "date": now, "commit": commit(Path.cwd())}


def commit(folder: Path) -> str:
    """As a CI service says, else as the nearest .git does; nothing of git is run. "" where there is none."""
    said = next((value for name in _VARIABLES if _COMMIT.fullmatch(value := os.environ.get(name, ""))), "")
    if said:
        return said
    for parent in (folder, *folder.parents):
        git = parent / ".git"
        if git.exists():
            return _head(git)
    return ""


def _head(git: Path) -> str:
    try:
        if git.is_file():  # of a worktree
            git = git.parent / documents.read_text(git).strip().removeprefix("gitdir: ")
        head = documents.read_text(git / "HEAD").strip()
        if not head.startswith("ref: "):
            return head if _COMMIT.fullmatch(head) else ""
        name = head.removeprefix("ref: ")
        shared = git / documents.read_text(git / "commondir").strip() if (git / "commondir").is_file() else git
        for place in (git / name, shared / name):
            if place.is_file():
                found = documents.read_text(place).strip()
                return found if _COMMIT.fullmatch(found) else ""
        packed = documents.read_text(shared / "packed-refs")
    except (OSError, ValueError):
        return ""
    found_in = re.search(rf"^([0-9a-f]{{40,64}}) {re.escape(name)}$", packed, re.MULTILINE)
    return found_in[1] if found_in else ""
