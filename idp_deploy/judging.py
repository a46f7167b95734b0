"""Files on devices against their budgets: each file looked at once, and each broken budget with what would mend it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from idp_deploy.flow import Budget, Contents, Parity, Report
from idp_deploy.gating import Evidence, gate, pairs
from idp_deploy.remedies import remedied
from idp_deploy.simulation.estimating import simulate
from idp_deploy.simulation.question import load
from idp_deploy.simulation.targets import Target


def judge(
    contents: Sequence[Contents],
    devices: Sequence[Target],
    budgets: Sequence[Budget],
    *,
    parities: Mapping[Path, Parity] | None = None,
    strict: bool = False,
) -> tuple[Report, list[Evidence]]:
    """The report of the gate, and all that it rests on.

    Args:
        parities: what `verify` found, by file.
        strict: a budget that no file answers fails.
    """
    files = {one.path: load(one) for one in contents}
    evidence = [
        Evidence(one, simulate(files[one.path], device), (parities or {}).get(one.path))
        for one, device in pairs(contents, devices, budgets)
    ]
    return remedied(gate(budgets, evidence, strict=strict), evidence, devices), evidence
