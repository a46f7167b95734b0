"""What `simulate` is asked: files, each read once, on devices, and how they run there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from idp_deploy.errors import FileError
from idp_deploy.flow import Contents, FormatName
from idp_deploy.formats import suffixes
from idp_deploy.formats.linting import lint
from idp_deploy.formats.sparse_kernels import SparseLint
from idp_deploy.reading import read
from idp_deploy.simulation import descriptions
from idp_deploy.simulation.architectures import architecture
from idp_deploy.simulation.targets import Target
from idp_deploy.simulation.work import Workload
from idp_deploy.simulation.workload import workload


@dataclass(frozen=True)
class Loaded:
    """A file read once, for as many targets and questions as there are."""

    path: Path
    format: FormatName
    work: Workload
    lint: SparseLint | None
    contents: Contents | None = None  # None for a description


def load(artifact: Path | Contents) -> Loaded:
    """Read a model file or a description. FileError: it is broken, or neither by its suffix."""
    if isinstance(artifact, Path) and artifact.suffix.lower() in descriptions.SUFFIXES:
        work, format_name = descriptions.read_description(artifact, architecture)
        return Loaded(artifact, format_name, work, None)
    if isinstance(artifact, Path) and artifact.exists() and artifact.suffix.lower() not in suffixes():
        known_suffixes = ", ".join((*suffixes(), *descriptions.SUFFIXES))
        raise FileError(
            f"{artifact} is neither a model nor a description of one by its suffix",
            way_out=f"expected one of {known_suffixes}",
        )
    contents = read(artifact) if isinstance(artifact, Path) else artifact
    return Loaded(contents.path, contents.format, workload(contents), lint(contents), contents)


@dataclass(frozen=True, eq=False)
class Question:
    """Files on devices."""

    files: Sequence[Loaded]
    devices: Sequence[Target]
    runtime: str | None = None  # the target's own for the format by default
    threads: int = 1
    anchor: Mapping[str, float] | None = None  # latencies that were measured on the device, by model

    @property
    def pairs(self) -> Iterator[tuple[Loaded, Target]]:
        """Every file on every device."""
        return ((file, device) for file in self.files for device in self.devices)
