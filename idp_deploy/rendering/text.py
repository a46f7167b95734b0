"""Tables for a terminal. Piped, or with NO_COLOR, the same text without escape codes."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from io import StringIO
from textwrap import wrap
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from idp_deploy.legible import uncommanding
from idp_deploy.rendering.document import Document, State, Table

_STYLES: dict[State, str] = {"": "", "good": "green", "bad": "bold red", "warn": "yellow"}
GAP = 2  # spaces between columns
FOLDED = 30  # columns that a text beside a name needs to be folded there
INDENT = "    "
PIPED_WIDTH = 200  # wide enough that no row of ours wraps where a program reads it; COLUMNS says another


def to_text(document: Document) -> str:
    """The document for whoever reads stdout now: coloured and fitted on a terminal, plain when piped."""
    terminal = sys.stdout.isatty()
    console = Console(
        file=StringIO(),
        width=_width(terminal),
        force_terminal=terminal and "NO_COLOR" not in os.environ,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(Text(document.title, style="bold"))
    for table in document.tables:
        if table.title:  # by itself: as part of a narrow table it would be broken to the table's width
            console.print(Text(table.title))
        _print_table(console, table)
    for case in document.cases:
        if not case.passed:
            line = Text(f"FAIL {case.suite} {case.name}: {case.message}", style=_STYLES["bad"])
            console.print(line, soft_wrap=not terminal)  # one line each, for whoever searches a log
    for note in document.notes:
        console.print(Text(f"note: {note}", style="dim"))
    if document.summary:
        console.print(Text(document.summary))
    if document.next:
        console.print(Text(f"Next: {document.next}", style="cyan"))
    assert isinstance(console.file, StringIO)
    return uncommanding("\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n")


def _width(terminal: bool) -> int:
    """The terminal's columns; piped, as many as COLUMNS says, or what needs no wrapping."""
    asked = os.environ.get("COLUMNS", "")
    if terminal or (asked.isdecimal() and int(asked)):
        return shutil.get_terminal_size().columns
    return PIPED_WIDTH


def _print_table(console: Console, table: Table) -> None:
    """A row a line. Columns that do not fit go below their row, the widest words first: folded cells are not read."""
    shown, below = _fitted(table, console.width)
    if not below:
        console.print(_grid(table, shown))
        return
    plain = Console(file=StringIO(), width=console.width, color_system=None)
    plain.print(_grid(table, shown))
    assert isinstance(plain.file, StringIO)
    head, *lines = plain.file.getvalue().splitlines()
    console.print(Text(head, style="bold"))
    for index, line in enumerate(lines):  # one a row: every cell fits
        row, style = table.rows[index], _STYLES[table.state(index)]
        console.print(Text(line.rstrip(), style=style))
        more = "; ".join(f"{table.columns[i]}: {row[i]}" for i in below if row[i] not in ("", "–"))
        for part in wrap(more, console.width - len(INDENT)):
            console.print(Text(INDENT + part, style="dim"))


def _fitted(table: Table, width: int) -> tuple[list[int], list[int]]:
    """Columns side by side, and those below."""
    widths = [
        max(cell_len(text) for text in (name, *(row[i] for row in table.rows))) for i, name in enumerate(table.columns)
    ]
    shown = list(range(len(widths)))
    while len(shown) > 1 and sum(widths[i] + GAP for i in shown) - GAP > width:
        shown.remove(max(shown[1:], key=lambda i: (i not in table.numeric or widths[i] > FOLDED, widths[i], i)))
    alone = sum(widths[i] + GAP for i in shown) - GAP > width  # even the first: fold it, and all
    pair = len(widths) == 2 and 1 not in table.numeric and width - widths[0] - GAP >= FOLDED  # names and what they are
    if alone or pair:
        return list(range(len(widths))), []
    return shown, [i for i in range(len(widths)) if i not in shown]


def _grid(table: Table, columns: Sequence[int]) -> RichTable:
    grid = RichTable(box=None, pad_edge=False)
    for i in columns:
        numeric = i in table.numeric
        justify: Literal["left", "right"] = "right" if numeric else "left"
        grid.add_column(table.columns[i], justify=justify, no_wrap=numeric or i == 0, overflow="fold")
    for index, row in enumerate(table.rows):
        grid.add_row(*(Text(row[i]) for i in columns), style=_STYLES[table.state(index)])
    return grid
