"""Vela, Arm's compiler for Ethos-U, behind the pipe: a .tflite file → the compiled one, and what Vela says about it.

Its reports are two CSV files and warnings on standard output, of which one says why an operator stays on the CPU:

    Warning (supported operators) operator: MEAN, ofm: 'mean'
    Reason: Operation has tensor with unsupported DataType Float32 (features.26.0)

Vela's options and reports: OPTIONS.md and PERFORMANCE.md of https://gitlab.arm.com/artificial-intelligence/ethos-u/ethos-u-vela.
"""

from __future__ import annotations

import csv
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from idp_deploy.errors import ConversionError, require
from idp_deploy.isolation import ForeignError, open_isolated

EXTRA = "ethos-u"
COMPILED = "CUSTOM:ethos-u"  # the operator that a compiled file holds
_WARNING = re.compile(r"operator: (\w+), ofm: '(.*)'\s*$")
_STEM = "model"


@dataclass(frozen=True)
class Configuration:
    """What to compile for: an accelerator, and a system and memory mode of Arm's vela.ini."""

    accelerator: str  # ethos-u55-128
    system: str  # Ethos_U55_High_End_Embedded
    memory: str  # Shared_Sram


@dataclass(frozen=True)
class Row:
    """One operator as Vela lowered it."""

    name: str
    kind: str
    on_npu: bool
    cycles: float
    macs: int


@dataclass(frozen=True, eq=False)
class Compiled:
    """The compiled file; the one row of Vela's summary; its operators; why those on the CPU are there, by result."""

    content: bytes
    summary: Mapping[str, str]
    rows: tuple[Row, ...]
    reasons: Mapping[str, str]

    def number(self, column: str) -> float:
        """A figure of the summary; 0.0 where Vela leaves it out."""
        return float(self.summary.get(column) or 0.0)


def name() -> str:
    """`Vela 5.2.0`."""
    return f"Vela {version('ethos-u-vela')}"


@lru_cache(maxsize=8)  # one command asks several things about one file
def compile_for(content: bytes, configuration: Configuration, about: str) -> Compiled:
    """Compile the bytes of a .tflite file.

    Raises:
        ConversionError: Vela refuses the file. FileError: it ends over it, or takes too long.
        MissingDependencyError: it is not installed.
    """
    require("ethosu", EXTRA)
    try:
        session = open_isolated(
            f"{__name__}:Child",
            runtime="Vela",
            about=about,
            content=content,
            accelerator=configuration.accelerator,
            system=configuration.system,
            memory=configuration.memory,
        )
        texts, arrays = session.call("result")
    except ForeignError as error:
        raise ConversionError(
            f"Vela refuses {about} for {configuration.accelerator}: {error}",
            way_out="export it for this target: idp-deploy export MODEL.pt --to tflite "
            f"--target {configuration.accelerator}",
        ) from error
    summary = next(csv.DictReader(io.StringIO(texts["summary"])))
    rows = tuple(map(_row, csv.DictReader(io.StringIO(texts["layers"]))))
    return Compiled(arrays["compiled"].tobytes(), summary, rows, reasons_of(texts["said"]))


def reasons_of(said: str) -> dict[str, str]:
    """Result of an operator → why it stays on the CPU.

    >>> reasons_of("Warning (supported operators) operator: MEAN, ofm: 'mean'\\nReason: Unsupported opType\\n")
    {'mean': 'Unsupported opType'}
    """
    found: dict[str, str] = {}
    current = None
    for line in said.splitlines():
        if match := _WARNING.search(line):
            current = match[2]
        elif current is not None and line.strip().startswith(("Reason:", "- ")):
            found.setdefault(current, line.strip().removeprefix("Reason:").removeprefix("- ").strip())
            current = None
    return found


def _row(row: Mapping[str, str]) -> Row:
    return Row(
        row["Name"],
        row["Original Operator"],
        row["Target"] == "NPU",
        float(row["Op Cycles"] or 0),
        int(float(row["MAC Count"] or 0)),
    )


class Child:
    """The child's object."""

    def __init__(self, content: bytes, *, accelerator: str, system: str, memory: str) -> None:
        from ethosu.vela import vela

        with tempfile.TemporaryDirectory(prefix="idp-deploy-") as folder:
            path, said = Path(folder) / f"{_STEM}.tflite", Path(folder) / "said.txt"
            path.write_bytes(content)
            options = {
                "--accelerator-config": accelerator,
                "--config": "Arm/vela.ini",
                "--system-config": system,
                "--memory-mode": memory,
                "--output-dir": folder,
            }
            words = [word for pair in options.items() for word in pair]
            with _said_to(said):
                try:
                    code = vela.main([str(path), *words, "--verbose-performance", "--show-cpu-operations"])
                except SystemExit as error:
                    code = int(bool(error.code))
            text = said.read_text(errors="replace")
            made = Path(folder) / f"{_STEM}_vela.tflite"
            if code or not made.exists():
                lines = [line for line in text.splitlines() if line.startswith(("Error", "RuntimeError"))]
                raise RuntimeError((lines or text.strip().splitlines() or [f"exit {code}"])[-1].strip())
            self.compiled = np.frombuffer(made.read_bytes(), np.uint8)
            summaries = list(Path(folder).glob(f"{_STEM}_summary_*.csv"))
            layers = Path(folder) / f"{_STEM}_per-layer.csv"
            self.texts = {"summary": summaries[0].read_text(), "layers": layers.read_text(), "said": text}

    @staticmethod
    def prepare() -> None:
        """Import the compiler."""
        import ethosu.vela.vela  # noqa: F401

    def result(self, _: Mapping[str, np.ndarray]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
        """Reports, and the compiled file."""
        return self.texts, {"compiled": self.compiled}


@contextmanager
def _said_to(path: Path) -> Iterator[None]:
    """Python's and the library's own standard output and error, into a file."""
    kept = os.dup(1), os.dup(2)
    with path.open("wb") as file:
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
            os.close(kept[0])
            os.close(kept[1])
