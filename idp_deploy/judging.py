"""Files on devices against their budgets: each file looked at once, and each broken budget with what would mend it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from idp_deploy.errors import IdpDeployError
from idp_deploy.flow import Budget, Check, Contents, FormatName, Parity, Report
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
    refused: Mapping[FormatName, IdpDeployError] | None = None,
) -> tuple[Report, list[Evidence]]:
    """The report of the gate, and all that it rests on.

    Args:
        parities: what `verify` found, by file.
        strict: a budget that no file answers fails.
        refused: why a format has no file; its budgets fail with that.
    """
    files = {one.path: load(one) for one in contents}
    evidence = [
        Evidence(one, simulate(files[one.path], device), (parities or {}).get(one.path))
        for one, device in pairs(contents, devices, budgets)
    ]
    report = gate(budgets, evidence, strict=strict)
    report = replace(report, checks=[_with_reason(check, refused or {}) for check in report.checks])
    return remedied(report, evidence, devices), evidence


def _with_reason(check: Check, refused: Mapping[FormatName, IdpDeployError]) -> Check:
    """Of a budget that no file answers, since its format was refused."""
    why = refused.get(check.budget.format) if check.artifact == Path() else None
    return check if why is None else replace(check, detail=f"the file was refused: {why.message}", fix=why.way_out)
