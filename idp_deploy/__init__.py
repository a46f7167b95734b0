"""Prune, export sparse, prove, simulate and gate PyTorch models for phones and small boards.

The public verbs and nouns, and nothing else. They load on first use, so that importing the package is instant.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from idp_deploy.flow import Shown

if TYPE_CHECKING:
    from idp_deploy.flow import (
        Artifact,
        Budget,
        CompressedModel,
        Contents,
        Estimate,
        MaskedModel,
        Model,
        Parity,
        Recipe,
        Report,
    )
    from idp_deploy.gating import gate
    from idp_deploy.hardening import harden
    from idp_deploy.inspection import inspect
    from idp_deploy.loading import load_checkpoint, load_model, load_task, save_checkpoint
    from idp_deploy.pruning import Pruner
    from idp_deploy.reading import read
    from idp_deploy.shrinking import shrink
    from idp_deploy.simulation.targets import load_target
    from idp_deploy.tasks import Task
    from idp_deploy.verbs import (
        check,
        compare,
        deploy,
        diff,
        export,
        one_shot,
        prune,
        quantize,
        render,
        restore,
        simulate,
        targets,
        verify,
    )

# module → the names that come from it
_ROOMS = {
    "flow": (
        "Artifact", "Budget", "CompressedModel", "Contents", "Estimate", "MaskedModel", "Model", "Parity", "Recipe",
        "Report",
    ),
    "gating": ("gate",),
    "hardening": ("harden",),
    "inspection": ("inspect",),
    "loading": ("load_checkpoint", "load_model", "load_task", "save_checkpoint"),
    "pruning": ("Pruner",),
    "reading": ("read",),
    "shrinking": ("shrink",),
    "simulation.targets": ("load_target",),
    "tasks": ("Task",),
    "verbs": (
        "check", "compare", "deploy", "diff", "export", "one_shot", "prune", "quantize", "render", "restore",
        "simulate", "targets", "verify",
    ),
}  # fmt: skip
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "Artifact",
    "Budget",
    "CompressedModel",
    "Contents",
    "Estimate",
    "MaskedModel",
    "Model",
    "Parity",
    "Pruner",
    "Recipe",
    "Report",
    "Task",
    "check",
    "compare",
    "deploy",
    "diff",
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
    "render",
    "restore",
    "save_checkpoint",
    "shrink",
    "simulate",
    "targets",
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


def _page(result: object) -> str:
    """What a notebook shows of a result."""
    page: str = import_module("idp_deploy.rendering.results").page_of(result)
    return page


Shown.page = staticmethod(_page)
