"""Which weights of a module can be pruned at all, and where its forward reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import nn

from idp_deploy.masks.multiplied import Product, multiplied
from idp_deploy.masks.parts import in_parts

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_TABLES = (nn.Embedding, nn.EmbeddingBag)
# linear layers of other libraries whose weight is (in, out), known by name so that nothing is imported: GPT-2's
_TURNED = {"transformers.pytorch_utils.Conv1D"}

Kind = Literal["linear", "convolution", "depthwise", "attention", "recurrent", "embedding", "matrix"]
KINDS: tuple[Kind, ...] = get_args(Kind)


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
    output_axis: int  # 1 where the weight is (in, out/groups, *kernel), as of transposed convolutions
    places: tuple[Place, ...]
    gates: int = 1  # matrices (out/gates, in) stacked along the output axis: 4 of an LSTM, 3 of a GRU


def prunable_weights(module: nn.Module, *, embeddings: bool = False, matrices: bool = False) -> dict[str, Prunable]:
    """Weights of convolutions, linear, recurrent layers and attention projections by name, in the module's order.

    Never a bias or a norm; an embedding table, and a linear weight tied to one, only with `embeddings`. A parameter of
    another library's module is a weight where the source of that module multiplies by it (`x @ self.w`); others with
    rows and columns look like any table, such as positions: only with `matrices`.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten())
    >>> {name: weight.kind for name, weight in prunable_weights(net).items()}
    {'0.weight': 'convolution', '2.weight': 'depthwise'}
    >>> {name: weight.gates for name, weight in prunable_weights(nn.LSTM(4, 8)).items()}
    {'weight_ih_l0': 4, 'weight_hh_l0': 4}
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    tables = {id(owner.weight) for owner in module.modules() if isinstance(owner, _TABLES)}
    found: dict[str, Prunable] = {}
    trained = _is_trained(module)
    for path, owner in module.named_modules():
        for leaf, kind, reader in _weights_of(path, owner, trained):
            parameter = owner._parameters.get(leaf)
            if parameter is None or not parameter.numel() or (id(parameter) in tables and not embeddings):
                continue
            name = names[id(parameter)]
            place = Place(path, leaf, reader)
            if name in found:
                found[name] = replace(found[name], places=(*found[name].places, place))
            else:
                kind = "embedding" if id(parameter) in tables else kind
                gates = _gates(owner, leaf, parameter.shape[0])
                found[name] = Prunable(name, kind, _output_axis(owner, leaf), (place,), gates)
    return found | (_matrices(module, names, found.keys() | {names[table] for table in tables}) if matrices else {})


def computed_weights(module: nn.Module) -> dict[str, tuple[Kind, str]]:
    """Weights that would be prunable were they not computed from parts → their kind, and the call that ends that.

    >>> net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)), nn.Linear(2, 2))
    >>> computed_weights(net)
    {'0.weight': ('linear', "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')")}
    """
    found: dict[str, tuple[Kind, str]] = {}
    for name, call in in_parts(module).items():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        kinds = {leaf: kind for leaf, kind, _ in _weights_of(path, owner, _is_trained(module))}
        if leaf in kinds:
            found[name] = kinds[leaf], call
        elif isinstance(owner, _RECURRENT) and leaf.startswith("weight_"):
            found[name] = "recurrent", call
    return found


def _matrices(module: nn.Module, names: Mapping[int, str], known: Collection[str]) -> dict[str, Prunable]:
    """Parameters with rows and columns that modules outside of torch hold, and those of `nn.Bilinear`.

    Taken as (out, in), as torch's own are.
    """
    found: dict[str, Prunable] = {}
    for path, owner in module.named_modules():
        listed = isinstance(owner, nn.ParameterList | nn.ParameterDict)
        if type(owner).__module__.startswith("torch.") and not listed and not isinstance(owner, nn.Bilinear):
            continue
        for leaf, parameter in owner._parameters.items():
            name = names[id(parameter)] if parameter is not None else ""
            if parameter is None or name in known or not _has_rows(parameter.shape):
                continue
            place = Place(path, leaf, path.rpartition(".")[0] if listed else path)
            places = (*found[name].places, place) if name in found else (place,)
            found[name] = Prunable(name, "matrix", 0, places)
    return found


def _has_rows(shape: Sequence[int]) -> bool:
    """Whether a parameter may be what something is multiplied by: not a vector, nor one with an axis for the batch.

    >>> [_has_rows(shape) for shape in ((8, 4), (1, 8), (1, 16, 8), (1, 50, 10, 16, 8))]
    [True, False, False, True]
    """
    longer = sum(extent > 1 for extent in shape)
    return longer > 2 or (longer == 2 == len(shape))


def _weights_of(path: str, owner: nn.Module, trained: bool) -> list[tuple[str, Kind, str]]:
    """(attribute, kind, reading module) of weights that `owner` itself holds; `trained`: not all is frozen."""
    if isinstance(owner, nn.MultiheadAttention):
        return [(leaf, "attention", path) for leaf in _ATTENTION]
    if isinstance(owner, _CONVOLUTIONS + _TRANSPOSED):
        depthwise = owner.groups > 1 and owner.groups == owner.in_channels
        return [("weight", "depthwise" if depthwise else "convolution", path)]
    if isinstance(owner, nn.modules.linear.NonDynamicallyQuantizableLinear):
        # attention passes this weight on as a tensor and never calls the layer
        return [("weight", "attention", path.rpartition(".")[0])]
    if isinstance(owner, nn.Linear) or _is_turned(owner):
        return [("weight", "linear", path)]
    if isinstance(owner, _RECURRENT):
        return [(leaf, "recurrent", path) for leaf in owner._parameters if leaf.startswith("weight_")]
    if isinstance(owner, _TABLES):
        return [("weight", "embedding", path)]
    return [(leaf, _kind(owner, leaf, product), path) for leaf, product in _own(owner, trained).items()]


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _kind(owner: nn.Module, leaf: str, product: Product) -> Kind:
    kind, outputs = product
    shape = owner.get_parameter(leaf).shape
    return "depthwise" if kind == "convolution" and shape[0] > 1 == shape[1] and not outputs else kind


def _own(owner: nn.Module, trained: bool) -> dict[str, Product]:
    """Parameters that a module outside of torch multiplies by, of the shape that such a product takes.

    One that is frozen in a model that is trained is a constant, such as a bank of filters.
    """
    held = {
        leaf: parameter.dim()
        for leaf, parameter in owner._parameters.items()
        if parameter is not None and (parameter.requires_grad or not trained)
        if sum(extent > 1 for extent in parameter.shape) > 1
    }
    kind: type = type(owner)
    if not held or kind.__module__.startswith("torch."):  # sources are read where there is something to find
        return {}
    products = {leaf: way for leaf in held if (way := multiplied(kind).get(leaf))}  # in the module's order
    return {leaf: way for leaf, way in products.items() if (held[leaf] == 2 if way[0] == "linear" else held[leaf] > 2)}


def _output_axis(owner: nn.Module, leaf: str) -> int:
    if isinstance(owner, _TRANSPOSED) or _is_turned(owner):
        return 1
    kind: type = type(owner)
    product = None if kind.__module__.startswith("torch.") else multiplied(kind).get(leaf)
    return product[1] if product else 0


def _is_turned(owner: nn.Module) -> bool:
    return any(f"{kind.__module__}.{kind.__qualname__}" in _TURNED for kind in type(owner).__mro__)


def _gates(owner: nn.Module, leaf: str, rows: int) -> int:
    """How many matrices a weight of `rows` rows stacks."""
    stacked = isinstance(owner, _RECURRENT) and leaf.startswith(("weight_ih", "weight_hh"))
    return rows // int(owner.hidden_size) if stacked else 1  # type: ignore[arg-type]
