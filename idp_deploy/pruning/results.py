"""What a pruner answers: where it stands, and the hardened model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from idp_deploy.flow import CompressedModel


@dataclass(frozen=True)
class PruningReport:
    """Where pruning stands. Shares are in [0, 1]."""

    step: int
    phase: str  # dense | ramp | frozen
    prunable: int
    of_all: int  # every parameter of the model
    zeros: int  # entries that are zero, or, while masks are soft, that hardening would set to zero now
    target_zeros: int
    layers: Mapping[str, tuple[int, int]]  # weight name → (zeros now, entries)
    left: Mapping[str, str]  # weight left dense → the reason
    planned: int = 0  # steps of the whole training, as the ramp counts them

    @property
    def sparsity(self) -> float:
        """Zeros now as a share of the prunable weights."""
        return self.zeros / self.prunable


class Finalized(CompressedModel):
    """A `CompressedModel` that also answers as its module does: call it, ask for its `state_dict()`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "module":
            raise AttributeError(name)
        return getattr(self.module, name)


@dataclass(frozen=True)
class Run:
    """One pruning run: its hardened accuracy, and the share of zeros it really has."""

    method: str
    sparsity: float
    seed: int
    accuracy: float
    realised: float
    settings: Mapping[str, Any] = field(default_factory=dict)  # chosen or tried by tuning, over those asked for
