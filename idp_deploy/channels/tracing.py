"""A module's channels as torch-pruning traces them, through one call."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from idp_deploy.channels.recurrent import Held, Hidden, standing_in

TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


class Channels:
    """torch-pruning's graph of a module on a CPU. A *group* is (dependency, indices) after (dependency, indices)."""

    def __init__(self, module: nn.Module, example_inputs: tuple[Any, ...], unseen: Sequence[nn.Module] = ()) -> None:
        import torch_pruning

        for parameter in module.parameters():
            parameter.requires_grad_(True)
        with _quiet():
            self.graph = torch_pruning.DependencyGraph().build_dependency(
                module, example_inputs, ignored_layers=list(unseen), verbose=False
            )
            _follow_reshapes(self.graph)
        self._roots = {node.name: node.module for node in self.graph.module2node.values()}

    def groups(self) -> list[Any]:
        """Every group with all its channels."""
        return list(self.graph.get_all_groups())

    def group(self, root: str, channels: list[int]) -> Any:
        """What goes with some channels of the layer that `root_of` names."""
        layer = self._roots[root]
        return self.graph.get_pruning_group(layer, self.graph.get_pruner_of_module(layer).prune_out_channels, channels)

    def half(self, root: str) -> list[int]:
        """About half the channels of that layer, spread without order."""
        layer = self._roots[root]
        many = self.graph.get_pruner_of_module(layer).get_out_channels(layer)
        chosen = torch.randperm(many, generator=torch.Generator().manual_seed(many))[: max(1, many // 2)]
        return sorted(chosen.tolist())

    def closed(self, root: str, channels: list[int]) -> list[int]:
        """Those of these channels that take none with them but others of these, as halves of a gate do."""
        chosen = set(channels)
        if set(self.group(root, channels)[0].idxs) <= chosen:
            return channels
        return [one for one in channels if set(self.group(root, [one])[0].idxs) <= chosen]

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
        reader, made = node.outputs[0].module, shape_infer.infer_out_channels_recursively(graph, node.inputs[0], [0])
        flattened = [math.prod(sizes[axis:]) for axis in range(len(sizes) - 1) if sizes[axis] == made]
        if isinstance(reader, nn.Linear) and reader.in_features in flattened:
            index_mapping.update_reshape_index_mapping(graph, node)
    graph._2d_4d = follows


@contextmanager
def traced(module: nn.Module, example_inputs: tuple[Any, ...]) -> Iterator[Channels]:
    """Inside, recurrent layers are stood in for, and channels may be pruned; what is left of them stays."""
    with torch.random.fork_rng(), torch.enable_grad(), standing_in(module) as layers:
        yield Channels(module, example_inputs, layers)


def root_of(group: Any) -> str:
    """The layer that a group begins with."""
    return str(group[0].dep.target.name)


def is_hidden(channels: Channels, dependency: Any) -> bool:
    """Whether its channels are hidden units of a recurrent layer."""
    return isinstance(dependency.target.module, Hidden if channels.makes(dependency) else Held)


def channel_axis(owner: nn.Module, leaf: str) -> int:
    """Of a layer's parameter."""
    return int(isinstance(owner, TRANSPOSED) and leaf == "weight")


def outputs(module: nn.Module, example_inputs: tuple[Any, ...]) -> list[Tensor]:
    """The tensors that a call gives."""
    with torch.no_grad(), torch.random.fork_rng():
        return [leaf for leaf in tree_leaves(module(*example_inputs)) if isinstance(leaf, Tensor)]


def same(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    """To rounding."""
    return len(before) == len(after) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max() + 1e-30))
        for a, b in zip(before, after, strict=True)
    )


def names_of(module: nn.Module) -> Mapping[Any, str]:
    """Layer → its name."""
    return {child: name for name, child in module.named_modules()}


@contextmanager
def _quiet() -> Iterator[None]:
    """torch-pruning warns about every parameter it does not prune."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
