"""simulate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from idp_deploy.cli.devices import unknown_devices
from idp_deploy.cli.options import Config, Targets, anchors_of
from idp_deploy.cli.patience import Waiting
from idp_deploy.cli.reporting import Answer, reports
from idp_deploy.cli.session import artifacts_of, open_session
from idp_deploy.collecting import seldom_collecting
from idp_deploy.errors import ConversionError, ExitCode, UsageError
from idp_deploy.rendering.estimates import estimate_document
from idp_deploy.waiting import counted


@reports(to_file=True)
@seldom_collecting()
def simulate(
    artifacts: Annotated[
        list[Path],
        typer.Argument(metavar="ARTIFACT", help="Model files, folders of them, or workload descriptions."),
    ],
    target: Targets = None,
    runtime: Annotated[
        str | None, typer.Option(help="Default: the target's own for the format.", show_default=False)
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads on the device.")] = 1,
    anchor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL[@PRECISION][@THREADS]=MS",
            help="A latency you measured on the device, repeatable.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Where the time goes, op by op.")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Also run the file on this host.")] = False,
    emulate: Annotated[
        bool, typer.Option("--emulate", help="Also count what the stock arm64 runtime executes ('make emulator').")
    ] = False,
    config: Config = None,
) -> Answer:
    """Say how long a file takes on a device, with an interval, and what runs sparse there."""
    from idp_deploy.facts import facts_of
    from idp_deploy.simulation.advice import advise
    from idp_deploy.simulation.backends import ask
    from idp_deploy.simulation.question import Question, load
    from idp_deploy.simulation.size import begin
    from idp_deploy.simulation.targets import load_target

    session = open_session(config=config, words=lambda table: unknown_devices(table, "targets") if not target else ())
    names = target or list(session.configuration.targets)
    if not names:
        raise UsageError("no target is named", way_out="pass --target pixel-4; 'idp-deploy targets' lists all")
    devices = [load_target(name) for name in names]
    anchors = anchors_of(anchor or [])
    situation: dict[str, Any] = {"runtime": runtime, "threads": threads, "anchor": anchors or None}
    paths = artifacts_of(artifacts)
    for path in paths:
        begin(path)
    question = Question([load(path) for path in paths], devices, **situation)
    flags = {"measure": measure, "emulate": emulate}
    changes = {}
    with Waiting():
        answers = ask(question, [flag for flag, is_set in flags.items() if is_set])
        if layers:
            every = list(zip(question.pairs, answers["estimates"], strict=True))
            changes = {
                (estimate.artifact, estimate.target): advise(file, device, estimate, **situation)
                for (file, device), estimate in counted(every, "trying what would pay")
                if device.cores
            }
    facts = [facts_of(file.contents) for file in question.files if file.contents]
    document = estimate_document(answers, layers=layers, changes=changes, files=facts)
    told = zip(question.pairs, answers["estimates"], strict=True)
    refused = [e.reason for (_, device), e in told if not (device.cores or device.is_tool or e.vendor)]
    return Answer(document, ConversionError(refused[0]) if refused else ExitCode.OK)
