"""Batch norm absorbed into the layer before it, so that what exporters fold is what was quantized."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from idp_deploy.capturing import Captured
from idp_deploy.capturing.lifting import attribute


@torch.no_grad()
def absorb_batch_norm(captured: Captured, module: nn.Module) -> set[str]:
    """Move each foldable norm's scale into the weight before it, in place; returns the weights where that failed."""
    graph, biases = captured.module.graph, biases_of(captured)
    still_used = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    norms = Counter(gamma_name for _, gamma_name in captured.folded)
    failed = set()
    for weight_name, gamma_name in captured.folded:
        owner = owner_of(module, gamma_name)
        shared = norms[gamma_name] > 1 or gamma_name in still_used
        if not isinstance(owner, _BatchNorm) or shared or owner.bias is None:
            failed.add(weight_name)
            continue
        shift = biases[weight_name]
        bias = _bias_beside(module, weight_name)
        owner.bias.copy_(shift if bias is None else shift - bias)
        assert owner.weight is not None and owner.running_mean is not None and owner.running_var is not None  # noqa: PT018
        owner.weight.fill_(1.0)
        owner.running_mean.zero_()
        owner.running_var.fill_(1.0 - owner.eps)
        attribute(module, weight_name).copy_(attribute(captured.module, weight_name))
    return failed


def biases_of(captured: Captured) -> dict[str, Tensor]:
    """Weight name → the bias of its layer, batch norm folded in."""
    found = {}
    for node in captured.module.graph.nodes:
        read = [str(a.target) if isinstance(a, fx.Node) and a.op == "get_attr" else "" for a in node.args[:3]]
        if node.op == "call_function" and len(read) == 3 and read[1] and read[2]:
            found[read[1]] = attribute(captured.module, read[2])
    return found


def _bias_beside(module: nn.Module, weight_name: str) -> Tensor | None:
    return getattr(owner_of(module, weight_name), "bias", None)


def owner_of(module: nn.Module, parameter_name: str) -> nn.Module | None:
    """The module that holds a parameter; None for the empty name of a norm without parameters."""
    return module.get_submodule(parameter_name.rpartition(".")[0]) if parameter_name else None
