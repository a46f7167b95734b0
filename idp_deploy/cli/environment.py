"""targets and doctor: what there is, what is missing."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from idp_deploy.cli.options import anchors_of
from idp_deploy.cli.output import say
from idp_deploy.cli.reporting import Answer, reports
from idp_deploy.cli.session import existing
from idp_deploy.errors import ExitCode, UsageError
from idp_deploy.formats import FORMATS
from idp_deploy.rendering.document import Document, State, Table

# package → (what it is for, extra that brings it; "" for a core package)
PACKAGES: dict[str, tuple[str, str]] = {
    "torch": ("models, pruning", ""),
    "onnx": ("ONNX files", ""),
    "onnxruntime": ("running ONNX files", ""),
    "accelerate": ("training", ""),
    "torch-pruning": ("removing channels", ""),
    "coremltools": ("Core ML files", "coreml"),
    "litert-torch": ("writing TFLite files", "tflite"),
    "ai-edge-litert": ("running TFLite files", "tflite"),
    "ai-edge-quantizer": ("int8 TFLite files", "tflite"),
    "ethos-u-vela": ("Ethos-U targets", "ethos-u"),
    "tflite-micro": ("running files as a microcontroller does", "tflm"),
    "coreai-core": ("reading and running Core AI files", "coreai"),
    "coreai-torch": ("writing Core AI files", "coreai"),
    "scikit-learn": ("the sample tasks", "samples"),
    "pillow": ("the sample tasks", "samples"),
    "pyarrow": ("Parquet tables in recipes", "recipes"),
}


INTERPRETER = "an interpreter of idp-deploy's own, in the file's precision"


@reports(to_file=True)
def targets(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One device in full, or 'new'.", show_default=False)
    ] = None,
    new_name: Annotated[
        str | None,
        typer.Argument(metavar="NEW_NAME", help="After 'new': what to call your device.", show_default=False),
    ] = None,
    like: Annotated[str, typer.Option(help="new: the known device with the nearest chip.")] = "custom",
    anchor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL[@PRECISION][@THREADS]=MS",
            help="new: a latency you measured on it, repeatable.",
            show_default=False,
        ),
    ] = None,
    measure: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="new: the device is this host: time this file here, repeatable.", show_default=False
        ),
    ] = None,
    runtime: Annotated[str, typer.Option(help="new: the runtime you measured.")] = "litert-xnnpack",
    threads: Annotated[int, typer.Option(min=1, max=1024, help="new: the threads you measured with.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="new: replace an existing file.")] = False,
) -> Answer:
    """List the device profiles, show one with its sources, or write one for a device of your own."""
    from idp_deploy.rendering.devices import device_document, devices_document
    from idp_deploy.simulation.cost_model import load_coefficients
    from idp_deploy.simulation.creating import new_target
    from idp_deploy.simulation.evidence import bases_of, rows_of
    from idp_deploy.simulation.measurement import measure_all
    from idp_deploy.simulation.targets import folder, load_target, read_targets

    model = load_coefficients(folder() / "coefficients.json")
    if name is None:
        found, unusable = read_targets()
        evidence = {one.name: (rows_of(model.rows, one), bases_of(model, one)) for one in found}
        document = devices_document(found, evidence, unusable)
        return Answer(document)
    if name == "new":
        if new_name is None:
            raise UsageError("the new device has no name", way_out="idp-deploy targets new my-board --like pixel-4")
        anchors = anchors_of(anchor or [])
        if measure and threads > 1:
            raise UsageError("CPU time of several threads is no latency", way_out="--measure with --threads 1")
        timed = measure_all([existing(path) for path in measure]) if measure else []
        device = new_target(
            new_name, anchors, like=like, runtime=runtime, threads=threads, measured_here=timed, force=force
        )
        say(f"wrote {Path('targets') / new_name}.toml")
    else:
        device = load_target(name)
    return Answer(device_document(device, bases_of(model, device)))


@reports(to_file=True)
def doctor(
    emulator: Annotated[bool, typer.Option("--emulator", help="Also what 'simulate --emulate' lacks.")] = False,
) -> Answer:
    """Print versions, and what is missing for which command.

    Exits 4 where a core package is missing, or, asked for, a part of the emulator.
    """
    rows: list[tuple[str, str, str]] = []
    states: list[State] = []
    found = {}
    broken = False
    for package, (purpose, extra) in PACKAGES.items():
        try:
            found[package] = version(package)
            state: State = "good"
            shown = found[package]
        except PackageNotFoundError:
            state = "warn" if extra else "bad"
            broken |= not extra
            shown = f"missing: pip install 'idp-deploy[{extra}]'" if extra else "missing: pip install idp-deploy"
        rows.append((package, shown, purpose))
        states.append(state)
    lacks: tuple[str, ...] = ()
    if emulator:
        from idp_deploy.simulation.backends import BACKENDS

        lacks = BACKENDS["counts"].lacks()
        broken |= bool(lacks)
        rows += [("emulator", f"missing: {what}", "simulate --emulate") for what in lacks]
        rows += [] if lacks else [("emulator", "ready", "simulate --emulate")]
        states += ["warn"] * len(lacks) or ["good"]
    verifiers = runtimes()
    checks = Table(
        "what verifies a file here",
        ("format", "runs in"),
        [(name, words) for name, words in verifiers.items()],
        states=["warn" if "missing" in words else "good" for words in verifiers.values()],
    )
    machine = f"{platform.system()} {platform.machine()}"
    here = f"idp-deploy {version('idp-deploy')}, Python {platform.python_version()} on {machine}"
    data: dict[str, object] = {
        "python": sys.version,
        "platform": platform.platform(),
        "packages": found,
        "emulator_missing": lacks,
    }
    data["verifiers"] = verifiers
    table = Table("", ("package", "version", "for"), rows, states=states)
    document = Document(here, [table, checks], data)
    return Answer(document, ExitCode.DEPENDENCY if broken else ExitCode.OK)


def runtimes() -> dict[str, str]:
    """Suffix → what `verify` runs such a file in on this machine, with its version."""
    found = {}
    for row in FORMATS.values():
        try:
            packages = [name.replace("_", "-") for name in row.runtime]
            found[row.suffix] = ", ".join(f"{name} {version(name)}" for name in packages) or INTERPRETER
        except PackageNotFoundError as missing:
            found[row.suffix] = f"{missing.name} is missing: pip install 'idp-deploy[{row.extra}]'"
    return found
