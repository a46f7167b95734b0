"""What other runtimes do not take of .onnx files as onnxruntime does: the rules of runtimes.toml.

They are data, measured by `python -m bench.compat_onnx`. Nothing of ONNX is imported for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from idp_deploy import documents
from idp_deploy.flow import FormatName

FORMAT: FormatName = "onnx"  # what they all open


@dataclass(frozen=True)
class Rule:
    """One thing a runtime does not take as onnxruntime does; the words are explained in runtimes.toml."""

    operators: tuple[str, ...]
    verdict: str  # refuses, crashes, wrong, dense again
    message: str
    fix: str
    part: str = ""
    types: tuple[str, ...] = ()
    attributes: tuple[tuple[str, float | str], ...] = ()
    rank: int | None = None


@dataclass(frozen=True)
class Runtime:
    """One tool in one version."""

    name: str
    title: str
    version: str
    source: str  # where the rules were measured
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class RuntimeFinding:
    """A rule that a file meets: `count` times, first at `op`."""

    op: str
    verdict: str
    message: str
    fix: str
    count: int


@dataclass(frozen=True)
class RuntimeLint:
    """What a runtime will do with one file. `verdict` is the worst of the findings, "right" where there are none."""

    runtime: str
    title: str
    version: str
    source: str
    verdict: str
    findings: tuple[RuntimeFinding, ...]


VERDICTS = ("wrong", "crashes", "refuses", "dense again", "right")  # the worst first: nobody notices a wrong result
UNFIT = ("wrong", "crashes", "refuses")  # the file does not run there as it is meant


@cache
def runtimes() -> dict[str, Runtime]:
    """Every runtime that something is known of, by the name `inspect --runtime` takes."""
    raw = documents.parse_toml(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return {name: _runtime(name, row) for name, row in raw.items()}


def _runtime(name: str, row: dict[str, Any]) -> Runtime:
    rules = tuple(_rule(rule) for rule in row.pop("rules", ()))
    return Runtime(name, rules=rules, **row)


def _rule(row: dict[str, Any]) -> Rule:
    words = {key: tuple(row.get(key, ())) for key in ("operators", "types")}
    return Rule(**row | words | {"attributes": tuple(row.get("attributes", {}).items())})
