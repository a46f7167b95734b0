"""A zoo of small networks, each alive at 90 % zeros: a file that is wrong cannot agree with it by luck.

Weights are drawn, pruned layer by layer by size, brought back to the energy they had, and only then batch norm learns
its statistics from random data. So activations keep their scale through every layer and outputs depend on the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from idp_deploy.flow import CompressedModel, Recipe
from idp_deploy.masks import prunable_weights
from sample_models import bert, mobilenet_v1, resnet18
from tests import zoo_images as images
from tests import zoo_odd as odd
from tests import zoo_sequences as sequences

Inputs = Callable[[int, torch.Generator], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Entry:
    """One architecture. `inputs(batch, generator)` draws the positional arguments of its forward."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    notes: str = ""
    unfolded: int = 0  # batch norms that no layer can take in

    def example_inputs(self, seed: int = 0, batch: int = 1) -> tuple[Tensor, ...]:
        return self.inputs(batch, torch.Generator().manual_seed(seed))


def floats(*shape: int) -> Inputs:
    return lambda batch, generator: (torch.randn(batch, *shape, generator=generator),)


def pictures(size: int) -> Inputs:
    """Coarse patches, a tint and a little grain: pure noise would average out and leave every output alike."""

    def draw(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        def normal(*shape: int) -> Tensor:
            return torch.randn(batch, 3, *shape, generator=generator)

        patches = normal(4, 4).repeat_interleave(size // 4, 2).repeat_interleave(size // 4, 3)
        return (patches + normal(1, 1) + 0.3 * normal(size, size),)

    return draw


def tokens(length: int, words: int) -> Inputs:
    return lambda batch, generator: (torch.randint(0, words, (batch, length), generator=generator),)


def sentences(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    ids = torch.randint(3, 60, (batch, 16), generator=generator)
    places = torch.arange(16).expand(batch, 16)
    ids[:, 12:] = 0
    return ids, ((places > 6) & (places < 12)).long(), (places < 12).long()


def image_and_row(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return *pictures(16)(batch, generator), torch.randn(batch, 10, generator=generator)


def steps_and_state(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Five steps and a state within ±1, as a GRU leaves it."""
    return torch.randn(batch, 5, 8, generator=generator), torch.randn(batch, 16, generator=generator).tanh()


IMAGE = pictures(32)
ZOO: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("mobilenet_v1", lambda: mobilenet_v1.build(0.25), pictures(64), "ReLU6, depthwise"),
        Entry("mobilenet_v2", images.mobilenet_v2, IMAGE, "residuals without activation"),
        Entry("mobilenet_v3", images.mobilenet_v3, IMAGE, "hard swish, squeeze-excite"),
        Entry("efficientnet_lite", images.efficientnet_lite, IMAGE, "5×5 depthwise, dropout"),
        Entry("resnet18", lambda: resnet18.build(0.125), IMAGE, "shortcuts with batch norm"),
        Entry("resnet50", images.resnet50, IMAGE, "bottlenecks, 7×7 stem, max pooling"),
        Entry("classic", images.Classic, IMAGE, "a map viewed as a row, no pooling over it"),
        Entry("squeezenet", images.squeezenet, IMAGE, "concatenation, ceil mode, no batch norm"),
        Entry("shufflenet_v2", images.shufflenet_v2, IMAGE, "channel split and shuffle"),
        Entry("densenet", images.densenet, IMAGE, "batch norm before convolution", unfolded=4),
        Entry("convnext", images.convnext, IMAGE, "layer norm on channels last, 7×7 depthwise"),
        Entry("unet", images.UNet, IMAGE, "transposed convolution, skips, map output"),
        Entry("upsampler", images.Upsampler, floats(24), "resize, transposed convolution with batch norm"),
        Entry("segmenter", images.Segmenter, IMAGE, "dilation, groups, resize to the input's size"),
        Entry("detector", images.Detector, IMAGE, "dict output, group norm"),
        Entry("super_resolution", images.super_resolution, pictures(16), "pixel shuffle, PReLU, reflect padding"),
        Entry("vit", sequences.ViT, IMAGE, "class token, fused attention"),
        Entry("mixer", sequences.Mixer, IMAGE, "perceptron across patches"),
        Entry("bert", lambda: bert.build(64, 32, 2, 4, 16), sentences, "three integer inputs, padding"),
        Entry("torch_attention", sequences.TorchAttention, floats(9, 32), "nn.MultiheadAttention"),
        Entry("transformer_layer", sequences.TransformerLayer, floats(9, 32), "nn.TransformerEncoderLayer"),
        Entry("tied_language_model", sequences.TiedLanguageModel, tokens(12, 60), "tied table, causal attention"),
        Entry("keyword_spotter", sequences.KeywordSpotter, floats(40, 49), "1-D convolution"),
        Entry("gru", lambda: sequences.Recurrent(nn.GRU), floats(7, 12), "recurrent"),
        Entry("lstm", lambda: sequences.Recurrent(nn.LSTM, True), floats(7, 12), "recurrent, both directions"),
        Entry("two_inputs", sequences.TwoInputs, image_and_row, "image and row, tuple output, linear + batch norm"),
        Entry("feature_pyramid", odd.FeaturePyramid, IMAGE, "one head, norms of its own a level, factors", unfolded=2),
        Entry("decoder", odd.decoder, floats(12, 5, 4), "transposed convolutions of every padding"),
        Entry("cell", odd.Cell, steps_and_state, "recurrent by hand, a state that is output and input"),
        Entry("shared_layer", sequences.SharedLayer, floats(20), "one layer used three times, buffer"),
    )
}


def pruned(entry: Entry, sparsity: float = 0.9, seed: int = 0) -> CompressedModel:
    """The entry's network with `sparsity` of every prunable weight zero, alive, in eval mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = entry.build()
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1 and "norm" not in name:
                fan_in = math.prod(parameter.shape[1:])
                nn.init.normal_(parameter, std=1.0 if _is_table(module, name) else math.sqrt(1.6 / fan_in))
            elif name.endswith("bias"):
                nn.init.normal_(parameter, std=0.1)
        masks = {name: _prune(module.get_parameter(name), sparsity) for name in prunable_weights(module)}
        _learn_statistics(module, entry, seed)
    return CompressedModel(module.eval(), masks, Recipe(sparsity=sparsity, method="magnitude"))


def flat(outputs: Any) -> list[Tensor]:
    """Outputs in the order in which torch flattens them."""
    return [x for x in torch.utils._pytree.tree_leaves(outputs) if isinstance(x, Tensor)]


def _is_table(module: nn.Module, name: str) -> bool:
    return isinstance(module.get_submodule(name.rpartition(".")[0]), nn.Embedding)


def _prune(weight: Tensor, sparsity: float) -> Tensor:
    """Zero the smallest entries in place, at least one a row kept, and restore the weight's energy."""
    energy = weight.norm()
    size = weight.abs().contiguous()
    rows = size.flatten(1)
    size.view(len(size), -1).scatter_add_(1, rows.argmax(1, keepdim=True), torch.full((len(size), 1), 1e3))
    order = size.flatten().argsort(stable=True)
    mask = torch.ones(weight.numel(), dtype=torch.bool)
    mask[order[: min(round(sparsity * weight.numel()), weight.numel() - len(size))]] = False
    mask = mask.view(weight.shape)
    weight.mul_(mask)
    weight.mul_(energy / weight.norm())
    return mask


def _learn_statistics(module: nn.Module, entry: Entry, seed: int) -> None:
    """Batch norms take mean and variance of random data; scales and shifts are drawn so that folding is not trivial."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 1.0, 0.3)  # around 0 every layer would amplify rounding errors
        norm.momentum = 0.5
    module.train()
    for step in range(6):
        module(*entry.example_inputs(1000 + seed + step, batch=8))
