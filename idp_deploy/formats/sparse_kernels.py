"""Whether a file's zeros are skipped where it runs, and which rules stand in the way: what a format says of that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A rule that an operator breaks."""

    rule: str
    op: str
    message: str
    fix: str


@dataclass(frozen=True)
class SparseLint:
    """What sparse kernels do with the zeros of a file."""

    runs_sparse: bool
    sparse_ops: tuple[str, ...]
    zero_share: float  # of the weights that the two-thirds rule counts
    findings: tuple[Finding, ...]
