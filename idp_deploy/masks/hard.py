"""From soft masks to exact zeros in a module's own weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from idp_deploy.errors import UsageError
from idp_deploy.flow import SoftMask
from idp_deploy.masks.patterns import parse_pattern
from idp_deploy.masks.prunable import prunable_weights


@torch.no_grad()
def write_zeros(module: nn.Module, soft_masks: Mapping[str, SoftMask]) -> dict[str, Tensor]:
    """Set exactly `SoftMask.zeros` entries of every weight to zero, in place; ties keep the first.

    Returns:
        Bool masks by name, True = kept.

    Raises:
        UsageError: a mask for a weight that the module does not have or that cannot be pruned; NaN or inf in a weight.
    """
    known = prunable_weights(module, embeddings=True, matrices=True)
    masks: dict[str, Tensor] = {}
    for name, soft in soft_masks.items():
        if name not in known:
            raise UsageError(
                f"there is a mask for '{name}', which is no prunable weight of this model",
                way_out=f"its prunable weights are {', '.join(list(known)[:8])}",
            )
        weight = module.get_parameter(name)
        if not torch.isfinite(weight).all():
            raise UsageError(f"weight '{name}' holds NaN or infinite values", way_out="check the checkpoint")
        # trained on a frozen mask already, whose zeros are there: a floor would trade a weight for a zero
        frozen = int((weight == 0).sum()) >= soft.zeros
        mask = parse_pattern(soft.pattern).hard_mask(weight, soft.zeros, known[name].output_axis, floor=not frozen)
        weight.copy_(torch.where(mask, weight, torch.zeros_like(weight)))
        masks[name] = mask
    return masks
