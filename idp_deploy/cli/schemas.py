"""schema."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from idp_deploy import files
from idp_deploy.cli.options import ReportFile
from idp_deploy.cli.output import say, writable, written
from idp_deploy.cli.streams import results
from idp_deploy.errors import UsageError

NAMES = ("configuration", "report", "baseline", "manifest")


def schema(
    name: Annotated[str, typer.Argument(metavar="|".join(NAMES), help="Of which document.")] = NAMES[0],
    output: ReportFile = None,
) -> None:
    """Print a JSON Schema: for editors that complete idp-deploy.toml, and programs that read reports.

    An editor finds it by the first line of the file: #:schema ./idp-deploy.schema.json
    """
    if name not in NAMES:
        raise UsageError(f"there is no schema of {name!r}", way_out=f"one of {', '.join(NAMES)}")
    if output is not None:
        writable(output)
    from idp_deploy.schemas import SCHEMAS

    text = json.dumps(SCHEMAS[name](), indent=2) + "\n"
    if output is None:
        results().write(text)
        return
    wrote = written(output)
    files.write_bytes(output, text.encode())
    say(wrote)
