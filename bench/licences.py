"""The licences of what idp-deploy depends on, from the metadata of what is installed: `python -m bench.licences`."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """# Licences of the dependencies

Made by `python -m bench.licences > docs/licences.md` from the metadata of what is installed; a test compares the two.
What these depend on in turn is not listed: `pip-licenses` shows it for an environment.

| package | needed by | licence |
| --- | --- | --- |
"""


def requirements() -> dict[str, str]:
    """Package → the extra that needs it, "core" for what every installation has; tools for development left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"core": project["dependencies"], **project["optional-dependencies"]}
    groups.pop("dev")
    found: dict[str, str] = {}
    for group, lines in groups.items():
        for line in lines:
            if not line.startswith("idp-deploy"):
                found.setdefault(re.split(r"[^\w-]", line)[0], group)
    return found


def licence(package: str) -> str:
    """What the package's metadata say: the expression, else the classifiers, else the field's first line."""
    try:
        says = metadata(package)
    except PackageNotFoundError:
        return "not installed"
    if expression := says.get("License-Expression"):
        return expression
    classifiers = [c.rsplit(" :: ", 1)[1] for c in says.get_all("Classifier") or [] if c.startswith("License :: ")]
    classifiers = [c for c in classifiers if c != "OSI Approved"]
    return ", ".join(classifiers) or (says.get("License") or "not stated").strip().splitlines()[0]


def table() -> str:
    """The document."""
    rows = [f"| {package} | {group} | {licence(package)} |" for package, group in sorted(requirements().items())]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(table(), end="")
