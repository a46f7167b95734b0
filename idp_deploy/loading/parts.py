"""Weights that a file keeps in parts, put together among its entries.

| kept by | parts | weight |
| --- | --- | --- |
| `torch.nn.utils.prune` | weight_orig, weight_mask | w·m |
| masks beside weights, as in SynFlow | weight, weight_mask | w·m, m of ones and zeros |
| `torch.nn.utils.weight_norm` | weight_g, weight_v | g·v/‖v‖ |
| `parametrizations.weight_norm` | parametrizations.weight.original0, original1 | the same |
| `torch.nn.utils.spectral_norm` | weight_orig, weight_u, weight_v | w/σ, σ = uᵀWv |
| `parametrizations.spectral_norm` | parametrizations.weight.original, 0._u, 0._v | the same |
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from idp_deploy.loading.entries import Entries


@dataclass(frozen=True)
class Form:
    """One way to keep a weight in parts. The suffixes follow the weight's name, the first is looked for."""

    suffixes: tuple[str, ...]
    join: Callable[..., Tensor]  # of the parts, in order, and of the axis of output channels


def _masked(weight: Tensor, mask: Tensor, axis: int) -> Tensor:
    return weight * mask + 0.0  # a product alone leaves −0.0


def _masked_beside(weight: Tensor, mask: Tensor, axis: int) -> Tensor:
    if mask.shape != weight.shape or not bool(((mask == 0) | (mask == 1)).all()):
        raise RuntimeError("it is no mask of this weight")
    return _masked(weight, mask, axis)


def _weight_normed(g: Tensor, v: Tensor, axis: int) -> Tensor:
    """As torch computes it, to the bit; the axis that has a norm an entry shows in g's shape."""
    axes = [i for i, extent in enumerate(g.shape) if extent == v.shape[i] and g.numel() == extent]
    holder = nn.Module()
    holder.weight = nn.Parameter(v.clone())
    parametrizations.weight_norm(holder, dim=None if g.dim() == 0 else axes[0])  # type: ignore[arg-type]
    held = holder.parametrizations.weight  # type: ignore[union-attr]
    held.original0.data.copy_(g)  # type: ignore[union-attr,operator]
    held.original1.data.copy_(v)  # type: ignore[union-attr,operator]
    return holder.weight.detach()


def _spectral_normed(weight: Tensor, u: Tensor, v: Tensor, axis: int) -> Tensor:
    matrix = weight.movedim(axis, 0).flatten(1)  # (out, in, *kernel) → (out, in·kernel)
    return weight / torch.dot(u, torch.mv(matrix, v))


FORMS = (
    Form(("_orig", "_mask"), _masked),
    Form(("", "_mask"), _masked_beside),
    Form(("_orig", "_u", "_v"), _spectral_normed),
    Form(("_g", "_v"), _weight_normed),
    Form((".original0", ".original1"), _weight_normed),
    Form((".original", ".0._u", ".0._v"), _spectral_normed),
)

ENDS = tuple(form.suffixes[-1] for form in FORMS)


def joined(entries: Entries, transposed: Collection[str] = (), own: Collection[str] = ()) -> Entries:
    """The entries with every weight in one piece whose parts are all there; parts of parts as well.

    Args:
        transposed: names of weights whose output channels lie on axis 1.
        own: names that the module has itself: what it calls a mask is no part of a weight.

    >>> parts = {"0.weight_orig": torch.tensor([2.0, -3.0]), "0.weight_mask": torch.tensor([1.0, 0.0])}
    >>> joined(Entries(parts)).tensors
    {'0.weight': tensor([2., 0.])}
    """
    tensors, homes = dict(entries.tensors), dict(entries.homes)
    for form in FORMS * 2:
        first = form.suffixes[0]
        for start in [name.removesuffix(first) for name in tensors if name.endswith(first)]:
            names = [start + suffix for suffix in form.suffixes]
            parts = [tensors[name] for name in names if name in tensors]
            owner, _, leaf = start.rpartition("parametrizations.")
            if len(parts) < len(names) or not all(map(is_sound, parts)) or _is_one_of(names[-1], own):
                continue
            axis = int(_is_one_of(owner + leaf, transposed))
            try:
                with torch.no_grad():
                    weight = form.join(*(_single(part) for part in parts), axis)
            except (RuntimeError, IndexError):  # shapes that do not belong together: they stay what they are
                continue
            home = homes.get(names[0])
            for name in names:
                del tensors[name]
                homes.pop(name, None)
            tensors[owner + leaf] = weight
            if home is not None:
                homes[owner + leaf] = home
    return replace(entries, tensors=tensors, homes=homes)


def _is_one_of(name: str, names: Collection[str]) -> bool:
    """Whether it is one of them, below whatever the file holds the model under."""
    return any(f".{name}".endswith(f".{one}") for one in names)


def is_sound(tensor: Tensor) -> bool:
    """A dense tensor of real numbers or truths that has as many values as it claims."""
    return (
        not tensor.is_meta
        and tensor.layout == torch.strided
        and not tensor.is_quantized
        and not tensor.is_complex()
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


def _single(part: Tensor) -> Tensor:
    return part.float() if part.element_size() < 4 and part.is_floating_point() else part
