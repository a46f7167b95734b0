"""State dicts: found inside what a file holds, compared with a module, put into it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from idp_deploy.errors import FileError
from idp_deploy.loading.factories import did_you_mean
from idp_deploy.loading.reading_files import SAVE_WEIGHTS

NESTED = ("state_dict", "model", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_LISTED = 5  # names in one message


def find_state_dict(path: Path, content: Any, own: Collection[str]) -> Mapping[str, Tensor]:
    """The state dict in `content` itself or under one of `NESTED`.

    Args:
        own: names in the module that it is for; a wrapper's prefix is taken off where they do not have it.

    Raises:
        FileError: there is none, it is empty, or an entry is not a dense tensor with values.
    """
    state = content
    if isinstance(content, Mapping):
        state = next((content[key] for key in NESTED if isinstance(content.get(key), Mapping)), content)
    if not isinstance(state, Mapping) or not state:
        kind = "an empty dict" if isinstance(state, Mapping) else f"{type(state).__name__}"
        raise FileError(f"{path} holds no state dict but {kind}", way_out=SAVE_WEIGHTS)
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise FileError(
                f"{path} holds no state dict: entry {name!r} is {type(value).__name__}, not a tensor",
                way_out=f"put the state dict under one of {', '.join(NESTED)}, or {SAVE_WEIGHTS}",
            )
        if value.is_meta or value.layout != torch.strided or value.is_quantized:
            what = "has no values" if value.is_meta else "is not a plain dense tensor"
            raise FileError(f"{path}: '{name}' {what}", way_out="save dense float weights (tensor.to_dense())")
    for prefix in PREFIXES * 2:
        if all(name.startswith(prefix) for name in state) and not all(name.startswith(prefix) for name in own):
            state = _without_prefix(state, prefix)
    return state


def fill(module: nn.Module, state: Mapping[str, Tensor], path: Path, factory: str) -> None:
    """Put `state` into `module`, in place and strictly.

    Raises:
        FileError: missing, unexpected or differently shaped entries (listed, with the nearest names), integers where
            floats belong, a parameter or running statistic that is not finite, a variance below zero.
    """
    own = module.state_dict()
    for name in own.keys() & state.keys():
        if own[name].is_floating_point() != state[name].is_floating_point() or state[name].is_complex():
            raise FileError(
                f"{path}: '{name}' is {_dtype(state[name])}, but {factory} has {_dtype(own[name])}",
                way_out="save the float weights",
            )
    try:
        module.load_state_dict(state, strict=True)
    except Exception as error:
        reasons = _differences(own, state) or [str(error).strip()]
        raise FileError(
            f"{path} does not fit the module of {factory}: {'; '.join(reasons)}",
            way_out="name the factory, and the sizes in it, that these weights were trained with",
        ) from None
    for name, parameter in module.named_parameters():
        _refuse(path, f"weight '{name}' has values that are not finite", parameter, ~torch.isfinite(parameter))
    for name, buffer in module.named_buffers():
        if name not in state or not buffer.is_floating_point():
            continue
        leaf = name.rpartition(".")[2]
        statistic = leaf in ("running_mean", "running_var")  # elsewhere infinities may be meant, as in attention masks
        unsound = ~torch.isfinite(buffer) if statistic else torch.isnan(buffer)
        _refuse(path, f"buffer '{name}' has values that are not finite", buffer, unsound)
        if leaf == "running_var":
            _refuse(path, f"buffer '{name}' has variances below zero", buffer, buffer < 0)


def _refuse(path: Path, what: str, tensor: Tensor, unsound: Tensor) -> None:
    found = unsound.nonzero()
    if len(found):
        index = found[0].tolist()
        raise FileError(
            f"{path}: {what}, the first {float(tensor[tuple(index)]):g} at {index}",
            way_out="train again from before they appeared",
        )


def resize(module: nn.Module, state: Mapping[str, Tensor], attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Give parameters and buffers of `module` the shapes they have in `state`, in place, as removed channels left them.

    Where a submodule contains a resized tensor, the integers that were recorded for it (groups, in_channels, heads, …)
    replace its own of the same name. Tied parameters stay tied.
    """
    replaced: dict[int, nn.Parameter] = {}
    touched: set[str] = set()
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, tensor in tensors:
        stored = state.get(name)
        if stored is None or stored.shape == tensor.shape or stored.dim() != tensor.dim():
            continue
        if stored.numel() * stored.element_size() > stored.untyped_storage().nbytes():
            continue  # an expanded view that claims more entries than the file has bytes for
        owner, _, leaf = name.rpartition(".")
        if isinstance(tensor, nn.Parameter):
            fresh = nn.Parameter(torch.zeros(stored.shape, dtype=tensor.dtype), requires_grad=tensor.requires_grad)
            setattr(module.get_submodule(owner), leaf, replaced.setdefault(id(tensor), fresh))
        else:
            setattr(module.get_submodule(owner), leaf, torch.zeros(stored.shape, dtype=tensor.dtype))
        parts = owner.split(".") if owner else []
        touched |= {".".join(parts[:depth]) for depth in range(len(parts) + 1)}
    for path, submodule in module.named_modules():
        if path in touched:
            for name, value in attributes.get(path, {}).items():
                if name in integers(submodule):
                    setattr(submodule, name, value)


def integers(module: nn.Module) -> dict[str, Any]:
    """A module's own integers and tuples of integers: what beside shapes decides how it computes.

    >>> integers(nn.Conv2d(4, 8, 3, groups=2))["groups"]
    2
    """
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and (_is_int(value) or (isinstance(value, tuple) and all(map(_is_int, value))))
    }


def _without_prefix(state: Mapping[str, Tensor], prefix: str) -> OrderedDict[str, Tensor]:
    """The same entries, and the same versions of the modules' formats, by which torch brings old files up to date."""
    stripped = OrderedDict((name.removeprefix(prefix), value) for name, value in state.items())
    versions = {f"{key}.".removeprefix(prefix).rstrip("."): v for key, v in getattr(state, "_metadata", {}).items()}
    if versions:
        stripped._metadata = versions  # type: ignore[attr-defined]
    return stripped


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _differences(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"'{name}' is {tuple(state[name].shape)} in the file and {tuple(own[name].shape)} in the module"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    reasons = []
    if missing:
        reasons.append(f"{len(missing)} missing: {_listed([repr(name) for name in missing])}")
    if unexpected:
        hints = [f"{name!r}{_hint(name, missing)}" for name in unexpected[:_LISTED]]
        reasons.append(f"{len(unexpected)} unexpected: {_listed(hints, len(unexpected))}")
    if shapes:
        reasons.append(f"{len(shapes)} of another shape: {_listed(shapes)}")
    return reasons


def _hint(name: str, missing: list[str]) -> str:
    hint = did_you_mean(name, missing)
    return f" ({hint})" if hint else ""


def _listed(items: list[str], count: int | None = None) -> str:
    rest = (count or len(items)) - len(items[:_LISTED])
    return ", ".join(items[:_LISTED]) + (f" and {rest} more" if rest else "")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
