"""convert: a captured model → the converter's flatbuffer, with image inputs channel-last and outputs in order."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from idp_deploy.capturing import Captured
from idp_deploy.errors import ConversionError, hushed
from idp_deploy.formats.tflite.write.apart import keep_apart
from idp_deploy.formats.tflite.write.norms import say_as_factors
from idp_deploy.formats.tflite.write.recurring import RECURRENT_LAYERS
from idp_deploy.rewriting.batches import UNBATCHED
from idp_deploy.rewriting.bits import BITS
from idp_deploy.rewriting.complexes import without_complex
from idp_deploy.rewriting.computed import TRANSPOSED, take_apart
from idp_deploy.rewriting.constants import fold_constants
from idp_deploy.rewriting.diagonals import DIAGONALS
from idp_deploy.rewriting.elementwise import (
    PLAINER,
    SHIFTED,
    image_taken_from,
    less,
    nan_to_num,
    one_hot,
    repeat,
    share_of,
    whole_chunk,
    whole_split,
)
from idp_deploy.rewriting.experts import EXPERTS
from idp_deploy.rewriting.images import MEANS_OF_WINDOWS, SMOOTHED, adaptive_avg_pool3d, linear, nearest2d, unfold
from idp_deploy.rewriting.indexing import PLACES, RANKS
from idp_deploy.rewriting.lines import ALONG_A_LINE, ORDERS
from idp_deploy.rewriting.masked import choose_for_masks
from idp_deploy.rewriting.narrow import widen
from idp_deploy.rewriting.placing import MEMORY
from idp_deploy.rewriting.pooling import DILATED, LARGEST, by_planes, put_back
from idp_deploy.rewriting.products import SUMS_OF_PRODUCTS, embedding_bag, spell_out_bags
from idp_deploy.rewriting.ranks import within
from idp_deploy.rewriting.repeats import REPEATS, count_what_is_bounded
from idp_deploy.rewriting.roots import divide_by_roots
from idp_deploy.rewriting.scattering import SCATTERED
from idp_deploy.rewriting.segments import SEGMENTS
from idp_deploy.rewriting.solving import SOLVING
from idp_deploy.rewriting.special import SPECIAL
from idp_deploy.rewriting.spelling import Row, spell_out
from idp_deploy.rewriting.spreading import leave_spreading_to_operators
from idp_deploy.rewriting.transposed import crop_explicitly, held_by_tflite, in_other_layers, refuse_grouped_and_dilated
from idp_deploy.rewriting.truths import COMPARED, ENDLESS, MOVED, counted
from idp_deploy.rewriting.volumes import VOLUMES
from idp_deploy.rewriting.whole import WHOLE

_RANK = 6  # of XNNPACK, which does not load a file where a linear layer has more
_SPATIAL = ("conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "upsample", "batch_norm")
Arrays = tuple[np.ndarray, ...]
_CHECKED = 4  # calibration calls that the written file is checked on
# where a message goes on with a traceback of no use to the reader
_TRACE = re.compile(r"While executing|Original traceback|The error occurred|The above exception", re.IGNORECASE)
_OPERATOR = re.compile(r"aten\.(\w+)|tfl\.(\w+)|stablehlo\.(\w+)|STABLEHLO_(\w+)")
_LOWERED_FROM = {
    "sort": ("topk", "argsort", "median", "msort"),
    "scatter": ("index_put", "scatter_add", "index_add"),
    "convolution": ("conv_transpose3d",),
}
_MEAN = torch.ops.aten.mean.dim
# most have no lowering, or one that TFLite refuses; of a channel-last image the converter repeats other axes than told,
# takes the number from the image where the image is to be taken from the number, and quotients alike, and resizing one
# it takes the pixels in the middle, where torch takes the first, and the ratio of the sizes for the factor given
_SPELLED: dict[Any, Row] = {
    torch.ops.aten.adaptive_avg_pool3d.default: adaptive_avg_pool3d,
    **dict.fromkeys((torch.ops.aten.conv_transpose1d.default, torch.ops.aten.conv_transpose2d.input), in_other_layers),
    torch.ops.aten.conv_transpose3d.input: in_other_layers,
    torch.ops.aten.embedding_bag.padding_idx: embedding_bag,
    torch.ops.aten.exp2.default: lambda x: torch.exp(x * math.log(2)),
    torch.ops.aten.nan_to_num.default: nan_to_num,
    torch.ops.aten.one_hot.default: one_hot,
    torch.ops.aten.repeat.default: repeat,
    torch.ops.aten.chunk.default: whole_chunk,
    **dict.fromkeys((torch.ops.aten.split.Tensor, torch.ops.aten.split_with_sizes.default), whole_split),
    torch.ops.aten.unfold.default: unfold,
    torch.ops.aten.square.default: lambda x: x * x,
    torch.ops.aten.to.dtype: counted,
    torch.ops.aten.view.default: torch.reshape,
    torch.ops.aten.div.Tensor: share_of,
    torch.ops.aten.sub.Tensor: less,
    **{getattr(torch.ops.aten.rsub, form): image_taken_from for form in ("Scalar", "Tensor")},
    torch.ops.aten.upsample_nearest2d.vec: nearest2d,
    torch.ops.aten.upsample_bilinear2d.vec: linear,
    **ALONG_A_LINE,
    **BITS,
    **COMPARED,
    **ENDLESS,
    **DIAGONALS,
    **DILATED,
    torch.ops.aten.max_pool3d.default: by_planes,
    **EXPERTS,
    **SHIFTED,
    **LARGEST,
    **MOVED,
    **MEANS_OF_WINDOWS,
    **ORDERS,
    **PLACES,
    **PLAINER,
    **RANKS,
    **REPEATS,
    **SCATTERED,
    **SMOOTHED,
    **SEGMENTS,
    **SOLVING,
    **SPECIAL,
    **SUMS_OF_PRODUCTS,
    **VOLUMES,
    **WHOLE,
}


class ChannelLast(NamedTuple):
    """Positions of the images among the inputs and among the outputs."""

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class Lowered:
    """The converter's file and how its signature maps to the model's flattened inputs and outputs.

    Input i is called `args_i` in the signature and output i `output_i`; `channel_last` holds the positions of the
    inputs and of the outputs that are (N, H, W, C) in the file where the model has (N, C, H, W). `calls` are
    (inputs, outputs) of the model, in its layout: the example, and where the model stays finite a seeded random one.
    """

    content: bytes
    calibration: tuple[Arrays, ...]  # in the model's layout, flattened
    calls: tuple[tuple[Arrays, Arrays], ...]
    channel_last: ChannelLast


class FlatIO(nn.Module):
    """The captured module with a flat signature: every tensor input an argument, every tensor output a result.

    Args:
        module: takes the structure that `example_inputs` has.
        channel_last: positions (among the tensors) that arrive, and that leave, as (N, H, W, C).
    """

    def __init__(self, module: nn.Module, example_inputs: tuple[Any, ...], channel_last: ChannelLast) -> None:
        super().__init__()
        self.module = module
        self.channel_last = channel_last
        self.training = False  # an exported graph is fixed in eval mode and refuses eval() itself
        self.leaves, self.spec = pytree.tree_flatten(example_inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Flat tensors in, flat tensors out."""
        arrived = (x.permute(0, 3, 1, 2) if i in self.channel_last.inputs else x for i, x in enumerate(tensors))
        leaves = [next(arrived) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        outputs = self.module(*pytree.tree_unflatten(leaves, self.spec))
        results = [x for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor)]
        return tuple(x.permute(0, 2, 3, 1) if i in self.channel_last.outputs else x for i, x in enumerate(results))


def convert(captured: Captured, calibration: Sequence[tuple[Any, ...]] = (), *, layout: str = "") -> Lowered:
    """Run litert_torch on `captured`.

    Args:
        layout: of images: nchw as the model has them, nhwc channel-last at both ends, else channel-last inputs alone.
        calibration: calls like the example. Where there are some, the first of them replace the seeded random call,
            since activation ranges hold for inputs like these only.

    Raises:
        ConversionError: an operator the converter cannot lower, with the module it stands in.
    """
    inputs = _tensors(captured.example_inputs)
    flat = FlatIO(captured.module, captured.example_inputs, ChannelLast())
    # before any rewriting: of equals torch.topk, which sorts are said by, takes others than torch.sort and LiteRT
    calls = tuple(_calls(flat, inputs, [_tensors(call) for call in calibration[:_CHECKED]]))
    spell_out(captured.module, MEMORY)
    without_complex(captured.module)
    fold_constants(captured.module)
    put_back(captured.module)
    spell_out_bags(captured.module)
    choose_for_masks(captured.module)
    count_what_is_bounded(captured.module)
    widen(captured.module)
    spell_out(captured.module, UNBATCHED)
    take_apart(captured.module, TRANSPOSED)
    spell_out(captured.module, _SPELLED)
    divide_by_roots(captured.module)
    leave_spreading_to_operators(captured.module)
    keep_spatial_means(captured.module)
    refuse_grouped_and_dilated(captured.module)
    crop_explicitly(captured.module, held_by_tflite)
    pad_rows(captured.module)
    within(captured.module, _RANK)
    channel_last = ChannelLast(
        image_inputs(captured.module) if layout != "nchw" else frozenset(),
        image_outputs(captured.module) if layout == "nhwc" else frozenset(),
    )
    flat.channel_last = channel_last
    arriving = tuple(
        x.permute(0, 2, 3, 1).contiguous() if i in channel_last.inputs else x for i, x in enumerate(inputs)
    )
    with _quiet(), torch.no_grad(), torch.random.fork_rng():
        import litert_torch

        spell_out(captured.module, RECURRENT_LAYERS)
        say_as_factors(captured.module)  # once it is known which inputs are images: a norm tells
        keep_apart(captured.module)
        try:
            with _infinities_as_they_are():
                content = litert_torch.convert(flat, arriving).model_content()
        except Exception as error:
            raise ConversionError(
                f"TFLite conversion fails at {explain(captured.module, str(error) or type(error).__name__)}",
                way_out=_way_out(str(error)),
            ) from error
    return Lowered(content, tuple(tuple(x.numpy() for x in _tensors(c)) for c in calibration), calls, channel_last)


def _tensors(call: Any) -> list[Tensor]:
    return [x.detach().cpu() for x in pytree.tree_leaves(call) if isinstance(x, Tensor)]


@torch.no_grad()
def _calls(flat: FlatIO, example: list[Tensor], others: list[list[Tensor]]) -> Iterator[tuple[Arrays, Arrays]]:
    generator = torch.Generator().manual_seed(0)
    seeded = [torch.randn(x.shape, generator=generator).to(x.dtype) if x.is_floating_point() else x for x in example]
    for position, inputs in enumerate(others or [example, seeded]):
        try:
            with torch.random.fork_rng():
                outputs = flat(*inputs)
        except Exception as error:  # the model's own; of floats that nobody gave it, it may take none
            if position and not others:
                continue
            raise ConversionError(
                f"the model fails on its inputs: {next(iter(str(error).splitlines()), type(error).__name__)}",
                way_out="call it once on the example inputs, and make them fit",
            ) from error
        if position == 0 or all(bool(torch.isfinite(x).all()) for x in outputs):
            yield tuple(x.numpy() for x in inputs), tuple(x.numpy() for x in outputs)


def image_inputs(module: fx.GraphModule) -> frozenset[int]:
    """Positions of the tensor inputs that reach a convolution or a pool as (N, C, H, W) without a change of rank."""
    tensors = [n for n in module.graph.nodes if n.op == "placeholder" and isinstance(n.meta.get("val"), Tensor)]
    maps = ((i, n) for i, n in enumerate(tensors) if _rank(n) == 4 and n.meta["val"].is_floating_point())
    return frozenset(i for i, node in maps if _leads_to_images(node.users, lambda n: n.users))


def image_outputs(module: fx.GraphModule) -> frozenset[int]:
    """Positions of the tensor outputs that come from a convolution or a pool as (N, C, H, W), all the way of rank 4."""

    def sources(node: fx.Node) -> list[fx.Node]:
        return [source for source in node.all_input_nodes if _rank(source) == 4]

    results = [x for x in pytree.tree_leaves(module.graph.output_node().args[0]) if _rank(x) is not None]
    return frozenset(i for i, x in enumerate(results) if _rank(x) == 4 and _leads_to_images([x], sources))


def _leads_to_images(nodes: Iterable[fx.Node], on: Callable[[fx.Node], Iterable[fx.Node]]) -> bool:
    """Whether one of them is a convolution or a pool, or what follows `on` from there through maps is."""
    seen: set[fx.Node] = set()
    frontier = list(nodes)
    while frontier:
        node = frontier.pop()
        if any(word in str(node.target) for word in _SPATIAL):
            return True
        if node not in seen and _rank(node) == 4:
            seen.add(node)
            frontier += on(node)
    return False


def _rank(node: Any) -> int | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.dim() if isinstance(value, Tensor) else None


def pad_rows(module: fx.GraphModule) -> None:
    """1-D convolutions with padding="same", in place: the converter, which makes them 2-D, takes the word for numbers.

    Of an odd number of entries one more lies at the end: window 4 → 1 before, 2 behind.
    """
    aten = torch.ops.aten
    for node in module.graph.nodes:
        if node.target is not aten.conv1d.padding:
            continue
        left_out = (None, [1], "valid", [1], 1)[len(node.args) - 2 :]
        arguments: tuple[Any, ...] = (*node.args, *left_out)
        x, weight, bias, stride, padding, dilation, groups = arguments
        entries = dilation[0] * (weight.meta["val"].shape[-1] - 1) if padding == "same" else 0
        with module.graph.inserting_before(node):
            if entries % 2:
                x = module.graph.call_function(aten.constant_pad_nd.default, (x, [0, 1]))
        node.target = aten.conv1d.default
        node.args = (x, weight, bias, stride, [entries // 2], dilation, groups)
    module.recompile()


def keep_spatial_means(module: fx.GraphModule) -> None:
    """Rewrite mean over (H, W) as mean-keeping-dimensions then flatten, in place; the numbers stay the same.

    (N, C, H, W) → (N, C, 1, 1) → (N, C). Without this the converter leaves a TRANSPOSE before MEAN, which ends
    XNNPACK's sparse cluster (https://github.com/google/XNNPACK, src/subgraph.c).
    """
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target is not _MEAN:
            continue
        source, axes = node.args[0], node.args[1]
        keeps = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
        value = source.meta.get("val")
        if keeps or value is None or value.dim() != 4 or {a % 4 for a in axes or ()} != {2, 3}:
            continue
        with module.graph.inserting_before(node):
            mean = module.graph.call_function(_MEAN, (source, [2, 3], True), dict(node.kwargs) | {"keepdim": True})
            mean.args = mean.args[:2]
            flat = module.graph.call_function(torch.ops.aten.flatten.using_ints, (mean, 1))
        flat.meta = dict(node.meta)
        mean.meta = {k: v for k, v in node.meta.items() if k != "val"}
        node.replace_all_uses_with(flat)
        module.graph.erase_node(node)
    module.recompile()


def explain(module: fx.GraphModule, text: str) -> str:
    """The converter's or runtime's message in one line, led by the model's operator and the module it stands in."""
    words = {word.lower().strip("_") for groups in _OPERATOR.findall(text) for word in groups if word}
    text = " ".join(_TRACE.split(text)[0].split())[:300]
    words |= {other for word in words for other in _LOWERED_FROM.get(word, ())}
    for node in module.graph.nodes:
        short = str(node.target).removesuffix(".default")
        base = short.removeprefix("aten.").partition(".")[0]
        if node.op == "call_function" and any(base.strip("_").startswith(word) for word in words):
            stack = node.meta.get("nn_module_stack") or {}
            where = next(reversed([str(entry[0]) for entry in stack.values()]), "") if stack else ""
            place = f"in module {where!r}" if where else f"(node {node.name!r})"
            return f"{short} {place}: {text}"
    return text


def _way_out(text: str) -> str:
    if "jnp.nonzero" in text:  # torch.where(mask), mask.nonzero(): as many as the mask says
        return (
            "how many entries that are the input tells, and TFLite's shapes are fixed: compute all and weigh them by "
            "the mask, or export to ONNX"
        )
    if "ynamic" in text:
        return "export with fixed input shapes"
    if "f64" in text:
        return "let the factory return module.float(), with float32 inputs: TFLite has no kernels for float64"
    return "replace this operator by ones the converter knows or move it out of the model"


@contextmanager
def _infinities_as_they_are() -> Iterator[None]:
    """Inside, litert-torch 0.10 leaves infinite constants alone: it puts the largest floats in their place, where
    `isinf` finds none, and that into the model's own tensors (findings/litert_torch_infinite_constants.sh)."""
    from litert_torch.backend import inline_consts

    before = getattr(inline_consts, "_clamp_inf_values", None)
    if before is not None:
        inline_consts._clamp_inf_values = lambda tensor: tensor
    try:
        yield
    finally:
        if before is not None:
            inline_consts._clamp_inf_values = before


@contextmanager
def _quiet() -> Iterator[None]:
    """The converter reports progress on stdout, which belongs to results, and warns of its own dependencies."""
    before = {k: os.environ.get(k) for k in ("LITERT_TORCH_SHOW_PROGRESS", "TF_CPP_MIN_LOG_LEVEL")}
    os.environ.update(LITERT_TORCH_SHOW_PROGRESS="n", TF_CPP_MIN_LOG_LEVEL="2")
    try:
        with hushed("ERROR"):
            yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
