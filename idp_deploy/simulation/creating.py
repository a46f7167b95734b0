"""new_target: a device of the user's own, as a TOML file in ./targets, fitted from what was measured on it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from idp_deploy.errors import UsageError
from idp_deploy.files import landing, write_bytes
from idp_deploy.flow import Measurement
from idp_deploy.simulation.anchoring import parse_model, ran_in
from idp_deploy.simulation.architectures import architecture, known
from idp_deploy.simulation.targets import (
    ONE_LATENCY,
    Measured,
    Runtime,
    Target,
    contradicted,
    folder,
    load_cores,
    load_target,
    parse,
)

NEW = "new"  # what `targets` takes for a command in place of a name


def new_target(
    name: str,
    measurements: Mapping[str, float],
    *,
    like: str = "custom",
    device: str = "",
    core: str = "",
    ghz: float | None = None,
    runtime: str = "litert-xnnpack",
    threads: int = 1,
    measured_here: Sequence[Measurement] = (),
    directory: Path = Path("targets"),
    force: bool = False,
) -> Target:
    """Write `targets/<name>.toml` and return it.

    Every later simulation on it starts from `like`'s specification and is then moved by the measurements (one already
    takes most of a device's own error away; the interval says how much is left). Nothing is copied from them but the
    milliseconds: each simulation fits anew.

    Args:
        measurements: {architecture or path of a model file: ms} on the device, e.g. {"mobilenet_v1_1.0_224": 42.5};
            as many models, arithmetics and thread counts as there are: `MODEL@int8@4` is int8 on four threads.
        like: the target to begin with: the one with the nearest chip.
        core: type of its big core (a row of cores.toml) and its clock in `ghz`, where they differ from `like`.
        runtime: the one measured, with `threads` threads where a measurement does not say.
        measured_here: what `measure` found on this host, where the device is this host.

    Raises:
        UsageError: a name that is no slug or taken, an unknown target, core, runtime or architecture, a measurement
            that is not above 0.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "my-phone"
        raise UsageError(f"{name!r} is no target name", way_out=f"lower case, digits and dashes: {slug}")
    path = directory / f"{name}.toml"
    if name == NEW:
        raise UsageError(f"'{NEW}' is the word that makes a target, and no name of one", way_out="choose another name")
    if (path.exists() or (folder() / path.name).exists()) and not force:
        raise UsageError(f"there is a target '{name}' already", way_out="choose another name, or force it")
    landing(path, elsewhere="run this in a folder of yours")
    if core and core not in load_cores():
        raise UsageError(f"unknown core {core!r}", way_out=f"one of {', '.join(sorted(load_cores()))}")
    base = load_target(like)
    wanted = {item.name: item for item in base.runtimes}
    if runtime not in wanted:
        raise UsageError(f"target '{like}' has no runtime {runtime!r}", way_out=f"one of {', '.join(sorted(wanted))}")
    found = [_measured(text, latency_ms, base, wanted[runtime], threads) for text, latency_ms in measurements.items()]
    found += [
        Measured(
            model=str(one.artifact), latency_ms=one.median_ms, runtime=_runtime_of(base, one), threads=one.threads,
            source=f"measured on this host ({one.host}, {one.runtime}): median of {one.repeats} runs, CPU time",
        )
        for one in measured_here
    ]  # fmt: skip
    if said := contradicted(found):
        raise UsageError(said, way_out=ONE_LATENCY)
    write_bytes(path, _toml(base, device or name, core, ghz, found).encode())
    return parse(path)


def _measured(text: str, latency_ms: float, base: Target, runtime: Runtime, threads: int) -> Measured:
    """What `MODEL[@PRECISION][@THREADS]` took. UsageError: no such model or arithmetic, or no time."""
    if not 0 < latency_ms < float("inf"):
        raise UsageError(f"{text} = {latency_ms} ms cannot be", way_out="give milliseconds above 0")
    model, precision, its_threads = parse_model(text)
    if not known(model) and not Path(model).exists():
        architecture(model)  # raises, naming the nearest
    return Measured.model_validate(
        {"model": model, "latency_ms": latency_ms, "runtime": ran_in(base, runtime, model).name}
        | {"threads": its_threads or threads}
        | ({"precision": precision} if precision else {})
    )


def _runtime_of(base: Target, one: Measurement) -> str:
    """The target's runtime for a file that was measured. UsageError: it runs no such file."""
    suffix = one.artifact.suffix.removeprefix(".")
    for runtime in base.runtimes:
        if runtime.format == suffix:
            return runtime.name
    raise UsageError(f"target '{base.name}' runs no {suffix} files", way_out="begin with --like x86-64-host")


def _toml(
    base: Target,
    device: str,
    core: str,
    ghz: float | None,
    measurements: Sequence[Measured],
) -> str:
    old = base.cores[0]
    big = old.model_copy(update={"type": core or old.type, "ghz": ghz or old.ghz})
    groups = [f"  {{ type = {_text(g.type)}, count = {g.count}, ghz = {g.ghz} }}," for g in (big, *base.cores[1:])]
    origin = f"begun from the target {base.name}; add where your numbers come from"
    lines = [f"device = {_text(device)}", f"soc = {_text(base.soc)}", 'confidence = "assumed"']
    lines += [f"sources = [{_text(origin)}]", "cores = [", *groups, "]"]
    for item in base.runtimes:
        on = big.type if item.core == old.type else item.core
        lines += ["", "[[runtimes]]", f"name = {_text(item.name)}", f"format = {_text(item.format)}"]
        lines += [f"family = {_text(item.family)}", f"core = {_text(on)}", f"sparse = {str(item.sparse).lower()}"]
    for m in measurements:
        lines += ["", "[[measurements]]", f"model = {_text(m.model)}", f"latency_ms = {m.latency_ms}"]
        lines += [f"runtime = {_text(m.runtime)}", f"threads = {m.threads}", f"precision = {_text(m.precision)}"]
        lines += [f"source = {_text(m.source)}"] if m.source else []
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
