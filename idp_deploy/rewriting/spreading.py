"""Copies along an axis that are there only to meet another tensor's extents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from idp_deploy.rewriting.spelling import replace

aten = torch.ops.aten

SPREADING = {aten.expand.default, aten.expand_as.default, aten.broadcast_to.default}
_IMAGE = 4


def spread_out(x: Tensor, shape: Sequence[int]) -> Tensor:
    """`x.expand(shape)`, one axis after the other."""
    now = [1] * (len(shape) - x.dim()) + list(x.shape)
    for axis, extent in enumerate(shape):
        if now[axis] != extent and extent != -1:
            now[axis] = extent
            before, after = math.prod(now[:axis]), math.prod(now[axis + 1 :])
            x = x.reshape(before, 1, after).expand(before, extent, after)
    return x.reshape(now)


def leave_spreading_to_operators(module: fx.GraphModule) -> None:
    """Take copies along an axis out, in place, where what reads them spreads by itself; of images spell out the others.

    litert-torch copies other axes of a channel-last image than told.
    """
    for node in [node for node in module.graph.nodes if node.target in SPREADING]:
        source, shape = node.args[0], node.meta["val"].shape
        for user in list(node.users):
            others = [other for other in user.all_input_nodes if other is not node and "val" in other.meta]
            entrywise = torch.Tag.pointwise in getattr(user.target, "tags", ())
            if entrywise and any(getattr(other.meta["val"], "shape", None) == shape for other in others):
                user.replace_input_with(node, source)
        if node.users and source.meta["val"].dim() == _IMAGE and len(shape) == _IMAGE:
            replace(module, node, lambda x, *_, shape=shape, **__: spread_out(x, shape))
    module.graph.eliminate_dead_code()
    module.recompile()
