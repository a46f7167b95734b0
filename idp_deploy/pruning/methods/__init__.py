"""METHODS: every pruning method by its one-word name. A new method is a class and a place in this list."""

from idp_deploy.pruning.methods.base import Method, Surroundings
from idp_deploy.pruning.methods.idp import IDP
from idp_deploy.pruning.methods.initialization import GraSP, SynFlow
from idp_deploy.pruning.methods.magnitude import GMP, POFA, L1Channel, Magnitude, Random
from idp_deploy.pruning.methods.phases import ACDC, Lottery
from idp_deploy.pruning.methods.regrowth import GraNet, RigL
from idp_deploy.pruning.methods.scores import LagunasBlock, Movement, OptG, Supermask
from idp_deploy.pruning.methods.straight_through import SRSTE, TopK
from idp_deploy.pruning.methods.thresholds import STR

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        IDP, GMP, STR, GraNet, OptG, ACDC, Movement, POFA, RigL, SRSTE, LagunasBlock, L1Channel, SynFlow, GraSP,
        Supermask, Lottery, Magnitude, TopK, Random,
    )
}  # fmt: skip

__all__ = ["METHODS", "Method", "Surroundings"]
