"""Sums of products, said as products of matrices: distances, forms in two arguments, bags of embeddings."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, fx

from idp_deploy.rewriting.images import col2im
from idp_deploy.rewriting.spelling import Row, replace

aten = torch.ops.aten


def cdist(x: Tensor, y: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor | None:
    """Distances between all rows of x and all rows of y, for the common norms."""
    return _length(x.unsqueeze(-2) - y.unsqueeze(-3), p)


def pdist(x: Tensor, p: float = 2.0) -> Tensor | None:
    """Distances of each row to those after it: (n, d) → (n·(n − 1)/2,)."""
    if not isinstance(x.shape[0], int) or x.shape[0] < 2:
        return None
    first, second = (torch.tensor(places) for places in zip(*combinations(range(x.shape[0]), 2), strict=True))
    return _length(x.index_select(0, first) - x.index_select(0, second), p)


def _length(apart: Tensor, p: float) -> Tensor | None:
    if p == 2.0:
        return apart.square().sum(-1).sqrt()
    return apart.abs().sum(-1) if p == 1.0 else apart.abs().amax(-1) if p == float("inf") else None


def bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """xᵀ·W·y for each output's W: (…, a), (…, b), (out, a, b) → (…, out), as two products of matrices."""
    outputs, a, b = weight.shape
    turned = torch.nn.functional.linear(y, weight.reshape(outputs * a, b)).reshape(*y.shape[:-1], outputs, a)
    result = (turned * x.unsqueeze(-2)).sum(-1)
    return result if bias is None else result + bias


def of_vectors(x: Tensor, y: Tensor) -> Tensor | None:
    """x·y of which one is a vector, as a product of matrices; None where neither is."""
    if x.dim() > 1 and y.dim() > 1:
        return None
    if x.dim() == y.dim():
        return (x * y).sum()
    return torch.matmul(x, y.unsqueeze(-1)).squeeze(-1) if y.dim() == 1 else torch.matmul(x[None], y).squeeze(-2)


def addmm(bias: Tensor, x: Tensor, y: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor | None:
    """β·bias + α·x·y, the factors apart: onnxruntime's quantizer loses those of a Gemm."""
    if beta == alpha == 1:
        return None
    product = x @ y if alpha == 1 else (x @ y) * alpha
    return product if beta == 0 else product + (bias if beta == 1 else bias * beta)


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *others: Any, **options: Any
) -> Tensor | None:
    """Attention over (…, steps, width) as one of four axes, which is what torch.onnx takes."""
    if query.dim() == 4:
        return None

    def four(x: Tensor) -> Tensor:
        return x.flatten(0, -4) if x.dim() > 4 else x[(None,) * (4 - x.dim())]

    if mask is not None and mask.dim() > 2:
        mask = four(mask.expand(*query.shape[:-1], mask.shape[-1]))
    result = torch.nn.functional.scaled_dot_product_attention(
        four(query), four(key), four(value), mask, *others, **options
    )
    return result.reshape(*query.shape[:-1], value.shape[-1])


def with_heads_repeated(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """Attention whose heads share keys and values, with a copy of these for each head; None where none share."""
    heads = query.shape[-3] if query.dim() > 2 else 1
    if not enable_gqa or key.dim() < 3 or heads == key.shape[-3]:
        return None
    key, value = (
        x.unsqueeze(-3).expand(*x.shape[:-2], heads // x.shape[-3], *x.shape[-2:]).flatten(-4, -3) for x in (key, value)
    )
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal, scale=scale)


def tensordot(x: Tensor, y: Tensor, dims: list[int], others: list[int]) -> Tensor:
    """A product of matrices: what is summed over comes last in x, first in y."""
    dims, others = [d % x.dim() for d in dims], [d % y.dim() for d in others]
    left = [d for d in range(x.dim()) if d not in dims]
    right = [d for d in range(y.dim()) if d not in others]
    inner = math.prod(x.shape[d] for d in dims)
    product = x.permute(left + dims).reshape(-1, inner) @ y.permute(others + right).reshape(inner, -1)
    return product.reshape([x.shape[d] for d in left] + [y.shape[d] for d in right])


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Tensor, ...] | None:
    """Rows of a table summed, averaged or compared, of bags that are all of one length: a matrix of ids."""
    bags = offsets.shape[0]
    if include_last_offset or indices.dim() != 1 or indices.shape[0] % bags or (mode == 2 and padding_idx is not None):
        return None
    ids = indices.reshape(bags, -1)
    rows = torch.nn.functional.embedding(ids, weight)
    lengths: Any = ids.shape[1]
    if padding_idx is not None and padding_idx >= 0:
        counted = (ids != padding_idx).to(rows.dtype).unsqueeze(-1)
        rows, lengths = rows * counted, counted.sum(1).clamp(min=1)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(bags, -1, 1)
    result = rows.amax(1) if mode == 2 else rows.sum(1) / lengths if mode == 1 else rows.sum(1)
    return result, result, result, result


def bags_by_offsets(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[Tensor, ...]:
    """Rows of a table summed, averaged or compared, of bags that begin wherever an input says: a product with 0 and 1.

    A bag goes from its offset up to the next; an empty one gives zeros.
    """
    places = torch.arange(indices.shape[0], dtype=offsets.dtype)
    last = torch.full((1,), indices.shape[0], dtype=offsets.dtype)
    ends = offsets[1:] if include_last_offset else torch.cat([offsets[1:], last])
    starts = offsets[:-1] if include_last_offset else offsets
    inside = torch.logical_and(places >= starts.unsqueeze(1), places < ends.unsqueeze(1))
    if padding_idx is not None and padding_idx >= 0:
        inside = torch.logical_and(inside, indices != padding_idx)
    rows = torch.nn.functional.embedding(indices, weight)
    if mode == 2:
        lowest = torch.full((1,), torch.finfo(rows.dtype).min)
        found = torch.where(inside.unsqueeze(-1), rows.unsqueeze(0), lowest).amax(1)
        result = torch.where(inside.any(1, keepdim=True), found, torch.zeros(1))
    else:
        share = inside.to(rows.dtype)
        if mode == 1:
            share = share / share.sum(1, keepdim=True).clamp(min=1)
        result = (share if per_sample_weights is None else share * per_sample_weights) @ rows
    return result, result, result, result


def spell_out_bags(module: fx.GraphModule) -> None:
    """Bags of embeddings whose offsets an input tells, in place; those of a table of ids have one length each."""
    for node in list(module.graph.nodes):
        if node.target is aten.embedding_bag.padding_idx and is_fed(node.args[2]):
            replace(module, node, bags_by_offsets)
    module.graph.eliminate_dead_code()
    module.recompile()


def is_fed(node: fx.Node) -> bool:
    """Whether an input has a part in it."""
    seen, left = {node}, [node]
    while left:
        one = left.pop()
        if one.op == "placeholder":
            return True
        left += set(one.all_input_nodes) - seen
        seen.update(one.all_input_nodes)
    return False


VECTORS: dict[Any, Row] = {
    aten.dot.default: of_vectors,
    aten.matmul.default: of_vectors,
    aten.mv.default: of_vectors,
}
SUMS_OF_PRODUCTS: dict[Any, Row] = {
    aten.cdist.default: cdist,
    aten.pdist.default: pdist,
    aten.bilinear.default: bilinear,
    aten.col2im.default: col2im,
}
