"""docs/cli.md, made from the commands themselves: `python -m idp_deploy.cli.reference` prints it."""

from __future__ import annotations

import contextlib
import io
import os

from idp_deploy.cli.app import COMMANDS, app

HEAD = "# Command line\n\nMade by `make docs` from `--help`; a test compares the two.\n"


def reference() -> str:
    """The help of every command, 100 columns wide, in the order of the pipeline."""
    return "\n".join([HEAD, *(f"## idp-deploy {name}\n\n```\n{help_of(name)}\n```\n" for name in COMMANDS)])


def help_of(name: str) -> str:
    """What `idp-deploy NAME --help` prints."""
    buffer = io.StringIO()
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(buffer):
            app([name, "--help"], standalone_mode=False, prog_name="idp-deploy")
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns
    return "\n".join(line.rstrip() for line in buffer.getvalue().strip().splitlines())


if __name__ == "__main__":
    print(reference(), end="")
