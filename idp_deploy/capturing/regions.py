"""Regions of a traced graph that a context manager makes: autocast switched off, gradients switched on.

torch.export keeps such a region as one operator that calls a graph of its own, in which converters and proofs see
neither operators nor weights. What the context manager asks for holds in every file anyway: its body takes its place.
"""

from __future__ import annotations

from functools import partial

import torch
import torch._higher_order_ops.wrap  # what registers the operators below, in every release
from torch import fx

from idp_deploy.capturing.lifting import attribute, inline
from idp_deploy.errors import ConversionError

_AUTOCAST = torch.ops.higher_order.wrap_with_autocast
_BEFORE_BODY = {_AUTOCAST: 4, torch.ops.higher_order.wrap_with_set_grad_enabled: 1}  # arguments: device, dtype, …


def inline_regions(module: fx.GraphModule) -> None:
    """Put the operators of every region in its place, in place.

    Raises:
        ConversionError: autocast is switched on inside the model, which no file says.
    """
    while regions := [node for node in module.graph.nodes if node.target in _BEFORE_BODY]:
        for region in regions:
            _inline(module, region)
    module.graph.lint()
    module.recompile()


def _inline(module: fx.GraphModule, region: fx.Node) -> None:
    before = _BEFORE_BODY[region.target]  # type: ignore[index]
    settings, (held, *operands) = region.args[:before], region.args[before:]
    if (
        region.target is _AUTOCAST and settings[0] == "cpu" and settings[2]
    ):  # where capture runs; of no effect elsewhere
        raise ConversionError(
            f"the model's forward switches autocast on (torch.autocast({settings[0]!r}, {settings[1]})): "
            "a file has one precision for the whole model",
            way_out="take autocast out of forward (accelerate's: accelerator.unwrap_model(model, "
            "keep_fp32_wrapper=False)), and choose the file's precision at export or by quantize",
        )
    assert isinstance(held, fx.Node)
    body = attribute(module, str(held.target))
    results, _ = inline(module, region, body, operands, str(held.target), partial(setattr, module))
    for user in list(region.users):  # getitem: a region returns a tuple
        user.replace_all_uses_with(results[user.args[1]])
        module.graph.erase_node(user)
    module.graph.erase_node(region)
    if not held.users:
        module.graph.erase_node(held)
        module.delete_submodule(str(held.target))
