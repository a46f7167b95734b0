"""simulate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from idp_deploy.cli.options import Config, Json, ReportFile, ReportFormat, Targets, parse_anchor
from idp_deploy.cli.output import emit, ready
from idp_deploy.cli.session import existing, open_session
from idp_deploy.errors import UsageError
from idp_deploy.rendering.estimates import estimate_document


def simulate(
    artifacts: Annotated[
        list[Path], typer.Argument(metavar="ARTIFACT...", help="Model files, or workload descriptions.")
    ],
    target: Targets = None,
    runtime: Annotated[
        str | None, typer.Option(help="Default: the target's own for the format.", show_default=False)
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads on the device.")] = 1,
    anchor: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL=MS", help="A latency you measured on the device, repeatable.", show_default=False),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Where the time goes, op by op.")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Also run the file on this host.")] = False,
    emulate: Annotated[
        bool, typer.Option("--emulate", help="Also count what the stock arm64 runtime executes ('make emulator').")
    ] = False,
    output: ReportFile = None,
    format: ReportFormat = "text",
    json: Json = False,
    config: Config = None,
) -> None:
    """Say how long a file takes on a device, with an interval, and what runs sparse there."""
    from idp_deploy.facts import facts_of
    from idp_deploy.simulation import simulate as simulate_file
    from idp_deploy.simulation.estimating import load
    from idp_deploy.simulation.targets import load_target

    ready(format, output, *artifacts)
    session = open_session(config=config)
    names = target or list(session.configuration.targets)
    if not names:
        raise UsageError("no target is named", way_out="pass --target pixel-4; 'idp-deploy targets' lists all")
    devices = [load_target(name) for name in names]
    anchors = dict(parse_anchor(text) for text in anchor or [])
    situation: dict[str, Any] = {"runtime": runtime, "threads": threads, "anchor": anchors or None}
    files = [load(existing(path)) for path in artifacts]
    pairs = [(file, device) for file in files for device in devices]
    estimates = [simulate_file(file, device, **situation) for file, device in pairs]
    changes = {}
    if layers:
        from idp_deploy.simulation.advice import advise

        changes = {
            (estimate.artifact, estimate.target): advise(file, device, estimate, **situation)
            for (file, device), estimate in zip(pairs, estimates, strict=True)
        }
    measurements = []
    if measure:
        from idp_deploy.simulation.measurement import measure_all, runs_here

        measurements = measure_all(
            [file.contents for file in files if file.contents and runs_here(file.format)], threads=threads
        )
    counts = []
    if emulate:
        from idp_deploy.simulation.emulator import emulate as emulate_file

        counts = [emulate_file(file.contents or file.path, device, runtime=runtime) for file, device in pairs]
    document = estimate_document(
        estimates,
        layers=layers,
        changes=changes,
        measurements=measurements,
        counts=counts,
        files=[facts_of(file.contents) for file in files if file.contents],
    )
    emit(document, format=format, json=json, output=output)
