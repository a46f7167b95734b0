"""State dicts: taken from what a file holds, put into a module, and the module's shapes made theirs."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from idp_deploy import soundness
from idp_deploy.errors import FileError, a_type
from idp_deploy.loading import foreign
from idp_deploy.loading.brought import is_brought
from idp_deploy.loading.entries import Entries, flatten
from idp_deploy.loading.finding import COUNTERS, Fit, averaged_elsewhere, choose, fits, passed_over, tied_names, wanted
from idp_deploy.loading.lazy import is_open, settle
from idp_deploy.loading.misfits import ADAPTER, differences, misfit, way_out
from idp_deploy.loading.parts import ENDS, joined
from idp_deploy.masks import join_in

Announce = Callable[[str], None]
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LONGEST = 64  # of a list that says how something is cut


def take(
    path: Path, content: Any, module: nn.Module, factory: str, *, key: str | None = None, announce: Announce
) -> None:
    """Find the weights of `module` in what a file holds and put them into it, in place; all of them, or none.

    Weights that the module, or the file, keeps in parts (weight norm, masks) come out in one piece.

    Args:
        key: which weights, where several fit. announce: told what else the file holds.

    Raises:
        FileError: none, or they do not fit (listed, with the nearest names); as for `fill`.
        UsageError: several fit, or none of them is under `key`.
    """
    entries = flatten(content, path) if isinstance(content, (Mapping, list, tuple)) else Entries()
    if not entries.tensors:
        instead = _described(content, entries)
        raise FileError(f"{path} holds no state dict but {instead}", way_out=foreign.way_out(instead))
    module.eval()
    attempts = []
    for prepare in (lambda: entries, lambda: _in_one_piece(entries, module)):
        found = prepare()
        attempts.append(fits(found, wanted(module)))
        if attempts[-1][0].fits:
            break
    else:
        if key is None and is_brought(module, path, entries.tensors):
            if fault := soundness.fault(module, set()):
                raise FileError(f"{path}: {fault}", way_out=soundness.WAY_OUT)
            announce(f"{path}: the names in it are not those of {factory}, which has read it by itself, every weight")
            return
        (nearest,) = min(attempts, key=lambda one: len(one[0].missing) + len(one[0].unexpected))
        raise misfit(path, factory, nearest, entries, module)
    chosen, said = choose(path, attempts[-1], key, factory)
    state = {name: chosen.state[name] for name in module.state_dict() if name in chosen.state}
    _refuse_unsound(path, state)
    fill(module, state, path, factory, versions=chosen.versions)
    if whole := join_in(module):
        said.append(f"{factory}: {len(whole)} weights that it computes from parts are one piece each from here on")
    said += passed_over(path, entries, chosen) if key is None else []
    if adapter := next((name for name in entries.tensors if re.search(ADAPTER, name) and name not in state), None):
        said.append(
            f"{path} holds an adapter too ('{adapter}'), which the weights that were taken know nothing of: to have it "
            "in them, merge it and save that (model.merge_and_unload())"
        )
    if eighths := [name for name, value in state.items() if value.is_floating_point() and value.element_size() == 1]:
        said.append(
            f"{path}: {len(eighths)} tensors are {_dtype(state[eighths[0]])}, as '{eighths[0]}': taken as they were "
            "rounded, to 4 significant bits at most; a file of the weights before that loses less"
        )
    for prefix, count in averaged_elsewhere(entries, attempts[-1]).items():
        said.append(
            f"{path}: '{prefix}' holds {count} tensors that look like averaged weights (EMA) and do not fit {factory} "
            "by name; the weights taken are not the averaged ones"
        )
    for text in said:
        announce(text)


def fill(
    module: nn.Module,
    state: Mapping[str, Tensor],
    path: Path,
    factory: str,
    *,
    versions: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Put `state` into `module`, in place and strictly.

    Args:
        versions: of the modules' formats, by path; a module's own where there is none.

    Raises:
        FileError: missing, unexpected or differently shaped entries (listed, with the nearest names), integers where
            floats belong, tied weights that differ, a value that is not finite, or a variance below zero.
    """
    own = module.state_dict()
    counts = {name for name in own.keys() & state.keys() if _counts(own[name], name, state[name])}
    state = {name: value.round().to(own[name].dtype) if name in counts else value for name, value in state.items()}
    for name in own.keys() & state.keys():
        if (wanted_kind := _kind(own[name])) != _kind(state[name]):
            raise FileError(
                f"{path}: '{name}' is {_dtype(state[name])}, but {factory} has {_dtype(own[name])}",
                way_out=f"save the {wanted_kind} weights",
            )
    masked = {name for name, finite in _finite(module).items() if not finite}  # infinite by design, as masks are
    tied = tied_names(module)
    try:
        module.load_state_dict(_versioned(own, state, versions or {}), strict=True)
    except Exception as error:
        fit = Fit("", state, {}, *_misfits(own, state))
        reasons = differences(fit, own) or [" ".join(str(error).split())]
        raise FileError(
            f"{path} does not fit the module of {factory}: {'; '.join(reasons)}", way_out=way_out(fit)
        ) from None
    settle(module)
    for names in tied.values():
        first = next((name for name in names if name in state), names[0])
        if other := next((name for name in names if name in state and not _equal(state[name], state[first])), None):
            raise FileError(
                f"{path}: '{first}' and '{other}' differ, but are one tensor in the module of {factory}",
                way_out="name the factory that does not tie them",
            )
    if found := soundness.fault(module, masked):
        raise FileError(f"{path}: {found}", way_out=soundness.WAY_OUT)


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
        if stored is None or is_open(tensor) or stored.shape == tensor.shape or stored.dim() != tensor.dim():
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
    """A module's own integers, and tuples and short lists of them: what beside shapes decides how it computes.

    >>> integers(nn.Conv2d(4, 8, 3, groups=2))["groups"]
    2
    """
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and (_is_int(value) or _are_ints(value))
    }


def _in_one_piece(entries: Entries, module: nn.Module) -> Entries:
    """The file's entries, and the module, with every weight in one piece."""
    join_in(module)
    turned = {f"{path}.weight".lstrip(".") for path, layer in module.named_modules() if isinstance(layer, _TRANSPOSED)}
    return joined(entries, turned, [name for name in module.state_dict() if name.endswith(ENDS)])


def _versioned(
    own: dict[str, Any], state: Mapping[str, Tensor], versions: Mapping[str, Mapping[str, Any]]
) -> OrderedDict[str, Tensor]:
    """`state` with counters that it lacks, and with the versions by which torch brings old files up to date.

    Where the file records none, its names fit the module as it is today, and so the module's own versions are taken.
    """
    counters = {name: value for name, value in own.items() if name.rpartition(".")[2] in COUNTERS}
    filled = OrderedDict({**{name: value for name, value in counters.items() if name not in state}, **state})
    own_versions = own._metadata  # type: ignore[attr-defined]
    merged = {path: dict(versions.get(path, version)) for path, version in own_versions.items()}
    filled._metadata = OrderedDict(merged)  # type: ignore[attr-defined]
    return filled


def _finite(module: nn.Module) -> dict[str, bool]:
    """Parameter or buffer → whether all of its values are numbers."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: is_open(tensor) or bool(torch.isfinite(tensor).all()) for name, tensor in tensors}


def _described(content: Any, entries: Entries) -> str:
    """What stands where weights were looked for."""
    if entries.others:
        name, kind = next(iter(entries.others.items()))
        return f"{len(entries.others)} values that are no tensors, as '{name}', which is {kind}"
    return "an empty dict" if isinstance(content, Mapping) else type(content).__name__


def _refuse_unsound(path: Path, state: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        if type(value) not in (Tensor, nn.Parameter):
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            known = foreign.way_out(kind)
            raise FileError(
                f"{path}: '{name}' is {a_type(value)}, not a plain dense tensor",
                way_out="save plain float weights" if known == foreign.SAVE_WEIGHTS else known,
            )
        if value.is_meta or value.layout != torch.strided or value.is_quantized:
            what = "has no values" if value.is_meta else "is not a plain dense tensor"
            how = "dequantize" if value.is_quantized else "to_dense"
            raise FileError(f"{path}: '{name}' {what}", way_out=f"save dense float weights (tensor.{how}())")


def _misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Missing, unexpected and differently shaped names."""
    return (
        [name for name in own if name not in state],
        [name for name in state if name not in own],
        [name for name in own if name in state and not is_open(own[name]) and own[name].shape != state[name].shape],
    )


def _equal(first: Tensor, second: Tensor) -> bool:
    return first is second or (first.shape == second.shape and torch.equal(first, second))


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_ints(value: Any) -> bool:
    """A list that is longer, or empty yet, is more likely one that grows."""
    return (
        isinstance(value, tuple | list)
        and all(map(_is_int, value))
        and (isinstance(value, tuple) or 0 < len(value) <= _LONGEST)
    )


def _counts(own: Tensor, name: str, stored: Tensor) -> bool:
    """Whether an integer was saved as a float (`{k: v.float() for …}`, an average of all entries) and is known yet."""
    if (
        _kind(own) != "integer"
        or own.dtype == torch.bool
        or not stored.is_floating_point()
        or stored.element_size() < 2
    ):
        return False
    if name.endswith("num_batches_tracked"):
        return bool(torch.isfinite(stored).all())
    whole = (stored == stored.round()) & (stored.abs() <= 1 / torch.finfo(stored.dtype).eps)
    return bool(whole.all())


def _kind(tensor: Tensor) -> str:
    """What numbers of one kind may become without another meaning."""
    if tensor.dtype == torch.float4_e2m1fn_x2:
        return "packed"
    return "float" if tensor.is_floating_point() else "complex" if tensor.is_complex() else "integer"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
