"""Limits, and how a file stands to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from idp_deploy.flow.answers import Estimate, Parity, Shown
from idp_deploy.flow.file import FileFacts, FormatName

Verdict = Literal["pass", "fail", "not estimable"]


@dataclass(frozen=True)
class Budget:
    """One limit. `limit` is in the metric's base unit: bytes, ms, share, relative error."""

    target: str
    format: FormatName
    metric: str  # a row of `units.METRICS`
    limit: float
    source: str  # where it was written, e.g. "pyproject.toml [tool.idp-deploy.budgets.pixel-4.tflite]"
    artifact: str = ""  # the path of the one file that it is for; of a baseline

    def is_for(self, path: Path) -> bool:
        """Whether it holds back that file, if it is in this format."""
        return self.artifact in ("", path.as_posix())


@dataclass(frozen=True)
class Remedy:
    """One change that would mend a broken budget, and the value it would leave by prediction."""

    change: str
    command: str  # the words to add to `idp-deploy`
    value: float  # in the metric's base unit
    meets: bool  # the limit


@dataclass(frozen=True)
class Check:
    """One budget against one artifact."""

    budget: Budget
    artifact: Path
    value: float | None
    verdict: Verdict
    detail: str = ""  # the interval, the layer most responsible
    fix: str = ""  # one suggestion, where it failed
    marginal: bool = False  # the limit lies within the interval of the value
    layer: str = ""  # the one most responsible, where it failed
    remedy: Remedy | None = None  # what `fix` says, in parts

    @property
    def over(self) -> float:
        """Share of the limit by which a failed check misses it; infinite where there is no value."""
        if self.verdict == "pass":
            return 0.0
        missed = abs(self.value - self.budget.limit) if self.value is not None else float("inf")
        return missed / abs(self.budget.limit) if self.budget.limit else float("inf")


REPORT_VERSION = 1  # of what its JSON looks like


@dataclass(frozen=True)
class Report(Shown):
    """What `check` and `run` hand to a renderer."""

    checks: Sequence[Check] = ()
    estimates: Sequence[Estimate] = ()
    parities: Sequence[Parity] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # of a run: metric, accuracy, zeros, prunable, dense_bytes
    files: Sequence[FileFacts] = ()
    refused: Mapping[str, str] = field(default_factory=dict)  # of a run: format that was not written → why

    @property
    def passed(self) -> bool:
        """A metric that could not be estimated fails its budget, and so does a format that was to be written."""
        return not self.refused and all(check.verdict == "pass" for check in self.checks)
