"""Tables for a terminal. Piped, or with NO_COLOR, the same text without escape codes."""

from __future__ import annotations

import os
import shutil
import sys
from io import StringIO

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from idp_deploy.rendering.document import Document, State, Table

_STYLES: dict[State, str] = {"": "", "good": "green", "bad": "bold red", "warn": "yellow"}
PIPED_WIDTH = 200  # wide enough that no row of ours wraps where a program reads it


def to_text(document: Document) -> str:
    """The document for whoever reads stdout now: coloured and fitted on a terminal, plain when piped."""
    terminal = sys.stdout.isatty()
    console = Console(
        file=StringIO(),
        width=shutil.get_terminal_size().columns if terminal else PIPED_WIDTH,
        force_terminal=terminal and "NO_COLOR" not in os.environ,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(Text(document.title, style="bold"))
    for table in document.tables:
        if table.title:  # by itself: as part of a narrow table it would be broken to the table's width
            console.print(Text(table.title))
        console.print(_table(table))
    for case in document.cases:
        if not case.passed:
            console.print(Text(f"FAIL {case.suite} {case.name}: {case.message}", style=_STYLES["bad"]))
    for note in document.notes:
        console.print(Text(f"note: {note}", style="dim"))
    if document.summary:
        console.print(Text(document.summary))
    if document.next:
        console.print(Text(f"Next: {document.next}", style="cyan"))
    assert isinstance(console.file, StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _table(table: Table) -> RichTable:
    grid = RichTable(box=None, pad_edge=False)
    for index, column in enumerate(table.columns):
        numeric = index in table.numeric
        grid.add_column(column, justify="right" if numeric else "left", no_wrap=numeric or index == 0, overflow="fold")
    for index, row in enumerate(table.rows):
        grid.add_row(*(Text(cell) for cell in row), style=_STYLES[table.state(index)])
    return grid
