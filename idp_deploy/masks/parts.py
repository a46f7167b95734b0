"""Modules that compute a weight anew from parts at each call: weight norm, spectral norm, masks, parametrizations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from idp_deploy.errors import UsageError

APART = 0  # in deepcopy's memo, whose keys are numbers: the copy is no average, whatever is written to it
_OBJECTS = "keep such objects out of the module"
_SHARDED = "save_checkpoint(sparse, 'model.pt') puts a sharded model together: export that file, with --model"


def in_parts(module: nn.Module) -> dict[str, str]:
    """Name of every weight that `module` computes from parts → the call that makes it one piece.

    >>> in_parts(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), nn.Linear(2, 2)))
    {'0.weight': "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"}
    """
    found: dict[str, str] = {}
    for path, owner in module.named_modules():
        if parametrize.is_parametrized(owner):
            for leaf in owner.parametrizations:  # type: ignore[union-attr]
                call = f"torch.nn.utils.parametrize.remove_parametrizations(layer, '{leaf}')"
                found[f"{path}.{leaf}".lstrip(".")] = call
        for leaf, row in _hooks(owner):
            found[f"{path}.{leaf}".lstrip(".")] = f"torch.nn.utils.{row.call}(layer, '{leaf}')"
    return found


def copied(module: nn.Module) -> nn.Module:
    """A deep copy, also of what torch refuses to copy: weights that the last call computed from others.

    Raises:
        UsageError: something in it cannot be copied, such as a lock, an open file or a part of a sharded model.
    """
    computed = [v for part in module.modules() for v in vars(part).values() if isinstance(v, Tensor) and not v.is_leaf]
    try:
        return deepcopy(module, {APART: True, **{id(value): value.detach().clone() for value in computed}})
    except Exception as error:  # whatever an object says to it
        way_out = _SHARDED if "FSDP" in str(error) else _OBJECTS
        raise UsageError(f"the model cannot be copied: {error}", way_out=way_out) from error


def whole_copy(module: nn.Module) -> nn.Module:
    """A deep copy in which every weight is one piece; its mode is that of `module`."""
    copy = copied(module)
    modes = {part: part.training for part in copy.modules()}
    for part in modes:
        if parametrize.is_parametrized(part):  # its class is the original's too, and torch takes the weight out of it
            kind = type(part)
            part.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
    if in_parts(copy):
        join_in(copy)
        for part, training in modes.items():
            part.training = training
    return copy


def join_in(module: nn.Module) -> list[str]:
    """Give every weight that `module` computes from parts its present value, in place, as torch's own functions do.

    Returns:
        The names of those weights.

    Raises:
        UsageError: a parametrization fails.
    """
    module.eval()  # a spectral norm goes on iterating in training
    found: list[str] = []
    for path, owner in list(module.named_modules()):
        if parametrize.is_parametrized(owner):
            for leaf in list(owner.parametrizations):  # type: ignore[arg-type]
                name = f"{path}.{leaf}".lstrip(".")
                try:
                    _remove_parametrizations(owner, leaf)
                except Exception as error:  # whatever the code of others says
                    raise UsageError(
                        f"'{name}' is computed from others, and that fails with {type(error).__name__}: {error}",
                        way_out="let its parametrization compute it on this machine, or take it off before",
                    ) from error
                found.append(name)
        for leaf, row in list(_hooks(owner)):
            row.remove(owner, leaf)
            found.append(f"{path}.{leaf}".lstrip("."))
    parameters = dict(module.named_parameters(remove_duplicate=False))
    whole = [name for name in dict.fromkeys(found) if name in parameters]  # parts of parts are gone by now
    with torch.no_grad():
        for name in whole:
            parameters[name].add_(0.0)  # a mask's product leaves −0.0
    return whole


def _remove_parametrizations(owner: nn.Module, leaf: str) -> None:
    parts = list(owner.parametrizations[leaf].parameters(recurse=False))  # type: ignore[index, union-attr]
    parametrize.remove_parametrizations(owner, leaf, leave_parametrized=True)
    weight = owner._buffers.pop(leaf) if parts and leaf in owner._buffers else None
    if weight is not None:  # so torch keeps a weight of frozen parts, or one joined under no_grad
        setattr(owner, leaf, nn.Parameter(weight, any(part.requires_grad for part in parts)))


def _remove_spectral_norm(owner: nn.Module, leaf: str) -> None:
    remove_spectral_norm(owner, leaf)
    for key, hook in list(owner._load_state_dict_pre_hooks.items()):  # torch leaves this one, and it wants the parts
        if isinstance(getattr(hook, "hook", hook), SpectralNormLoadStateDictPreHook):
            del owner._load_state_dict_pre_hooks[key]


@dataclass(frozen=True)
class _Hook:
    """What takes a hook out of a layer for good, and its name in torch.nn.utils."""

    remove: Callable[[nn.Module, str], object]
    call: str


_HOOKS: Mapping[type, _Hook] = {
    WeightNorm: _Hook(remove_weight_norm, "remove_weight_norm"),
    SpectralNorm: _Hook(_remove_spectral_norm, "remove_spectral_norm"),
    prune.BasePruningMethod: _Hook(prune.remove, "prune.remove"),
}


def _hooks(owner: nn.Module) -> Iterator[tuple[str, _Hook]]:
    """(attribute, its row) of the weights that `owner` itself joins; the last one works on the parts of others."""
    for hook in reversed(list(owner._forward_pre_hooks.values())):
        for kind, row in _HOOKS.items():
            if isinstance(hook, kind):
                yield getattr(hook, "name", None) or hook._tensor_name, row  # type: ignore[attr-defined]
