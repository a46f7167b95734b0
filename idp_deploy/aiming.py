"""What the targets ask of the files: how weights are stored, and integers at the ends.

Vela refuses sparsely stored weights for Ethos-U55 and U65 and leaves them uncompressed for U85; it encodes the zeros
of dense ones by itself. TensorFlow Lite Micro unpacks weights by an operator of its own. A phone's runtimes want a
third thing, so one .tflite file cannot serve them all; a dense one serves the first two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from idp_deploy import files
from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.flow import Artifact, FormatName
from idp_deploy.formats import COMPILED_FROM, FORMATS
from idp_deploy.ownership import claim
from idp_deploy.vendors import vela

if TYPE_CHECKING:
    from idp_deploy.simulation.targets import Target

WANTED = COMPILED_FROM["ethos-u"]  # what Vela reads
# family of a runtime → the encoding that it wants, and why; where a file is for several, the first row counts
STORED: Mapping[str, tuple[str, str]] = {
    "vela": ("dense", "weights are stored densely for {}: Vela encodes the zeros"),
    "tflm": ("tflm", "weights are stored behind TFLM_DECODE for {}, and for nothing else"),
}


@dataclass(frozen=True)
class Aim:
    """Which files to write, with which options, and what to compile them for afterwards."""

    formats: tuple[FormatName, ...]
    options: Mapping[FormatName, Mapping[str, str]] = field(default_factory=dict)
    compile_for: tuple[Target, ...] = ()
    notes: tuple[str, ...] = ()

    def places(self, folder: Path, stem: str) -> list[Path]:
        """Where the compiled files go. UsageError: somebody else's stands there."""
        return [claim(place_of(folder, stem, target)) for target in self.compile_for]


def aim(
    outputs: Sequence[str],
    targets: Sequence[Target],
    *,
    scheme: str | None,
    encoding: str = "auto",
    options: Mapping[FormatName, Mapping[str, str]] | None = None,
) -> Aim:
    """From what is to be written ("ethos-u" among it) and for which targets. What was asked for by name stays.

    Raises:
        UsageError: "ethos-u" without a target that has one.
    """
    npus = tuple(target for target in targets if target.compiler)
    compiled = [name for name in outputs if name in COMPILED_FROM]
    if compiled and not npus:
        raise UsageError(
            f"--to {compiled[0]} needs to know which: no target with one is named", way_out="--target ethos-u55-128"
        )
    wanted = {COMPILED_FROM.get(name, name) for name in outputs}
    formats = tuple(format for format in FORMATS if format in wanted)
    chosen = {format: dict(more) for format, more in (options or {}).items()}
    families = {target.name: runtime.family for target in targets if (runtime := target.runtime(WANTED))}
    small = {name: family for name, family in families.items() if family in STORED}
    if not small or WANTED not in formats:
        return Aim(formats, chosen)
    names = ", ".join(small)
    others = [name for name in families if name not in small]
    if others and not compiled:
        note = f"tflite: stored for {others[0]}; for {names} export it again: --to tflite --target {next(iter(small))}"
        return Aim(formats, chosen, notes=(note,))
    more = chosen.setdefault(WANTED, {})
    notes = []
    if encoding == "auto":
        more["encoding"], why = next(STORED[family] for family in STORED if family in small.values())
        notes.append(f"tflite: {why.format(names)}")
    if scheme == "int8":
        more.setdefault("io", "int8")
    return Aim(formats, chosen, npus if compiled else (), tuple(notes))


def place_of(folder: Path, stem: str, target: Target) -> Path:
    """`model.tflite` compiled for a target: `model.ethos-u55-128.tflite`."""
    return folder / f"{stem}.{target.name}.tflite"


def compile_artifact(artifact: Path, target: Target) -> Artifact:
    """Write what Vela makes of a .tflite file beside it.

    Raises:
        ConversionError: Vela refuses it, or would put nothing on the NPU. MissingDependencyError: no Vela.
    """
    assert target.compiler is not None
    made = vela.compile_for(artifact.read_bytes(), vela.Configuration(**target.compiler.model_dump()), artifact.name)
    if not any(row.on_npu for row in made.rows):
        raise ConversionError(
            f"Vela puts no operator of {artifact.name} on the NPU", way_out="quantize --scheme int8, then export again"
        )
    path = claim(place_of(artifact.parent, artifact.stem, target))
    files.write_bytes(path, made.content)
    left = [row for row in made.rows if not row.on_npu]
    notes = [f"{target.name}: on the CPU: {row.kind} {row.name}: {made.reasons.get(row.name, '')}" for row in left]
    notes.append(
        f"{path.name}: no runtime on this machine computes it; {artifact.name}, which it is made of, is verified"
    )
    return Artifact(path, WANTED, len(made.content), notes=tuple(notes))
