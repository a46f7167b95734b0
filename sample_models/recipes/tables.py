"""Rows of a table in a file: JSON lines, or Parquet where pyarrow is installed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from idp_deploy.errors import FileError, UsageError, require


def read_rows(path: Path, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """The values of `columns` in every row.

    Args:
        path: .jsonl (one JSON object a line; blank lines are passed over) or .parquet.

    Raises:
        FileError: no such file, broken, a row without one of the columns, or no rows at all.
        MissingDependencyError: a Parquet file, and no pyarrow. UsageError: another kind of file.
    """
    if path.suffix not in _READERS:
        raise UsageError(f"{path} is neither .jsonl nor .parquet", way_out="convert it to JSON lines")
    if not path.is_file():
        raise FileError(f"no such file: {path}", way_out="check the path")
    found = list(_READERS[path.suffix](path, columns))
    if not found:
        raise FileError(f"{path} holds no rows", way_out="give a file with data")
    return found


def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise FileError(f"{path} line {number} is {line.strip()[:40]!r}, not a JSON object")
                _check(path, f"line {number} of {path}", columns, list(row))
                yield tuple(row[column] for column in columns)
    except json.JSONDecodeError as error:
        raise FileError(f"{path} line {number} is not JSON: {error.msg}", way_out="write one object a line") from None
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not UTF-8: {error.reason}", way_out="convert it to UTF-8") from None


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    require("pyarrow", "recipes")
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check(path, str(path), columns, file.schema_arrow.names)
            table = file.read(columns=list(columns))
    except (pyarrow.ArrowException, OSError) as error:
        raise FileError(f"{path} is not a readable Parquet file: {error}", way_out="make it again") from None
    yield from zip(*(table.column(column).to_pylist() for column in columns), strict=True)


_READERS = {".jsonl": _jsonl, ".parquet": _parquet}


def _check(path: Path, where: str, wanted: Sequence[str], found: Sequence[str]) -> None:
    for column in wanted:
        if column not in found:
            raise FileError(
                f"{where} has no '{column}', only {', '.join(found) or 'nothing'}",
                way_out="name the columns: premise='sentence1', hypothesis='sentence2', label='gold_label'",
            )
