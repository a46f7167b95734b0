"""Prune, export sparse, prove, simulate and gate PyTorch models for phones and small boards.

The public verbs and nouns, and nothing else. They load on first use, so that importing the package is instant.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idp_deploy.exporting import export
    from idp_deploy.flow import Artifact, Budget, CompressedModel, Contents, Estimate, Model, Parity, Recipe, Report
    from idp_deploy.gating import gate
    from idp_deploy.hardening import harden
    from idp_deploy.inspection import inspect
    from idp_deploy.loading import load_checkpoint, load_model, load_task, save_checkpoint
    from idp_deploy.pipeline import deploy
    from idp_deploy.pruning import Pruner, one_shot, prune
    from idp_deploy.quantization import quantize
    from idp_deploy.reading import read
    from idp_deploy.shrinking import shrink
    from idp_deploy.simulation import simulate
    from idp_deploy.simulation.targets import load_target
    from idp_deploy.tasks import Task
    from idp_deploy.verification import verify

_HOMES = {
    **dict.fromkeys(
        ("Artifact", "Budget", "CompressedModel", "Contents", "Estimate", "Model", "Parity", "Recipe", "Report"), "flow"
    ),
    **dict.fromkeys(("load_checkpoint", "load_model", "load_task", "save_checkpoint"), "loading"),
    **dict.fromkeys(("Pruner", "one_shot", "prune"), "pruning"),
    "Task": "tasks",
    "deploy": "pipeline",
    "export": "exporting",
    "gate": "gating",
    "harden": "hardening",
    "inspect": "inspection",
    "load_target": "simulation.targets",
    "quantize": "quantization",
    "read": "reading",
    "shrink": "shrinking",
    "simulate": "simulation",
    "verify": "verification",
}

__all__ = [
    "Artifact",
    "Budget",
    "CompressedModel",
    "Contents",
    "Estimate",
    "Model",
    "Parity",
    "Pruner",
    "Recipe",
    "Report",
    "Task",
    "deploy",
    "export",
    "gate",
    "harden",
    "inspect",
    "load_checkpoint",
    "load_model",
    "load_target",
    "load_task",
    "one_shot",
    "prune",
    "quantize",
    "read",
    "save_checkpoint",
    "shrink",
    "simulate",
    "verify",
]


# Libraries below report home unless told not to before they are imported: here, before any import of theirs, and for
# every child process. What the user has set stands.
for _name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_name, "1")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'idp_deploy' has no attribute {name!r}")
    return getattr(import_module(f"idp_deploy.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
