"""Modules that a library has filled already, from the same folder and under names of its own.

transformers.ViTModel.from_pretrained("vit") reads vit/model.safetensors, and renames what an earlier release has saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

_ENDS = 8  # entries at either end that tell most tensors apart


def is_brought(module: nn.Module, path: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a module says that it was read from the folder of a file, and each of its weights is in that file.

    Args:
        tensors: what the file holds.
    """
    named = getattr(getattr(module, "config", None), "_name_or_path", None)
    if not isinstance(named, str) or not named or Path(named).resolve() != path.parent.resolve():
        return False
    held: dict[tuple[object, ...], list[Tensor]] = {}
    for tensor in tensors.values():
        held.setdefault(_mark(tensor), []).append(tensor)
    own = module.state_dict().values()
    if any(one.is_meta for one in own):
        return False
    return bool(held) and all(any(torch.equal(one, other) for other in held.get(_mark(one), ())) for one in own)


def _mark(tensor: Tensor) -> tuple[object, ...]:
    flat = tensor.detach().reshape(-1)
    return (tensor.shape, tensor.dtype, *flat[:_ENDS].tolist(), *flat[-_ENDS:].tolist())
