"""METHODS: every pruning method by its one-word name. A new method is a class and a row here."""

from idp_deploy.pruning.methods.base import Method
from idp_deploy.pruning.methods.idp import IDP
from idp_deploy.pruning.methods.magnitude import GMP, Magnitude

METHODS: dict[str, type[Method]] = {
    "idp": IDP,
    "gmp": GMP,
    "magnitude": Magnitude,
}

__all__ = ["METHODS", "Method"]
