"""Options that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelFactory = Annotated[
    str | None,
    typer.Option("--model", metavar="PKG.MOD:FACTORY", help="Callable that builds the module.", show_default=False),
]
TaskFactory = Annotated[
    str | None,
    typer.Option(
        "--task", metavar="PKG.MOD:TASK", help="Callable that returns data, loss and metric.", show_default=False
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--inputs",
        metavar="SHAPE[:DTYPE]",
        help="One an input: 1x3x224x224, 1x32:int64, or pkg.mod:callable. Not needed with a task.",
        show_default=False,
    ),
]
ReportFormat = Annotated[
    str, typer.Option("--format", metavar="text|json|markdown|junit|github|html", help="How the result is written.")
]
Json = Annotated[bool, typer.Option("--json", help="Short for --format json.")]
ReportFile = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write the report here.", show_default=False)
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration to read instead of searching.", show_default=False),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="DEVICE",
        help="Device name, repeatable; 'idp-deploy targets' lists them.",
        show_default=False,
    ),
]
