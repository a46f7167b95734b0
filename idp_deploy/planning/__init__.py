"""planning: how a model is to be pruned for a device, answered before training from files pruned by magnitude.

Prices (costs)   what any recipe's files would cost, whoever answers for the target
choose           the way to prune that pays: patterns held against each other, or, where our own estimate answers
                 for a latency, layer by layer (`routes`)
sparsity_for     the least share of zeros by one pattern
"""

from idp_deploy.planning.choosing import Choice, Figures, Way, choose, ways_for
from idp_deploy.planning.costs import Cost, Prices, Shipped, candidates
from idp_deploy.planning.routes import Route, routes
from idp_deploy.planning.sparsity import sparsity_for

__all__ = [
    "Choice", "Cost", "Figures", "Prices", "Route", "Shipped", "Way", "candidates", "choose", "routes", "sparsity_for",
    "ways_for",
]  # fmt: skip
