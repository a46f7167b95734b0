"""planning: how a model is to be pruned for a device, answered before training from files pruned by magnitude."""

from idp_deploy.planning.choosing import Choice, Figures, Way, choose, ways_for
from idp_deploy.planning.costs import Cost, Prices, candidates
from idp_deploy.planning.sparsity import sparsity_for

__all__ = ["Choice", "Cost", "Figures", "Prices", "Way", "candidates", "choose", "sparsity_for", "ways_for"]
