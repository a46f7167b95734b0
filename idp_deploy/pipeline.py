"""deploy: the verbs composed, from a trained model to a gated report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idp_deploy import files
from idp_deploy.errors import ConversionError, IdpDeployError, UsageError
from idp_deploy.flow import Artifact, Budget, CompressedModel, Contents, FormatName, Parity, Report
from idp_deploy.formats import FORMATS
from idp_deploy.formats.external_data import remove_data
from idp_deploy.gating import Evidence, gate, pairs
from idp_deploy.ownership import claim, set_aside
from idp_deploy.reading import read

if TYPE_CHECKING:
    from idp_deploy.exporting import Conversion
    from idp_deploy.flow import Model, Recipe
    from idp_deploy.tasks import Task

Announce = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Deployment:
    """What a run leaves behind."""

    compressed: CompressedModel
    checkpoint: Path
    artifacts: tuple[Artifact, ...]
    report: Report


def deploy(
    model: Model,
    task: Task,
    recipe: Recipe,
    *,
    folder: Path,
    stem: str = "model",
    formats: Sequence[FormatName],
    targets: Sequence[str],
    budgets: Sequence[Budget] = (),
    scheme: str | None = None,
    encoding: str = "auto",
    options: Mapping[FormatName, Mapping[str, Any]] | None = None,
    progress: Any = None,
    announce: Announce = lambda _: None,
) -> Deployment:
    """Prune, harden, remove channels if that was pruned, quantize if asked, export, verify, simulate and gate.

    Args:
        folder: where `<stem>.pruned.pt` and the exported files go.
        targets: device names to simulate beside those that `budgets` name.
        options: for each format what its exporter alone takes (`precision`, `io`).
        announce: told each stage as it begins.
    """
    from idp_deploy.hardening import harden
    from idp_deploy.loading import save_checkpoint
    from idp_deploy.pruning import prune
    from idp_deploy.quantization import quantize
    from idp_deploy.shrinking import shrink_as_asked
    from idp_deploy.simulation import simulate
    from idp_deploy.simulation.targets import load_target
    from idp_deploy.tasks import evaluate

    checkpoint = final = claim(folder / f"{stem}.pruned.pt")
    if scheme:
        final = claim(folder / f"{stem}.pruned.{scheme}.pt")
    claim_artifacts(folder, final.stem, formats)
    devices = {name: load_target(name) for name in dict.fromkeys([*targets, *(b.target for b in budgets)])}
    dense = evaluate(model.module, task)
    announce(f"pruning to {recipe.sparsity:.0%} zeros with {recipe.method}")
    compressed = harden(prune(model, task, recipe, progress=progress), task)
    pruned = compressed
    accuracy = {"dense": dense, "hardened": evaluate(compressed.module, task)}
    compressed, reason = shrink_as_asked(compressed, task.example_inputs())
    if reason:
        announce(f"channels stay where they are, as zeros: {reason}")
    save_checkpoint(compressed, checkpoint)
    if scheme:
        announce(f"quantizing to {scheme}")
        compressed = quantize(compressed, scheme, task=task)
        accuracy[scheme] = evaluate(compressed.module, task)
        checkpoint = final
        save_checkpoint(compressed, checkpoint)
    seen: dict[Path, Contents] = {}
    artifacts, parities = export_and_verify(
        *(compressed, task.example_inputs(), folder, checkpoint.stem, formats, encoding, task, announce, options),
        contents=seen,
    )
    announce("simulating")
    contents = list(seen.values())
    evidence = [
        Evidence(one, simulate(one, device), parities[one.path])
        for one, device in pairs(contents, list(devices.values()), budgets)
    ]
    facts = {
        "metric": task.metric_name,
        "accuracy": accuracy,
        "zeros": pruned.zeros,
        "prunable": pruned.prunable,
        "parameters": sum(p.numel() for p in compressed.module.parameters()),
        "dense_bytes": {str(one.path): one.dense_bytes for one in contents},
    }
    report = replace(gate(budgets, evidence, strict=True), facts=facts)
    return Deployment(compressed, checkpoint, tuple(artifacts), report)


def claim_artifacts(folder: Path, stem: str, formats: Sequence[FormatName]) -> list[Path]:
    """Where the files go, one a format: asked before training or converting, not after.

    Raises:
        UsageError: `folder` is a file, or what stands at one of the places is somebody else's.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"{folder} is no folder, and the files go into one", way_out="name another one")
    return [claim(folder / f"{stem}{FORMATS[format].suffix}") for format in formats]


def export_and_verify(
    model: CompressedModel,
    example_inputs: tuple[Any, ...],
    folder: Path,
    stem: str,
    formats: Sequence[FormatName],
    encoding: str = "auto",
    task: Task | None = None,
    announce: Announce = lambda _: None,
    options: Mapping[FormatName, Mapping[str, Any]] | None = None,
    refused: dict[FormatName, IdpDeployError] | None = None,
    contents: dict[Path, Contents] | None = None,
) -> tuple[list[Artifact], dict[Path, Parity]]:
    """Write `<folder>/<stem>.<suffix>` in every format, once the file agrees with the model.

    A file that does not agree goes to `<folder>/rejected/` and leaves an earlier one in its place untouched.

    Args:
        refused: takes the reason of every format that cannot be written, so that the others are; without it the
            first reason is raised.
        contents: takes what was read of every file, so that nobody need read it again.

    Raises:
        UsageError: a file or folder of somebody else's stands at one of the places.
    """
    from idp_deploy.capturing import traced_once
    from idp_deploy.exporting import convert
    from idp_deploy.verification import verify

    artifacts, parities = [], {}
    claim_artifacts(folder, stem, formats)
    folder.mkdir(parents=True, exist_ok=True)
    with traced_once():
        for format in formats:
            name = f"{stem}{FORMATS[format].suffix}"
            with files.workspace(folder) as stage, refusals_of(format, refused):
                announce(f"exporting to {format}")
                made, more = stage / name, (options or {}).get(format, {})
                conversion = convert(model, format, example_inputs, encoding=encoding, **more)
                announce(f"verifying {name}")
                check = partial(verify, model=model, example_inputs=example_inputs, task=task)
                artifact, found, parity = _checked(conversion, made, check)
                home = folder if parity.passed else set_aside(folder)
                parts = sorted(stage.iterdir(), key=lambda part: part.name == name)
                for part in parts:  # the file itself last: an ONNX file may have its weights beside it
                    files.move(part, home / part.name)
                remove_data(home / name, keep=[part.name for part in parts])
                artifacts.append(replace(artifact, path=home / name))
                parities[home / name] = replace(parity, artifact=replace(parity.artifact, path=home / name))
                if contents is not None:
                    contents[home / name] = replace(found, path=home / name)
    return artifacts, parities


def _checked(
    conversion: Conversion, made: Path, check: Callable[[Contents], Parity]
) -> tuple[Artifact, Contents, Parity]:
    """The file at `made`, what is read of it and how it agrees with the model.

    It is run by `check` alone; where it fails there, a format that can is asked for a form that its runtimes take.
    """
    from idp_deploy.exporting import store

    def attempt(proved: bool) -> tuple[Artifact, Contents, Parity]:
        artifact = store(conversion, made, proved=proved)
        contents = read(made)
        return artifact, contents, check(contents)

    if not FORMATS[conversion.format].prove:
        return attempt(proved=False)
    with suppress(IdpDeployError):
        found = attempt(proved=False)
        if found[2].passed:
            return found
    return attempt(proved=True)


@contextmanager
def refusals_of(format: FormatName, refused: dict[FormatName, IdpDeployError] | None) -> Iterator[None]:
    """Note what stops a format in `refused` and go on; without that, it is raised as it is."""
    try:
        yield
    except IdpDeployError as error:
        if refused is None:
            raise
        refused[format] = error
    except Exception as error:  # whatever a converter stumbles over takes no other format along
        if refused is None:
            raise
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        refused[format] = ConversionError(
            f"unexpected {type(error).__name__}: {first}", way_out=f"run again with --to {format} --debug"
        )
