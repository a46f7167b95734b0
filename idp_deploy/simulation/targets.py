"""Devices: one TOML file each. A new device is a new file, in the package's targets or in ./targets of the user."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from idp_deploy import documents
from idp_deploy.errors import UsageError
from idp_deploy.formats.onnx.runtimes import FORMAT
from idp_deploy.formats.onnx.runtimes import Runtime as Tool
from idp_deploy.formats.onnx.runtimes import runtimes as tools
from idp_deploy.formats.validation import KnownFormat
from idp_deploy.simulation.cost_model import FAMILIES, PORTABLE_FAMILIES, Core

VENDORS = frozenset({"vela", "tflm"})  # families of `simulation.vendor`


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CoreGroup(_Strict):
    """Cores of one type."""

    type: str  # a row of cores.toml
    count: int = Field(ge=1)
    ghz: float = Field(gt=0, lt=10)


class Compiler(_Strict):
    """What Vela is to compile for."""

    accelerator: str  # ethos-u55-128
    system: str  # a System_Config of Arm's vela.ini: clocks and memories around the NPU
    memory: str  # a Memory_Mode of it: which memory holds weights and which activations


class Runtime(_Strict):
    """One way of running a file on the device."""

    name: str
    format: KnownFormat
    family: str  # whose efficiencies: a family of the cost model; or of VENDORS, whose own software answers
    core: str = ""  # a row of cores.toml: one of the device's cores, its GPU or its neural engine; not for VENDORS
    compiler: Compiler | None = None  # of family "vela"
    sparse: bool = False  # has kernels that skip zero weights
    source: str = ""


class Measured(_Strict):
    """A latency measured by the user on this very device."""

    model: str  # a published architecture, or the path of a workload description or model file
    latency_ms: float = Field(gt=0)
    runtime: str
    threads: int = Field(default=1, ge=1)
    precision: Literal["float32", "float16", "int8"] = "float32"
    source: str = ""


class Target(_Strict):
    """A device with what it can run."""

    name: str
    device: str
    soc: str
    cores: tuple[CoreGroup, ...] = ()  # none where a vendor's software answers for the whole chip
    runtimes: tuple[Runtime, ...] = Field(min_length=1)
    sources: tuple[str, ...] = Field(min_length=1)
    confidence: Literal["measured", "specification", "assumed"]
    dram_gb_per_s: float | None = None
    ram_gb: float | None = None
    measured_as: str = ""  # the device's name in measurements/published.csv, where it has rows
    measurements: tuple[Measured, ...] = ()
    notes: tuple[str, ...] = ()
    is_tool: bool = Field(default=False, exclude=True)  # no device, but a program that opens files on many

    def runtime(self, format_name: str, name: str | None = None) -> Runtime | None:
        """The runtime called `name`, or the first for a format; a CPU family by its own name runs any format.

        None where the device runs no such format, or where the runtime needs a chip that the target does not list.

        Raises:
            UsageError: nobody knows such a runtime.
        """
        for runtime in self.runtimes:
            if runtime.name == name or (name is None and runtime.format == format_name):
                return runtime
        if name is None:
            return None
        for runtime in self.runtimes:
            if runtime.family == name and name not in PORTABLE_FAMILIES:
                return runtime
        if name in FAMILIES - PORTABLE_FAMILIES:
            return None
        if name in FAMILIES and self.cores:
            return Runtime(name=name, format=format_name, family=name, core=self.cores[0].type)  # type: ignore[arg-type]
        near = difflib.get_close_matches(name, [r.name for r in self.runtimes] + sorted(FAMILIES), 3, 0.3)
        raise UsageError(f"target '{self.name}' has no runtime {name!r}", way_out=f"nearest: {', '.join(near)}")

    @property
    def compiler(self) -> Compiler | None:
        """What its vendor's compiler is to compile for, where it has one."""
        return next((runtime.compiler for runtime in self.runtimes if runtime.compiler), None)

    def core(self, runtime: Runtime) -> Core:
        """The core a runtime runs on, at this device's clock."""
        core = replace(load_cores()[runtime.core], dram_gb_per_s=self.dram_gb_per_s or 0.0)
        clocks = [group.ghz for group in self.cores if group.type == runtime.core]
        return replace(core, ghz=clocks[0]) if clocks else core

    def using(self, core: Core, threads: int) -> Core:
        """A core at the mean clock of as many of its type as there are threads, with the device's memory."""
        core = replace(core, dram_gb_per_s=self.dram_gb_per_s or 0.0)
        clocks = [group.ghz for group in self.cores if group.type == core.name for _ in range(group.count)][:threads]
        return replace(core, ghz=core.ghz * sum(clocks) / len(clocks) / clocks[0]) if clocks else core

    def alike(self, core: Core) -> int:
        """How many cores are of the runtime's kind: big ones and those in between, or little ones."""
        cores = load_cores()
        return sum(group.count for group in self.cores if cores[group.type].is_little == core.is_little)


def folder() -> Path:
    """Where the devices lie: beside the package in a wheel, in the root of a clone."""
    package = Path(__file__).parents[1]
    installed = package / "targets"
    return installed if installed.is_dir() else package.parent / "targets"


@cache
def load_cores() -> dict[str, Core]:
    """Every row of cores.toml."""
    raw = tomllib.loads((folder() / "cores.toml").read_text())
    return {name: Core(name=name, **row) for name, row in raw.items()}


def _files() -> Iterator[Path]:
    for directory in (Path("targets"), folder()):
        yield from sorted(p for p in directory.glob("*.toml") if p.name != "cores.toml")


def parse(path: Path) -> Target:
    """One device file.

    Raises:
        UsageError: unreadable, not TOML, an unknown or missing key, core or runtime family; the message names it.
    """
    try:
        target = Target.model_validate(documents.parse_toml(documents.read_text(path)) | {"name": path.stem})
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", way_out="remove it or make it readable") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{path}: '{where}': {first['msg']}", way_out="compare it with one that 'idp-deploy targets new' writes"
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{path} is not TOML: {error}", way_out="compare it with one that 'idp-deploy targets new' writes"
        ) from error
    ours = [runtime for runtime in target.runtimes if runtime.family not in VENDORS]
    for used in [*(group.type for group in target.cores), *(runtime.core for runtime in ours)]:
        _among(path, "core", used, load_cores())
    for runtime in target.runtimes:
        _among(path, "runtime family", runtime.family, FAMILIES | VENDORS)
    for one in target.measurements:
        _among(path, "runtime", one.runtime, {runtime.name for runtime in target.runtimes})
    if said := contradicted(target.measurements):
        raise UsageError(f"{path}: {said}", way_out=ONE_LATENCY)
    lacking = "cores" if ours and not target.cores else ""
    lacking = lacking or next(("compiler" for r in target.runtimes if (r.family == "vela") != bool(r.compiler)), "")
    if lacking:
        way_out = "compare it with pixel-4 or ethos-u55-128, which 'idp-deploy targets' shows"
        raise UsageError(f"{path}: '{lacking}' does not fit its runtimes", way_out=way_out)
    return target


ONE_LATENCY = "give one, such as their median; precision (@int8) and threads (@4) tell situations apart"


def contradicted(measurements: Sequence[Measured]) -> str:
    """The first two that say different things of one situation, in words; empty where none do."""
    for one, other in combinations(measurements, 2):
        alike = one.model_dump(exclude={"source", "latency_ms"}) == other.model_dump(exclude={"source", "latency_ms"})
        if alike and one.latency_ms != other.latency_ms:
            return f"{one.model} has two latencies in one situation, {one.latency_ms:g} and {other.latency_ms:g} ms"
    return ""


def shipped(where: Path) -> list[Target]:
    """The devices that come with the package."""
    return [parse(path) for path in sorted(where.glob("*.toml")) if path.name != "cores.toml"]


def _among(path: Path, what: str, name: str, known: Any) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, sorted(known), 3, 0.3)
        way_out = f"nearest: {', '.join(near)}" if near else f"one of {', '.join(sorted(known))}"
        raise UsageError(f"{path}: unknown {what} {name!r}", way_out=way_out)


def load_target(name: str) -> Target:
    """The device called `name`, the user's ./targets first, or a tool of `formats.onnx.runtimes`: openvino, mnn, …

    Raises:
        UsageError: unknown; the nearest names are listed.
    """
    if not isinstance(name, str):
        raise UsageError(f"target is {name!r}, which names no device", way_out='give a name, such as "pixel-4"')
    for path in _files():
        if path.stem == name:
            return parse(path)
    if name in tools():
        return _tool(tools()[name])
    names = sorted({path.stem for path in _files()} | set(tools()))
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    near = difflib.get_close_matches(plain, names, 3, 0.3) or names[:3]
    raise UsageError(f"unknown target {name!r}", way_out=f"nearest: {', '.join(near)}; 'idp-deploy targets' lists all")


def _tool(found: Tool) -> Target:
    """A program that opens .onnx files as something to aim at: it takes a file or does not, and no latency is known."""
    title = f"{found.title} {found.version}"
    runtime = Runtime.model_construct(name=found.name, format=FORMAT, family="", core="", source=found.source)
    return Target.model_construct(
        name=found.name, device=title, soc="", cores=(), runtimes=(runtime,), sources=(found.source,),
        confidence="measured", is_tool=True,
    )  # fmt: skip


def data_files(names: Iterable[str]) -> list[Path]:
    """The files that estimates on these devices come from; what is no device has none."""
    found = {path.stem: path for path in reversed([*_files()])}
    shared = [folder() / "coefficients.json", folder() / "cores.toml"]
    return [*shared, *(found[name] for name in dict.fromkeys(names) if name in found)]


def list_targets() -> list[Target]:
    """Every device that can be used, by name; a user's file hides the package's of the same name."""
    return read_targets()[0]


def read_targets() -> tuple[list[Target], list[UsageError]]:
    """The same, and what is wrong with each file in between that is no device."""
    found: dict[str, Target | UsageError] = {}
    for path in _files():
        if path.stem not in found:
            try:
                found[path.stem] = parse(path)
            except UsageError as error:
                found[path.stem] = error
    read = [found[name] for name in sorted(found)]
    return [t for t in read if isinstance(t, Target)], [e for e in read if isinstance(e, UsageError)]
