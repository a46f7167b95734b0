"""diff."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from idp_deploy.cli.devices import unknown_devices
from idp_deploy.cli.options import Config, Targets
from idp_deploy.cli.patience import Waiting
from idp_deploy.cli.reporting import Answer, reports
from idp_deploy.cli.session import artifact_of, existing, open_session
from idp_deploy.collecting import seldom_collecting
from idp_deploy.errors import UsageError
from idp_deploy.formats import is_folder, models_in
from idp_deploy.rendering.differences import difference_document, folders_document, reports_document

REPORT = ".json"


@reports(to_file=True)
@seldom_collecting()
def diff(
    before: Annotated[
        Path,
        typer.Argument(metavar="A", help="A model file of any tool, a folder of them, or a 'check --json' report."),
    ],
    after: Annotated[Path, typer.Argument(metavar="B", help="What to hold against it: another format is fine.")],
    target: Targets = None,
    config: Config = None,
) -> Answer:
    """Say what differs between two files: size, zeros, estimated latency, and the layers that changed.

    Of two folders the files are paired by name. Two reports of 'check --json' are held against each other budget by
    budget.
    """
    counts = [len(models_in(path)) if is_folder(existing(path)) else 0 for path in (before, after)]
    several = all(counts) and max(counts) > 1
    if not several:
        before, after = artifact_of(before), artifact_of(after)
    suffixes = [path.suffix.lower() == REPORT for path in (before, after)]
    if any(suffixes):
        if not all(suffixes):
            model, report = (after, before) if suffixes[0] else (before, after)
            raise UsageError(f"{model} is a model, and {report} a report", way_out="name two of a kind")
        from idp_deploy.diffing import diff_reports

        return Answer(reports_document(before, after, diff_reports(before, after)))
    from idp_deploy.diffing import diff as diff_files
    from idp_deploy.diffing import diff_folders
    from idp_deploy.simulation.targets import load_target

    session = open_session(config=config, words=lambda table: unknown_devices(table, "targets") if not target else ())
    names = target or list(session.configuration.targets)
    devices = [load_target(name) for name in names]
    with Waiting():
        if several:
            return Answer(folders_document(diff_folders(before, after, devices)))
        return Answer(difference_document(diff_files(before, after, devices)))
