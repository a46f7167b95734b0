"""Markdown that fits a pull-request comment; the first line lets a bot find and replace its own comment."""

from __future__ import annotations

from idp_deploy.rendering.document import Document, Table

MARKER = "<!-- idp-deploy report -->"
_MARKS = {"": "", "good": "✅ ", "bad": "❌ ", "warn": "⚠️ "}


def to_markdown(document: Document) -> str:
    """Pipe tables with right-aligned numbers; notes in a fold."""
    parts = [MARKER, f"## {document.title}"]
    parts += [_table(table) for table in document.tables]
    failed = [f"- ❌ {_cell(f'{c.suite} {c.name}: {c.message}')}" for c in document.cases if not c.passed]
    if failed:
        parts.append("\n".join(failed))
    if document.summary:
        parts.append(_cell(document.summary))
    if document.notes:
        notes = "\n".join(f"- {_cell(note)}" for note in document.notes)
        parts.append(f"<details><summary>{len(document.notes)} notes</summary>\n\n{notes}\n\n</details>")
    return "\n\n".join(parts) + "\n"


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
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
