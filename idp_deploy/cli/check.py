"""check: the CI gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from idp_deploy import configuration as configuration_file
from idp_deploy.cli.devices import unknown_devices
from idp_deploy.cli.options import Config, Targets
from idp_deploy.cli.reporting import Answer, reports
from idp_deploy.cli.session import artifacts_of, newest_artifacts, open_session, pairs
from idp_deploy.collecting import seldom_collecting
from idp_deploy.errors import GateError, UsageError
from idp_deploy.rendering.verdicts import report_document

CHANGED = "not the file that was written: its seal is broken; 'verify' says what differs, 'run' writes it again"
_UNGATED = "write budgets for these files, name a target that has some, or pass --allow-missing"


@reports(to_file=True)
@seldom_collecting()
def check(
    artifacts: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="ARTIFACT",
            help="Files, or folders of them. Default: what 'export' wrote last in this folder.",
            show_default=False,
        ),
    ] = None,
    target: Targets = None,
    budgets: Annotated[
        Path | None, typer.Option("--budgets", metavar="FILE", help="TOML with a [budgets] table.", show_default=False)
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="FILE", help="An earlier 'check --json'; worse fails.", show_default=False),
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=SHARE",
            help="By how much a metric may be worse than the baseline, repeatable: latency=5%. Default: 1 %.",
            show_default=False,
        ),
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="A baseline may lack what is budgeted, and files may have no budget."),
    ] = False,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Report, but never fail.")] = False,
    config: Config = None,
) -> Answer:
    """Gate files on size and latency budgets per target.

    Exits 1 where a limit is broken, a budgeted metric cannot be measured, the baseline has no value for it, or there
    are budgets, but none for any of these files. With --target and without --budgets that shows the estimates alone.
    """
    from idp_deploy.baselines import baseline_budgets, bound
    from idp_deploy.cli.ageing import of_other_weights
    from idp_deploy.cli.provenance import provenance
    from idp_deploy.gating import missing, ungated
    from idp_deploy.inspection import redundancy_of
    from idp_deploy.judging import judge
    from idp_deploy.reading import read
    from idp_deploy.sealing import intact
    from idp_deploy.simulation.size import begin
    from idp_deploy.simulation.targets import load_target

    keys = ("targets",) * (not target) + ("budgets",) * (not budgets)
    session = open_session(config=config, words=lambda table: unknown_devices(table, *keys))
    paths = artifacts_of(artifacts) if artifacts else list(newest_artifacts())
    if not paths:
        before = "run" if session.configuration.weights else "export"
        raise UsageError("no artifact to check", way_out=f"name one, or run 'idp-deploy {before}' first")
    chosen = session.configuration
    if budgets:
        chosen = configuration_file.load(budgets, environment={}, words=lambda table: unknown_devices(table, "budgets"))
    limits = chosen.budget_list()
    written = {**session.configuration.baseline.tolerances, **chosen.baseline.tolerances}
    allowed = configuration_file.tolerances({**written, **pairs(tolerance or (), "--tolerance")})
    earlier = baseline_budgets(baseline, tolerances=allowed) if baseline else ()
    configured, limits = limits, limits + earlier
    wanted = target or list(dict.fromkeys([*session.configuration.targets, *(b.target for b in limits)]))
    if not wanted:
        raise UsageError("no target and no budget is named", way_out="pass --target pixel-4, or configure budgets")
    devices = [load_target(name) for name in wanted]
    named = list(dict.fromkeys(b.target for b in limits))
    limits = tuple(b for b in limits if b.target in wanted)
    looks = bool(target) and not budgets  # whoever names a device, and no budgets, may want its estimates alone
    if not (limits or allow_missing or exit_zero or looks) and (budgets or named):
        has = f"none for {', '.join(wanted)}, but for {', '.join(named)}" if named else "none"
        raise GateError(f"of budgets there are {has}: nothing would be checked", way_out=_UNGATED)
    for path in paths:
        begin(path)
    contents = [read(path) for path in paths]
    earlier = bound(earlier, ((one.format, one.path) for one in contents))
    limits = tuple(b for b in (*configured, *earlier) if b.target in wanted)
    gated = {c.path for c in contents if any(b.format == c.format and b.is_for(c.path) for b in limits)}
    strict = not artifacts or not (gated or allow_missing or looks)  # a gate that checks nothing holds nothing back
    report, evidence = judge(contents, devices, limits, strict=strict)
    if baseline and not allow_missing:
        report = replace(report, checks=[*report.checks, *ungated(baseline, earlier, configured, evidence)])
    unanswered = () if strict else missing(limits, evidence)
    redundant = {c.path: found for c in contents if (found := redundancy_of(c))}
    passed = report.passed
    none = "no budget is for these files" if named else "no budgets are configured"
    verdict = none if not (gated and report.checks) else "within budget" if passed else "OVER BUDGET"
    document = report_document(report, title=f"Check: {verdict}", unanswered=unanswered, redundant=redundant)
    changed = [f"{path}: {CHANGED}" for path in paths if intact(path) is False]
    changed += of_other_weights(session, contents)
    changed += [f"{path}: no budget is for it" for path in paths if gated and path not in gated]
    changed += [f"{c.path}: {warning}" for c in contents for warning in c.warnings]
    document = replace(document, notes=[*changed, *document.notes])
    document = replace(document, data={**document.data, "provenance": provenance()})  # for whom it is a baseline
    return Answer.judged(document, passed or exit_zero)
