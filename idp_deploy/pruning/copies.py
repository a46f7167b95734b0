"""Copies of a model whose masks are still moving: averages (EMA, SWA) that were made by deep copy, and snapshots."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn

from idp_deploy.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")
_SAMPLE = 64  # entries that tell whether a copy has been written to
_WRAPPERS = ("_orig_mod", "module", "ema")  # of torch.compile; DDP, AveragedModel, timm's ModelEma; its first version


class Copy:
    """One weight of a deep copy of the model, for as long as somebody holds it."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weakref.ref(weight)
        self._first = sample(weight)
        self.trains = False
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(self._learned)

    def _learned(self, weight: Tensor) -> None:
        self.trains = True

    def average(self) -> nn.Parameter | None:
        """The weight, if it was written to since and never by a gradient of its own: an average follows the model."""
        weight = self.weight()
        if weight is None or self.trains or torch.equal(sample(weight), self._first.to(weight.dtype)):
            return None
        return weight


def sample(weight: Tensor) -> Tensor:
    """A few entries by which the weight is known again."""
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLE)].to("cpu", copy=True)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, DistributedDataParallel, DataParallel, Lightning's Fabric and Opacus: its
    names are those in files."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
            continue
        opacus = ("_module",) if type(model).__module__.startswith("opacus.") else ()
        held = (getattr(model, name, None) for name in ("_orig_mod", "_forward_module", *opacus))
        inside = next((one for one in held if isinstance(one, nn.Module)), None)
        if inside is None:
            return model
        model = inside


def forget_compiled() -> None:
    """A compiled forward, and a compiled function around one, do not notice that hooks come and go."""
    if "torch._dynamo" in sys.modules:  # or nothing was compiled
        torch.compiler.reset()


def eagerly(method: Callable[P, R]) -> Callable[P, R]:
    """`method` outside of inference mode, and as Python runs it where a compiled function calls it.

    Traced, its numbers would become constants and its selections others than those that were chosen.
    """
    outside = torch.inference_mode(False)(method)

    @wraps(method)
    def call(*given: P.args, **named: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return cast(R, torch.compiler.disable(outside)(*given, **named))
        return outside(*given, **named)

    return call


class PrunerCopy:
    """What is left of a pruner in a deep copy or a pickle: its masks are in the model it was made for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UsageError(
            "this is a copy (deepcopy, pickle) of a Pruner, and the masks stayed in the model that it was made for",
            way_out="save its state_dict(), and load that into another Pruner of the copied model",
        )


def module_of(copy: object) -> nn.Module | None:
    """The module that `copy` is, or that an averaging object holds; None for something else."""
    if isinstance(copy, nn.Module):
        return copy
    return next((held for name in _WRAPPERS if isinstance(held := getattr(copy, name, None), nn.Module)), None)


def counterparts(wanted: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> tuple[str, dict[str, str]]:
    """Where another model or state dict has the weights `wanted`.

    Wrappers put a prefix before every name (`module.`, `_orig_mod.`), and a part of a model lacks one.

    Returns:
        The prefix of the names there, and wanted name → name there.

    Raises:
        UsageError: nowhere, or in several places.

    >>> w = torch.zeros(2, 3)
    >>> counterparts({"net.0.weight": w}, {"module.net.0.weight": w, "module.net.0.bias": torch.zeros(2)})
    ('module.', {'net.0.weight': 'module.net.0.weight'})
    >>> counterparts({"net.0.weight": w}, {"0.weight": w})
    ('', {'net.0.weight': '0.weight'})
    """
    first = next(iter(wanted))
    for cut in _common_prefixes(list(wanted)):
        tail = first.removeprefix(cut)
        prefixes = [name.removesuffix(tail) for name in there if name == tail or name.endswith(f".{tail}")]
        fits = []
        for prefix in prefixes:
            names = {name: prefix + name.removeprefix(cut) for name in wanted}
            if all(n in there and there[n].shape == wanted[name].shape for name, n in names.items()):
                fits.append((prefix, names))
        if len(fits) > 1:
            raise UsageError(
                f"the pruned weights are there {len(fits)} times: under {', '.join(repr(p) for p, _ in fits)}",
                way_out="give the one module that is meant",
            )
        if fits:
            return fits[0]
    shape = tuple(wanted[first].shape)
    raise UsageError(
        f"this is no copy of the pruned model: no weight like '{first}' {shape} is among {', '.join(list(there)[:5])}",
        way_out="give a model of the same architecture, such as ema.module",
    )


def _common_prefixes(names: list[str]) -> list[str]:
    """ "", then what all names have in common before a dot: `a.`, `a.b.`, …"""
    found = [""]
    while True:
        rest = {name.removeprefix(found[-1]).partition(".")[:2] for name in names}
        if len(rest) != 1 or not (part := rest.pop())[1]:
            return found
        found.append(f"{found[-1]}{part[0]}.")
