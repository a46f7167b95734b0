"""Whether a model's numbers are numbers: NaN, inf and negative variances by tensor and index, before they travel on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.ledger import refuse_integers, refuse_otherwise

WAY_OUT = "train again from before they appeared"
_STATISTICS = ("running_mean", "running_var")


def fault(module: nn.Module, by_design: Collection[str]) -> str:
    """The first tensor of `module` that holds what cannot be computed with, in words; "" where there is none.

    Args:
        by_design: tensors that may hold infinities, as additive masks do.

    >>> layer = nn.Linear(2, 1)
    >>> _ = layer.weight.data.fill_(float("nan"))
    >>> fault(layer, ())
    "weight 'weight' has values that are not finite, the first nan at [0, 0]"
    """
    weights = dict(module.named_parameters())
    for name, tensor in (*weights.items(), *module.named_buffers()):
        if not tensor.is_floating_point():
            continue
        kind = "weight" if name in weights else "buffer"
        if not _finite(tensor):
            bad = torch.isnan(tensor) if name in by_design else ~torch.isfinite(tensor)
            if bool(bad.any()):
                return f"{kind} '{name}' has values that are not finite, {_first(tensor, bad)}"
        if name.rpartition(".")[2] == "running_var" and bool((tensor < 0).any()):
            return f"{kind} '{name}' has variances below zero, {_first(tensor, tensor < 0)}"
    return ""


def refuse_without_values(module: nn.Module) -> None:
    """Raise `UsageError` for layers that have no weights yet, or none of which masks could be made."""
    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise UsageError(
                f"weight '{name}' of a lazy layer has no shape yet",
                way_out="call the model once on an example before, or load its weights",
            )
        if parameter.is_meta:
            raise UsageError(
                f"weight '{name}' is on the meta device and has no values",
                way_out='move the model to a device (model.to_empty(device="cpu")) and load its weights before',
            )
        refuse_otherwise(name, parameter)


def refuse_unsound(module: nn.Module) -> None:
    """ConversionError where a weight, or a statistic of batch norm, is NaN, infinite or impossible.

    Infinities in other buffers, and in parameters that do not train, are masks.
    """
    refuse_integers(module)
    refuse_without_values(module)
    masks = {name for name, _ in module.named_buffers() if name.rpartition(".")[2] not in _STATISTICS}
    masks |= {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    if found := fault(module, masks):
        raise ConversionError(found, way_out=WAY_OUT)


def refuse_bfloat16(module: nn.Module, inputs: Any) -> None:
    """ConversionError where a weight, a buffer or an input is bfloat16 or of a byte: numpy has no such numbers."""
    for kind in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        _refuse_type(module, inputs, kind, "files hold float32 and float16")


def refuse_float16(module: nn.Module, inputs: Any, reason: str) -> None:
    """The same of float16, where `reason` says what cannot be done with it."""
    _refuse_type(module, inputs, torch.float16, reason)


def _refuse_type(module: nn.Module, inputs: Any, dtype: torch.dtype, reason: str) -> None:
    named = [*module.named_parameters(), *module.named_buffers()]
    named += [(f"input {i}", x) for i, x in enumerate(pytree.tree_leaves(inputs)) if isinstance(x, Tensor)]
    for name, tensor in named:
        if tensor.dtype == dtype:
            kind = str(dtype).removeprefix("torch.")
            raise ConversionError(
                f"'{name}' is {kind}, and {reason}",
                way_out=f"let the factory return module.float(), with float32 inputs: a checkpoint in {kind} loads "
                "into it as it is; 'idp-deploy quantize --scheme fp16' halves the file again",
            )


@contextmanager
def fast_path(*, taken: bool) -> Iterator[None]:
    """Whether attention of torch's own layers takes another way in inference than where it is trained and traced.

    That one packs what a padding mask shows and gives zeros for the rest, which no file does, in tensors without sizes.
    """
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(taken)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def cloned(call: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same numbers, which a forward may write into."""
    return pytree.tree_map_only(Tensor, Tensor.clone, call)


@torch.no_grad()
def overflow(module: nn.Module, call: tuple[Any, ...]) -> str:
    """Where a model whose output holds NaN first leaves the numbers, in words; "" where its outputs are numbers."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            if not found and all(_finite(one) for one in _floats(inputs)):
                for one in _floats(output):
                    if not _finite(one):
                        found.append(f"layer '{name}' gives values that are not finite, {_first(one, ~one.isfinite())}")
                        return

        return hook

    leaves = [(name, layer) for name, layer in module.named_modules() if name and not any(layer.children())]
    handles = [layer.register_forward_hook(watch(name)) for name, layer in leaves]
    try:
        outputs = module(*cloned(call))
    finally:
        for handle in handles:
            handle.remove()
    if not any(bool(torch.isnan(one).any()) for one in _floats(outputs)):
        return ""
    return found[0] if found else "the model gives NaN"


@torch.no_grad()
def answered(module: nn.Module, calls: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The first call, and of those drawn like it the ones that `module` answers with numbers.

    Numbers that nobody gave may be no input at all: offsets that no longer ascend stop a model, as do floats that it
    takes for places in a table, and of a row whose mask hides everything an attention gives NaN. NaN of floats alone is
    an answer.
    """
    taken = list(calls[:1])
    for call in calls[1:]:
        try:
            told = [bool(one.isnan().any()) for one in _floats(module(*cloned(call)))]
        except Exception:  # whatever a model says to numbers that nobody gave it
            continue
        mixed = any(not leaf.is_floating_point() for leaf in pytree.tree_leaves(call) if isinstance(leaf, Tensor))
        if mixed and any(told) and not any(bool(one.isnan().any()) for one in _floats(module(*cloned(calls[0])))):
            continue
        taken.append(call)
    return taken


@torch.no_grad()
def remembered(module: nn.Module, call: tuple[Any, ...]) -> list[str]:
    """Tensors in plain attributes, as a recurrent state that is kept there, which one call leaves other than it found.

    No trace tells of them, for to it they are constants.
    """

    def kept() -> dict[str, list[Tensor]]:
        return {
            f"{name}.{key}".removeprefix("."): [
                leaf.clone() for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)
            ]
            for name, part in module.named_modules()
            for key, value in vars(part).items()
            if isinstance(value, Tensor | tuple | list) and not key.startswith("_")
        }

    before = kept()
    module(*cloned(call))
    after = kept()
    return [
        name
        for name, values in before.items()
        if len(values) == len(after[name]) and not all(map(_same, values, after[name]))
    ]


def _same(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and torch.allclose(x, y, equal_nan=True)


def unmapped(tensor: Tensor) -> Tensor:
    """All that `torch.vmap` maps over, at once: in there a tensor tells no numbers."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def _floats(values: Any) -> Iterator[Tensor]:
    leaves = (unmapped(leaf) for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor))
    return (leaf for leaf in leaves if leaf.is_floating_point())


def _finite(tensor: Tensor) -> bool:
    """Whether all entries are numbers: a sum is none where one of them is not, and takes a fortieth of the time."""
    numbers = tensor.float() if tensor.itemsize == 1 else tensor  # nothing adds up numbers of a byte
    return bool(torch.isfinite(numbers.sum())) or bool(torch.isfinite(numbers).all())


def _first(tensor: Tensor, found: Tensor) -> str:
    index = found.nonzero()[0].tolist()
    return f"the first {float(tensor[tuple(index)].detach()):g} at {index}"
