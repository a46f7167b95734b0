"""planning: how a model is to be pruned for a device, answered before training from files pruned by magnitude."""

from idp_deploy.planning.costs import Cost, Prices, candidates
from idp_deploy.planning.sparsity import sparsity_for

__all__ = ["Cost", "Prices", "candidates", "sparsity_for"]
