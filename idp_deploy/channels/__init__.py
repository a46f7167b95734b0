"""Which channels of a network are one, and what is left of it without some of them."""

from idp_deploy.channels.coupling import Coupled, couple
from idp_deploy.channels.cutting import cut, dead_channels

__all__ = ["Coupled", "couple", "cut", "dead_channels"]
