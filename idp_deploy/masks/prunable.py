"""Which weights of a module can be pruned at all, and where its forward reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")

Kind = Literal["linear", "convolution", "depthwise", "attention"]


@dataclass(frozen=True)
class Place:
    """Where a weight is read: as attribute `leaf` of module `owner`, during the forward of module `reader`."""

    owner: str
    leaf: str
    reader: str


@dataclass(frozen=True)
class Prunable:
    """One prunable weight. A weight shared by several layers has several places and one name, the first."""

    name: str
    kind: Kind
    output_axis: int  # 1 for transposed convolutions, whose weight is (in, out/groups, *kernel)
    places: tuple[Place, ...]


def prunable_weights(module: nn.Module) -> dict[str, Prunable]:
    """Weights of convolutions, linear layers and attention projections by parameter name, in the module's order.

    Never a bias, a norm or an embedding, nor a linear weight tied to an embedding table.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten())
    >>> {name: weight.kind for name, weight in prunable_weights(net).items()}
    {'0.weight': 'convolution', '2.weight': 'depthwise'}
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    found: dict[str, Prunable] = {}
    for path, owner in module.named_modules():
        for leaf, kind, reader in _weights_of(path, owner):
            parameter = owner._parameters.get(leaf)
            if parameter is None or id(parameter) in embeddings:
                continue
            name = names[id(parameter)]
            place = Place(path, leaf, reader)
            if name in found:
                earlier = found[name]
                found[name] = Prunable(name, earlier.kind, earlier.output_axis, (*earlier.places, place))
            else:
                found[name] = Prunable(name, kind, int(isinstance(owner, _TRANSPOSED)), (place,))
    return found


def _weights_of(path: str, owner: nn.Module) -> list[tuple[str, Kind, str]]:
    """(attribute, kind, reading module) of the weights that `owner` itself holds."""
    if isinstance(owner, nn.MultiheadAttention):
        return [(leaf, "attention", path) for leaf in _ATTENTION]
    if isinstance(owner, _CONVOLUTIONS + _TRANSPOSED):
        depthwise = owner.groups > 1 and owner.groups == owner.in_channels
        return [("weight", "depthwise" if depthwise else "convolution", path)]
    if isinstance(owner, nn.modules.linear.NonDynamicallyQuantizableLinear):
        # attention passes this weight on as a tensor and never calls the layer
        return [("weight", "attention", path.rpartition(".")[0])]
    if isinstance(owner, nn.Linear):
        return [("weight", "linear", path)]
    return []
