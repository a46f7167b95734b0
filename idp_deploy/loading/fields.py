"""The fields of a checkpoint: packed to plain values when written, checked one by one when read."""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idp_deploy.errors import FileError, UsageError
from idp_deploy.flow import Levels, Provenance, Quantization, Recipe, SoftMask

_LARGEST = 2**31  # of an integer that a module may be given
_STEPS = ("scale", "palette")


# ── masks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def pack_masks(masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """Boolean masks, eight entries a byte.

    >>> packed = pack_masks({"w": torch.tensor([[True, False], [False, True]])})
    >>> packed["w"]["shape"], packed["w"]["bits"].tolist()
    ([2, 2], [144])
    """
    return {
        name: {
            "shape": list(mask.shape),
            "bits": torch.from_numpy(np.packbits(mask.detach().cpu().numpy().astype(bool).reshape(-1))),
        }
        for name, mask in sorted(masks.items())
    }


def masks(path: Path, packed: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Boolean masks by name; each fits its weight, and the weight is zero wherever the mask says so."""
    found: dict[str, Tensor] = {}
    for name, entry in _mapping(path, "masks", packed).items():
        weight = _weight(path, "masks", name, weights)
        entry = _mapping(path, f"masks['{name}']", entry)
        bits = entry.get("bits")
        if not isinstance(bits, Tensor) or bits.dtype != torch.uint8 or bits.dim() != 1 or bits.is_meta:
            raise _wrong(path, f"the mask of '{name}'", "has no bits")
        if entry.get("shape") != list(weight.shape):
            raise _wrong(path, f"the mask of '{name}'", f"does not fit a weight of shape {tuple(weight.shape)}")
        if bits.numel() != math.ceil(weight.numel() / 8):
            raise _wrong(path, f"the mask of '{name}'", f"has {bits.numel()} bytes for {weight.numel()} weights")
        flat = np.unpackbits(bits.numpy())
        if flat[weight.numel() :].any():
            raise _wrong(path, f"the mask of '{name}'", "is longer than its weight")
        mask = torch.from_numpy(flat[: weight.numel()].astype(bool)).reshape(weight.shape)
        if bool((weight.detach()[~mask] != 0).any()):
            raise _wrong(path, f"the mask of '{name}'", "prunes weights that are not zero")
        found[name] = mask
    return found


def pack_soft_masks(soft_masks: Mapping[str, SoftMask]) -> dict[str, Any]:
    """Threshold, temperature and zeros by weight name."""
    return {name: _plain(soft) for name, soft in sorted(soft_masks.items())}


def soft_masks(path: Path, packed: Any, weights: Mapping[str, Tensor]) -> dict[str, SoftMask]:
    """Soft masks by name: a threshold ≥ 0, a temperature > 0, and no more zeros than weights."""
    found: dict[str, SoftMask] = {}
    for name, entry in _mapping(path, "soft_masks", packed).items():
        weight = _weight(path, "soft_masks", name, weights)
        values = _exactly(path, f"soft_masks['{name}']", entry, SoftMask)
        threshold, temperature, zeros = (values[key] for key in ("threshold", "temperature", "zeros"))
        if not 0 <= threshold < math.inf or not 0 < temperature < math.inf or not 0 <= zeros <= weight.numel():
            raise _wrong(path, f"the soft mask of '{name}'", f"is impossible: {dict(values)}")
        found[name] = SoftMask(**values)
    return found


# ── what was done ───────────────────────────────────────────────────────────────────────────────────────────────────


def pack_recipe(recipe: Recipe | None) -> dict[str, Any] | None:
    """Plain values of a recipe."""
    return _plain(recipe) if recipe else None


def recipe(path: Path, packed: Any) -> Recipe | None:
    """A recipe of the right types, its sparsity in [0, 1)."""
    if packed is None:
        return None
    values = _exactly(path, "recipe", packed, Recipe)
    if not 0 <= values["sparsity"] < 1:
        raise _wrong(path, "recipe.sparsity", f"is {values['sparsity']!r}, not in [0, 1)")
    return Recipe(**{**values, "skip": _strings(path, "recipe.skip", values["skip"])})


def pack_provenance(provenance: Provenance) -> dict[str, Any]:
    """Plain values of a provenance."""
    return _plain(provenance)


def provenance(path: Path, packed: Any) -> Provenance:
    """A provenance of the right types; it informs and is never acted on."""
    earlier = {"threads": 0}  # what files of earlier versions do not say
    values = _exactly(path, "provenance", {**earlier, **_mapping(path, "provenance", packed)}, Provenance)
    steps = _strings(path, "provenance.steps", values["steps"])
    _strings(path, "provenance.versions", [*values["versions"], *values["versions"].values()])
    return Provenance(**{**values, "steps": steps})


def pack_quantization(quantization: Quantization | None) -> dict[str, Any] | None:
    """Plain values of a quantization; its calibration inputs are tensors, and so are its scales and palettes.

    The integers are left out: the weights are these times their scales.
    """
    if quantization is None:
        return None
    steps = {
        name: {key: torch.from_numpy(np.array(given)) for key in _STEPS if (given := getattr(one, key)) is not None}
        for name, one in sorted(quantization.levels.items())
    }
    return {**_plain(quantization), "levels": steps}


def quantization(path: Path, packed: Any, weights: Mapping[str, Tensor]) -> Quantization | None:
    """A quantization of the right types that speaks of the module's own weights."""
    if packed is None:
        return None
    earlier: dict[str, Any] = {"levels": {}}  # what files of earlier versions do not say
    values = _exactly(path, "quantization", {**earlier, **_mapping(path, "quantization", packed)}, Quantization)
    for name, value in values["signal_to_noise_db"].items():
        _weight(path, "quantization.signal_to_noise_db", name, weights)
        if type(value) not in (int, float):
            raise _wrong(path, f"quantization.signal_to_noise_db['{name}']", f"is {value!r}, not a number")
    for name in values["kept_float"]:
        _weight(path, "quantization.kept_float", name, weights)
    _strings(path, "quantization.kept_float", list(values["kept_float"].values()))
    if not all(isinstance(call, tuple) for call in values["calibration"]):
        raise _wrong(path, "quantization.calibration", "is not a tuple of calls")
    levels = {}
    for name, entry in _mapping(path, "quantization.levels", values["levels"]).items():
        weight = _weight(path, "quantization.levels", name, weights).detach().cpu().numpy()
        levels[name] = _levels(path, f"quantization.levels['{name}']", entry, weight)
    return Quantization(**{**values, "levels": levels})


def _levels(path: Path, what: str, packed: Any, weight: np.ndarray) -> Levels:
    """The integers that a scale or a palette leaves no choice about; FileError where the weight is not made of them."""
    steps = {}
    for key, value in _mapping(path, what, packed).items():
        plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
        if key not in _STEPS or not plain or value.dtype != torch.float32:
            raise _wrong(path, what, f"has {key!r}, which is no scale and no palette")
        steps[key] = value.detach().numpy()
    scale, palette = (steps.get(key) for key in _STEPS)
    found = None
    if scale is not None and palette is None and _spreads(scale.shape, weight.shape) and (scale > 0).all():
        integers = np.rint(weight.astype(np.float64) / scale)
        found = Levels(np.clip(integers, -128, 127).astype(np.int8), scale)
    elif palette is not None and scale is None and palette.ndim == 1 and 0 < palette.size <= 256:
        order = np.argsort(palette, kind="stable")  # of equal entries the first, so that zeros are entry 0
        places = np.searchsorted(palette, weight, sorter=order).clip(max=len(order) - 1)
        found = Levels(order[places].astype(np.uint8), palette=palette)
    if found is None or not np.array_equal(found.values, weight):
        raise _wrong(path, what, "is not what the weight is made of")
    return found


def _spreads(scale: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    return len(scale) == len(weight) and all(a in (1, b) for a, b in zip(scale, weight, strict=True))


# ── shapes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def state_dict(path: Path, packed: Any) -> Mapping[str, Tensor]:
    """Plain dense tensors by name."""
    for name, value in _mapping(path, "state_dict", packed).items():
        if not isinstance(value, Tensor) or value.is_nested:
            raise _wrong(path, f"state_dict['{name}']", f"is {type(value).__name__}, not a tensor")
        if value.is_meta or value.layout != torch.strided or value.is_quantized:
            raise _wrong(path, f"state_dict['{name}']", "is not a plain dense tensor with values")
    return packed  # type: ignore[no-any-return]


def check_shapes(path: Path, packed: Any, state: Mapping[str, Tensor]) -> None:
    """The recorded shapes are those of the tensors."""
    if _mapping(path, "shapes", packed) != {name: list(tensor.shape) for name, tensor in state.items()}:
        raise _wrong(path, "shapes", "are not those of the tensors in state_dict")


def attributes(path: Path, packed: Any) -> dict[str, dict[str, Any]]:
    """Integers, and tuples and lists of them, by module name and attribute."""
    for module, entry in _mapping(path, "attributes", packed).items():
        for name, value in _mapping(path, f"attributes['{module}']", entry).items():
            values = value if isinstance(value, tuple | list) else (value,)
            if not all(type(v) is int and -_LARGEST < v < _LARGEST for v in values):
                raise _wrong(path, f"attributes['{module}']['{name}']", f"is {value!r}, not an integer")
    return {module: dict(entry) for module, entry in packed.items()}


# ── bytes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def canonical(value: Any, seen: dict[Any, Tensor] | None = None) -> Any:
    """A copy that pickles to the same bytes wherever equal content comes from.

    Pickle writes a reference where it meets the same *object* again, so equal strings are made one object, tensors are
    copied out of larger storages (tied ones stay tied), and subclasses of plain types become those types.

    Raises:
        UsageError: something in it is neither a tensor nor a plain value.
    """
    seen = {} if seen is None else seen
    if isinstance(value, Tensor):
        key = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        if key not in seen:
            seen[key] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return seen[key].view_as(seen[key])
    if isinstance(value, str):
        return sys.intern(str(value))
    if value is None or isinstance(value, bool):
        return value
    for plain in (int, float):
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        entries = {canonical(key, seen): canonical(entry, seen) for key, entry in value.items()}
        if not hasattr(value, "_metadata"):
            return entries
        versioned = OrderedDict(entries)  # of a state dict: some modules refuse their weights without the version
        versioned._metadata = canonical(dict(value._metadata), seen)  # type: ignore[attr-defined]
        return versioned
    if isinstance(value, (list, tuple)):
        items = [canonical(entry, seen) for entry in value]
        return tuple(items) if isinstance(value, tuple) else items
    raise UsageError(f"{value!r} cannot be stored in a checkpoint", way_out="use numbers, strings, lists and tensors")


def _plain(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass by name."""
    return {field.name: getattr(instance, field.name) for field in fields(instance)}


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _mapping(path: Path, what: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _wrong(path, what, f"is {type(value).__name__}, not a dict by name")
    return value


def _strings(path: Path, what: str, value: Sequence[Any]) -> tuple[str, ...]:
    if not all(isinstance(entry, str) for entry in value):
        raise _wrong(path, what, f"holds something that is not a string: {value!r}")
    return tuple(value)


def _weight(path: Path, what: str, name: str, weights: Mapping[str, Tensor]) -> Tensor:
    if name not in weights:
        raise _wrong(path, what, f"speaks of '{name}', which is no weight of the module")
    return weights[name]


def _exactly(path: Path, what: str, value: Any, kind: type) -> dict[str, Any]:
    """The fields of dataclass `kind`, no more and no fewer, each of the type that it declares."""
    entry = _mapping(path, what, value)
    declared = {field.name: str(field.type).partition("[")[0] for field in fields(kind)}
    if entry.keys() != declared.keys():
        raise _wrong(path, what, f"has the fields {sorted(entry)}, expected {sorted(declared)}")
    for name, type_name in declared.items():
        allowed = {"float": (float, int), "int": (int,), "str": (str,), "tuple": (tuple,), "Mapping": (dict,)}
        if type(entry[name]) not in allowed[type_name] or entry[name] != entry[name]:
            raise _wrong(path, f"{what}.{name}", f"is {entry[name]!r}, not {type_name}")
    return dict(entry)


def _wrong(path: Path, what: str, why: str) -> FileError:
    return FileError(
        f"{path} is not a sound checkpoint: {what} {why}", way_out="make it again with idp-deploy prune"
    )  # fmt: skip
