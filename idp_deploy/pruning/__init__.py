"""prune: train a model while its weights are pruned; `Pruner` does the same inside anybody's own loop."""

from idp_deploy.pruning.allocation import ALLOCATIONS, Layer, allocate
from idp_deploy.pruning.methods import METHODS
from idp_deploy.pruning.pruner import Pruner, PruningReport
from idp_deploy.pruning.schedule import Schedule, auto_schedule, paper_schedule
from idp_deploy.pruning.training import Progress, one_shot, prune

__all__ = [
    "ALLOCATIONS",
    "METHODS",
    "Layer",
    "Progress",
    "Pruner",
    "PruningReport",
    "Schedule",
    "allocate",
    "auto_schedule",
    "one_shot",
    "paper_schedule",
    "prune",
]
