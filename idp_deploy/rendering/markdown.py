"""Markdown that fits a pull-request comment; the first line lets a bot find and replace its own comment."""

from __future__ import annotations

import re
from collections.abc import Sequence

from idp_deploy.rendering.document import Document, Table

MARKER = "<!-- idp-deploy report -->"
LONGEST = 60_000  # characters; a comment on GitHub takes 65,536
FOLDED = 20  # lines of a table above which it is folded
_MARKUP = re.compile(r"[\\|`*~]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word is itself
_MENTION = re.compile(r"@(?=\w)")
_MARKS = {"": "", "good": "✅ ", "bad": "❌ ", "warn": "⚠️ "}


def to_markdown(document: Document) -> str:
    """What failed first, then pipe tables with right-aligned numbers; long ones and notes in a fold."""
    parts = [MARKER, f"## {_cell(document.title)}"]
    failed = [f"- ❌ {_cell(f'{c.suite} {c.name}: {c.message}')}" for c in document.cases if not c.passed]
    if failed:
        parts.append("\n".join(failed))
    if document.summary:
        parts.append(_cell(document.summary))
    parts += [_fold(f"{table.title or 'all'}: {len(table.rows)} rows", _table(table)) for table in document.tables]
    if document.notes:
        notes = "\n".join(f"- {_cell(note)}" for note in document.notes)
        parts.append(_fold(f"{len(document.notes)} notes", notes, always=True))
    return _fitted(parts) + "\n"


def _fold(title: str, text: str, *, always: bool = False) -> str:
    if not always and text.count("\n") < FOLDED:
        return text
    return f"<details><summary>{_cell(title)}</summary>\n\n{text}\n\n</details>"


def _fitted(parts: Sequence[str]) -> str:
    """As many parts as a comment takes, and how many it does not: half a table would be none."""
    kept, room = [], LONGEST
    for part in parts:
        if len(part) + 2 <= room:
            room -= len(part) + 2
            kept.append(part)
    left = len(parts) - len(kept)
    return "\n\n".join([*kept, *([f"{left} parts are left out: they do not fit a comment"] if left else [])])


def _table(table: Table) -> str:
    head = "| " + " | ".join(map(_cell, table.columns)) + " |"
    rule = "| " + " | ".join("---:" if i in table.numeric else "---" for i in range(len(table.columns))) + " |"
    rows = [
        "| " + " | ".join([_MARKS[table.state(i)] + _cell(row[0]), *map(_cell, row[1:])]) + " |"
        for i, row in enumerate(table.rows)
    ]
    lines = "\n".join([head, rule, *rows])
    return f"**{_cell(table.title)}**\n\n{lines}" if table.title else lines


def _cell(text: str) -> str:
    """Text that is text: no markup, no picture or link, and nobody is mentioned."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return _MENTION.sub("@<!-- -->", _MARKUP.sub(r"\\\g<0>", text))
