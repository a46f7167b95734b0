"""A batch of one, which a program with a free batch need not know: torch.export assumes two at least."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree


def holds_for_one(module: nn.Module, program: ExportedProgram, inputs: tuple[Any, ...]) -> bool:
    """Whether a program with a free batch computes what the module does of one sample.

    Of a size that is free torch.export 2.13 takes `size > 1` for true and keeps no trace of having asked.
    """
    one = _pytree.tree_map(lambda x: x[:1].clone() if isinstance(x, Tensor) and x.dim() else x, inputs)
    held = {id(parameter): parameter for parameter in module.parameters()}
    drawn = torch.random.get_rng_state()  # whoever draws numbers draws the same ones twice
    try:
        wanted = deepcopy(module, held)(*deepcopy(one))  # what it writes into is a copy, its weights are not
    except Exception:  # it takes no batch of one, of which then nothing can be wrong
        return True
    torch.random.set_rng_state(drawn)
    try:
        found = program.module(check_guards=False)(*one)
    except Exception:  # whatever it stops at: the module did not
        return False
    pairs = list(zip(_pytree.tree_leaves(wanted), _pytree.tree_leaves(found), strict=False))
    return all(_is_near(a, b) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor))


def _is_near(wanted: Tensor, found: Tensor) -> bool:
    if wanted.shape != found.shape:
        return False
    if not wanted.is_floating_point():
        return torch.equal(wanted, found.to(wanted.dtype))
    largest = wanted.nan_to_num(0, 0, 0).abs().max().item() if wanted.numel() else 0.0
    return torch.allclose(wanted, found.to(wanted.dtype), rtol=1e-3, atol=1e-4 * largest, equal_nan=True)
