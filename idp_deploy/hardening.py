"""harden: soft masks become exact zeros, and batch norm is measured again where that helps."""

from __future__ import annotations

from copy import deepcopy
from itertools import islice

import torch
from torch import nn

from idp_deploy.errors import UsageError
from idp_deploy.flow import CompressedModel, MaskedModel
from idp_deploy.masks import write_zeros
from idp_deploy.tasks import Task, evaluate, own_randomness, own_threads, to_device
from idp_deploy.waiting import counted

RECALIBRATION_BATCHES = 50
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def harden(masked: MaskedModel, task: Task | None = None) -> CompressedModel:
    """Set exactly `SoftMask.zeros` entries of every masked weight to zero, the smallest; ties keep the first.

    Args:
        masked: left as it is.
        task: with one, the running statistics of batch norm are measured again on its training data, and kept if the
            training score does not fall by it.

    Raises:
        UsageError: a mask for a weight that the module does not have or that cannot be pruned; NaN or inf in a weight.
    """
    if not isinstance(masked, MaskedModel):
        raise UsageError(
            f"{type(masked).__name__} has no soft masks",
            way_out="give what prune() returned; what finalize() and one_shot() return is hard already",
        )
    module = deepcopy(masked.module)
    masks = write_zeros(module, masked.soft_masks)
    if task is not None:
        with own_threads(masked.provenance.threads):  # it ends at the same bytes wherever training was killed
            recalibrate_batch_norm(module, task, masked.recipe.seed)
    return CompressedModel(module, masks, masked.recipe, None, masked.provenance)


def recalibrate_batch_norm(module: nn.Module, task: Task, seed: int = 0) -> bool:
    """Replace running statistics by their mean over training batches, unless the training score falls.

    Returns:
        Whether the new statistics were kept. Random state and the module's mode are as before.
    """
    norms = [m for m in module.modules() if isinstance(m, _BATCH_NORMS) and m.track_running_stats]
    if not norms:
        return False
    device = next(module.parameters()).device
    before = [deepcopy(norm.state_dict()) for norm in norms]
    modes = {m: m.training for m in module.modules()}
    momenta = [norm.momentum for norm in norms]
    with own_randomness(), torch.no_grad():
        held = list(islice(task.train_loader(seed + 1), 8))
        old = evaluate(module, task, batches=held)
        module.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
            norm.train()
        batches = islice(task.train_loader(seed), RECALIBRATION_BATCHES)
        for batch in counted(batches, "measuring batch norms", RECALIBRATION_BATCHES):
            module(*task.inputs(to_device(batch, device)))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        better = evaluate(module, task, batches=held) >= old
    if not better:
        for norm, state in zip(norms, before, strict=True):
            norm.load_state_dict(state)
    for child, training in modes.items():
        child.training = training
    return better
