"""planning: how a model is to be pruned for a device, answered before training from files pruned by magnitude.

Prices (costs)   what any recipe's files would cost, whoever answers for the target
routes           the way that pays: channels, or single weights where the runtime skips them, layer by layer
sparsity_for     the least share of zeros by one pattern
plan             which of the two, and what is expected; afterwards, what was reached
"""

from idp_deploy.planning.aimed import Aimed, plan
from idp_deploy.planning.costs import Cost, Prices, candidates
from idp_deploy.planning.routes import Route, routes
from idp_deploy.planning.sparsity import sparsity_for

__all__ = ["Aimed", "Cost", "Prices", "Route", "candidates", "plan", "routes", "sparsity_for"]
