"""A module's channels as torch-pruning traces them, through one call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from idp_deploy.channels.counting import Number, above, tie_heads, ways_to_count
from idp_deploy.channels.recurrent import Held, Hidden, Projecting, gates, standing_in
from idp_deploy.channels.splitting import Apart, follow_splits, measure_splits
from idp_deploy.channels.walking import LostError, walk, widest
from idp_deploy.errors import hushed

LAYERS = nn.modules.conv._ConvNd | nn.Linear
TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_PLACES = ("CONCAT", "RESHAPE", "UNBIND", "EXPAND", "SLICE")  # operators that move channels to other places
_UNCOUNTED = (
    ZeroDivisionError,
    IndexError,
    TypeError,
)  # of torch-pruning where it cannot count the channels of such an operator
# a channel whose parameters are all zero stays zero through these, so that what follows never sees it
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Entries(NamedTuple):
    """One parameter of a layer that makes channels, or one that stands in the module itself, such as a factor."""

    name: str
    owner: nn.Module
    leaf: str
    parameter: nn.Parameter
    axis: int  # along which it has the channels
    gates: int = 1  # stacked along that axis, each with all channels

    def by_channel(self, values: Tensor) -> Tensor:
        """A view of such values with the channels in front."""
        first = values.movedim(self.axis, 0)
        return first if self.gates == 1 else first.unflatten(0, (self.gates, -1)).movedim(1, 0)


class Channels:
    """torch-pruning's graph of a module on a CPU. A *group* is (dependency, indices) after (dependency, indices)."""

    def __init__(self, module: nn.Module, example_inputs: tuple[Any, ...], unseen: Sequence[nn.Module] = ()) -> None:
        import torch_pruning

        for parameter in module.parameters():
            parameter.requires_grad_(True)
        self.graph = torch_pruning.DependencyGraph()
        with hushed():  # torch-pruning warns of every parameter it does not prune
            try:
                self.graph.build_dependency(
                    module, example_inputs, forward_fn=_with_graph, ignored_layers=list(unseen), verbose=False
                )
            except _UNCOUNTED:  # at the very end, where places are counted
                if not hasattr(self.graph, "module2node"):
                    raise
            measure_splits(self.graph)
            self.refresh()
            _follow_reshapes(self.graph)
        self._most = widest(self.graph)
        self._names = {child: name for name, child in module.named_modules()}
        self._heads: dict[Any, tuple[int, int]] = {}  # reshape → heads that it makes, of how many channels

    def groups(self) -> Iterator[tuple[str, Any]]:
        """The layer that a group begins with and the group with all its channels, or why it has none."""
        met = set(self.graph.IGNORED_LAYERS_IN_TRACING)
        for layer in list(self.graph.module2node):
            if not isinstance(layer, LAYERS) or layer in met:
                continue
            root = self._names[layer]
            try:
                group = self.whole(root)
            except LostError as error:
                yield root, str(error)
                continue
            made = {dependency.target.module for dependency, _ in group if self.makes(dependency)}
            if made.isdisjoint(self.graph.IGNORED_LAYERS_IN_TRACING):
                yield root, group
            met |= made

    def group(self, root: str, channels: list[int]) -> Any:
        """What goes with some channels of the layer of that name."""
        layer = self.graph.model.get_submodule(root)
        return walk(self.graph, layer, self.graph.get_pruner_of_module(layer).prune_out_channels, channels, self._most)

    def whole(self, root: str) -> Any:
        """The group with all channels of the layer of that name; those of one head go together."""
        layer = self.graph.model.get_submodule(root)
        group = self.group(root, list(range(self.graph.get_pruner_of_module(layer).get_out_channels(layer))))
        group.apart = dict(group.with_it)
        self._heads |= tie_heads(group)
        return group

    def prune(self, root: str, channels: list[int], way: int = 0) -> None:
        """Take channels of the layer of that name out, and all that go with them.

        Args:
            way: in which its modules' numbers follow; 0: none does.
        """
        group = self.group(root, channels)
        numbers = self._ways(group)[way] if way else []
        group.prune()
        for number in numbers:
            setattr(*number)
        self.refresh()

    def ways(self, root: str, channels: list[int]) -> int:
        """In how many ways the numbers of modules may follow when these channels are taken out, none of them first."""
        return len(self._ways(self.group(root, channels)))

    def _ways(self, group: Any) -> list[list[Number]]:
        """How the numbers of the modules around a group may follow when it is taken out."""
        many: dict[int, int] = {}
        widths: dict[int, int] = {}
        parts: dict[Any, Any] = {}
        for dependency, indices in group:
            node = dependency.target
            if node in self._heads:
                heads, channels = self._heads[node]
                many[heads] = heads - heads * len(indices) // channels
            elif isinstance(node.module, LAYERS):
                extent = (self.graph.get_out_channels if self.makes(dependency) else self.graph.get_in_channels)(node)
                widths[extent] = extent - len(indices)
            if sizes := getattr(node.module, "split_sizes", None):
                ends = [sum(sizes[:place]) for place in range(len(sizes) + 1)]
                left = [size - sum(a <= i < a + size for i in indices) for size, a in zip(sizes, ends, strict=False)]
                parts |= {**dict(zip(sizes, left, strict=True)), tuple(sizes): tuple(left)}
        layers = [dependency.target.module for dependency, _ in group]
        return ways_to_count(above(self._names, self.graph.model, layers), many, widths, parts)

    def refresh(self) -> None:
        """After layers were changed: where the channels of each are in concatenations and splits."""
        from torch_pruning.dependency import index_mapping

        for node in self.graph.module2node.values():
            update = getattr(index_mapping, f"update_{node.type.name.lower()}_index_mapping", None)
            if update is not None and node.type.name in _PLACES:
                with suppress(*_UNCOUNTED):  # what it then gets wrong is seen when channels are taken out
                    update(self.graph, node)
        follow_splits(self.graph)

    def entries(self, dependency: Any, *, inside: bool = False) -> list[Entries]:
        """What has an entry, or several, for each channel of what a dependency leads to.

        Args:
            inside: of what stands in the place of a recurrent layer, not of the layer itself.
        """
        owner = dependency.target.module
        if isinstance(owner, Hidden) and not inside:
            layer = owner.of[0]
            path, many = self._names[layer], gates(layer)
            return [
                Entries(f"{path}.{leaf}", layer, leaf, parameter, 0, many)
                for leaf, parameter in layer.named_parameters(recurse=False)
            ]
        if isinstance(owner, nn.Parameter):
            name = self.graph._param_to_name[owner]
            path, _, leaf = name.rpartition(".")
            return [Entries(name, self.graph.model.get_submodule(path), leaf, owner, dependency.target.pruning_dim)]
        path = self._names.get(owner, "")
        return [
            Entries(f"{path}.{leaf}", owner, leaf, parameter, channel_axis(owner, leaf))
            for leaf, parameter in owner.named_parameters(recurse=False)
        ]

    @contextmanager
    def for_a_while(self, groups: Iterable[Any]) -> Iterator[None]:
        """Inside, channels of these groups may be taken out; then the layers are as before."""
        targets = {dependency.target for group in groups for dependency, _ in group}
        layers = [one.module for one in targets if isinstance(one.module, nn.Module)]
        alone = [one for one in targets if isinstance(one.module, nn.Parameter)]
        owners = [
            self.graph.model.get_submodule(self.graph._param_to_name[one.module].rpartition(".")[0]) for one in alone
        ]
        nodes, names, modules = dict(self.graph.module2node), dict(self.graph._param_to_name), [n.module for n in alone]
        try:
            counting = above(self._names, self.graph.model, layers)
            with as_before({*owners, *counting, *(part for layer in layers for part in layer.modules())}):
                yield
        finally:
            for node, parameter in zip(alone, modules, strict=True):
                node.module = parameter
            self.graph.module2node, self.graph._param_to_name = nodes, names
            self.refresh()

    def share_read(self, item: Any) -> float:
        """Of the inputs of the layer that an entry of a group leads to: those that are the group's channels."""
        return len(item.idxs) / (self.graph.get_in_channels(item.dep.target) or len(item.idxs))

    def makes(self, dependency: Any) -> bool:
        """Whether it is about the outputs of a layer, not about what one reads."""
        return bool(self.graph.is_out_channel_pruning_fn(dependency.handler))


def _follow_reshapes(graph: Any) -> None:
    """Channels of which each is several inputs of a linear layer behind a reshape of three axes or more.

    torch-pruning leaves reshapes alone in any network where a linear layer reads three axes.
    """
    from torch_pruning import ops
    from torch_pruning.dependency import index_mapping, shape_infer

    follows, graph._2d_4d = graph._2d_4d, True
    for node in graph.module2node.values():
        sizes = getattr(node.grad_fn, "_saved_self_sym_sizes", ())
        if node.type != ops.OPTYPE.RESHAPE or len(node.inputs) != 1 or len(node.outputs) != 1:
            continue
        reader, made = node.outputs[0].module, None
        with suppress(*_UNCOUNTED):
            made = shape_infer.infer_out_channels_recursively(graph, node.inputs[0], [0])
        flattened = [math.prod(sizes[axis:]) for axis in range(len(sizes) - 1) if sizes[axis] == made]
        if isinstance(reader, nn.Linear) and reader.in_features in flattened:
            index_mapping.update_reshape_index_mapping(graph, node)
    graph._2d_4d = follows


@contextmanager
def traced(module: nn.Module, example_inputs: tuple[Any, ...]) -> Iterator[Channels]:
    """Inside, recurrent layers are stood in for, and channels may be pruned; what is left of them stays."""
    with torch.random.fork_rng(), torch.enable_grad(), standing_in(module) as layers:
        yield Channels(module, example_inputs, layers)


def closed(group: Any, channels: list[int]) -> list[int]:
    """Those of these channels that take none with them but others of these, as halves of a gate do: whole heads if any.

    Args:
        group: with all channels.
    """
    for speakers in (group.with_it, group.apart):
        kept = {speakers[channel] for channel in set(speakers) - set(channels)}
        if found := [channel for channel in channels if speakers[channel] not in kept]:
            return found
    return []


def half(group: Any) -> list[int]:
    """About half the channels of the layer that a group with all of them begins with, without order, and what ties say.

    Channels of which one takes the other with it are among them both or neither. What is left has no divisor that all
    of them had: heads that happen to stay whole would be no trial.
    """
    speakers = sorted(set(group.with_it.values()))
    many = len(speakers)
    count = max(1, many // 2)
    while count > 1 and math.gcd(many - count, many) > 1:
        count -= 1
    order = torch.randperm(many, generator=torch.Generator().manual_seed(many))
    chosen = {speakers[place] for place in order[:count].tolist()}
    return sorted(channel for channel, speaker in group.with_it.items() if speaker in chosen)


def is_held(channels: Channels, dependency: Any) -> bool:
    """Whether its channels are what an LSTM projects, or its cells beside that."""
    return isinstance(dependency.target.module, Projecting if channels.makes(dependency) else Held)


def channel_axis(owner: nn.Module, leaf: str) -> int:
    """Of a layer's parameter."""
    return int(isinstance(owner, TRANSPOSED) and leaf == "weight" and owner.groups == 1)


def outputs(module: nn.Module, example_inputs: tuple[Any, ...]) -> list[Tensor]:
    """The tensors that a call gives. What it writes into the module or its arguments is undone."""
    with torch.no_grad(), torch.random.fork_rng(), as_before(module.modules()):
        return [leaf.clone() for leaf in _called(module, example_inputs)]


def first_line(error: Exception) -> str:
    """Of what it says, or its type's name: a forward's `assert` says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _called(module: nn.Module, example_inputs: tuple[Any, ...]) -> list[Tensor]:
    own = tree_map_only(Tensor, lambda x: x.detach().clone(), example_inputs)
    return [leaf for leaf in tree_leaves(module(*own)) if isinstance(leaf, Tensor)]


def _with_graph(module: nn.Module, example_inputs: tuple[Any, ...]) -> list[Tensor]:
    with as_before(module.modules()), Apart():
        return [leaf for leaf in _called(module, example_inputs) if leaf.grad_fn is not None]


@contextmanager
def as_before(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Layers are put back as they were: attributes, parameters, and buffers with their values."""
    layers = [layer for layer in layers if not isinstance(layer, torch.jit.ScriptModule)]
    attributes = [(layer, dict(vars(layer))) for layer in layers]
    held = [  # tuples: nothing is made for a layer's many empty dicts of hooks
        (value, tuple(value.items() if isinstance(value, dict) else value))
        for _, own in attributes
        for value in own.values()
        if isinstance(value, list | dict)
    ]
    buffers = [(one, one.detach().clone()) for layer in layers for one in layer.buffers(recurse=False)]
    try:
        yield
    finally:
        for layer, own in attributes:
            layer.__dict__.clear()
            layer.__dict__.update(own)
        for value, then in held:
            value.clear()
            value.extend(then) if isinstance(value, list) else value.update(then)
        with torch.no_grad():
            for buffer, values in buffers:
                buffer.copy_(values)


def same(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    """To rounding; what is no number has to be so in both."""
    return len(before) == len(after) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5 * _largest(a), equal_nan=True)
        for a, b in zip(before, after, strict=True)
    )


def _largest(values: Tensor) -> float:
    finite = values[values.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0


def shares_weights(module: nn.Module) -> set[nn.Module]:
    """Layers a parameter of which is another layer's as well."""
    holders: dict[Tensor, list[nn.Module]] = {}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            holders.setdefault(parameter, []).append(layer)
    return {layer for layers in holders.values() if len(layers) > 1 for layer in layers}


def names_of(module: nn.Module) -> Mapping[Any, str]:
    """Layer → its name."""
    return {child: name for name, child in module.named_modules()}
