"""prune: train a model while its weights are pruned; `Pruner` does the same inside anybody's own loop."""

from idp_deploy.pruning.allocation import ALLOCATIONS, allocate
from idp_deploy.pruning.assembling import left_dense
from idp_deploy.pruning.comparing import Comparison, Difference, Run, compare
from idp_deploy.pruning.layers import Layer
from idp_deploy.pruning.methods import METHODS
from idp_deploy.pruning.pruner import Pruner
from idp_deploy.pruning.results import PruningReport
from idp_deploy.pruning.schedule import Schedule, auto_schedule, paper_schedule
from idp_deploy.pruning.selecting import by_reason
from idp_deploy.pruning.training import Progress, one_shot, prune

__all__ = [
    "ALLOCATIONS",
    "METHODS",
    "Comparison",
    "Difference",
    "Layer",
    "Progress",
    "Pruner",
    "PruningReport",
    "Run",
    "Schedule",
    "allocate",
    "auto_schedule",
    "by_reason",
    "compare",
    "left_dense",
    "one_shot",
    "paper_schedule",
    "prune",
]
