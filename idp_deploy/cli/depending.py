"""What each stage of a configured run depends on: contents, keys of the configuration, code, versions."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from idp_deploy.cli.session import Session
from idp_deploy.formats import FORMATS
from idp_deploy.history import Stage
from idp_deploy.history.fingerprints import Digests, code_of, distributions, versions
from idp_deploy.simulation.targets import data_files
from idp_deploy.stages import EXPORT, GATE, PRUNE, QUANTIZE, Plan

# distributions whose release can change what a stage computes; of an export, those of its format come on top
_TRAINS = ("idp-deploy", "torch", "numpy", "accelerate", "torch-pruning")
_WRITES = ("idp-deploy", "torch")


def stages_of(session: Session, plan: Plan, weights: Path, digests: Digests) -> list[Stage]:
    """The stages of a run with their inputs, in order. No code of the user's is run or imported."""
    settings, device = session.configuration, session.device_name
    code = _code(session, digests)
    names = {"model": session.factory, "task": session.task_spec, "inputs": list(session.inputs)}
    prune = {f"prune.{key}": value for key, value in settings.prune.model_dump(by_alias=True).items()}
    devices = [device] if device else []
    planned: dict[str, Any] = {**_budgets(session, device), **_devices(devices, digests)} if device else {}
    planned |= {"quantize.scheme": plan.scheme} if device else {}
    inputs: dict[str, dict[str, Any]] = {
        PRUNE: {
            f"weights {_short(weights)}": digests.of(weights),
            "weights-key": session.weights_key,
            **names,
            **prune,
            **planned,
            **code,
            **versions(_TRAINS),
        },
        QUANTIZE: {
            "quantize.scheme": plan.scheme,
            "quantize.values": plan.values,
            "quantize.float": list(plan.keep_float) or None,
            **names,
            **code,
            **versions(_WRITES),
        },
        GATE: {
            "output": str(plan.folder.absolute()),
            "export.to": list(plan.formats),
            "targets": list(plan.targets),
            **_budgets(session),
            **_devices([*plan.targets, *settings.budgets], digests),
            **versions(["idp-deploy"]),
        },
    }
    for format in plan.formats:
        inputs[EXPORT.format(format)] = {
            "export.encoding": plan.encoding,
            **{f"export.{key}": value for key, value in plan.options.get(format, {}).items()},
            **names,
            **code,
            **versions([*_WRITES, *FORMATS[format].packages]),
        }
    checkpoint = QUANTIZE if plan.scheme else PRUNE
    after = {PRUNE: (), QUANTIZE: (PRUNE,), GATE: plan.names[:-1]}
    return [
        Stage(name, inputs[name], after.get(name, (checkpoint,)), plan.outputs(name), runs_code=name != GATE)
        for name in plan.names
    ]


def labels(stage: Stage) -> list[str]:
    """The inputs of a stage in short: its files, tables of the configuration in place of their keys, packages."""
    short = (
        f"{name.partition('.')[0]}.*" if name.startswith(("prune.", "budgets.")) else name for name in stage.inputs
    )
    return [f"'{before}'" for before in stage.after] + list(dict.fromkeys(short))


def _code(session: Session, digests: Digests) -> dict[str, str]:
    specs = [spec for spec in (session.factory, session.task_spec, *session.inputs) if spec and ":" in spec]
    found = code_of(specs)
    return {f"code {_short(path)}": digests.of(path) for path in found.files} | versions(distributions(found.packages))


def _budgets(session: Session, target: str | None = None) -> dict[str, str | float]:
    return {
        f"budgets.{name}.{format}.{metric}": limit
        for name, formats in session.configuration.budgets.items()
        if target in (None, name)
        for format, limits in formats.items()
        for metric, limit in limits.items()
    }


def _devices(names: Iterable[str], digests: Digests) -> dict[str, str]:
    return {f"device data {path.name}": digests.of(path) for path in data_files(names)}


def _short(path: Path) -> str:
    """Relative to the working folder where it lies in there."""
    whole = Path(os.path.abspath(path))
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else str(path)
