"""randomness: a forward that draws random numbers in eval mode has no right answer that a file could agree with."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from idp_deploy.capturing import Captured, module_of
from idp_deploy.errors import ConversionError


def refuse_random(captured: Captured) -> None:
    """ConversionError where forward draws random numbers in eval mode: no file can be compared with such a model."""
    for node in captured.module.graph.nodes:
        if node.op == "call_function" and node.users and _draws(node):
            leaf = str(node.target).removeprefix("aten.").partition(".")[0]
            raise ConversionError(
                f"the model gives two answers for one input: its forward draws random numbers by {leaf!r}"
                f"{module_of(str(node.target), captured)} in eval mode",
                way_out="give dropout training=self.training, and take other random numbers as an input",
            )


def _draws(node: fx.Node) -> bool:
    """Whether the result is random: dropout is not where it is off."""
    target: Any = node.target
    if torch.Tag.nondeterministic_seeded not in getattr(target, "tags", ()):
        return False
    declared = target._schema.arguments
    given = {a.name: a.default_value for a in declared} | dict(zip((a.name for a in declared), node.args, strict=False))
    given |= node.kwargs
    switches = [given[name] for name in ("train", "training") if name in given]
    shares = [given[name] for name in ("dropout", "dropout_p", "p") if isinstance(given.get(name), int | float)]
    return False not in switches and 0 not in shares
