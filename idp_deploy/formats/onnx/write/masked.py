"""Weights that a graph masks or casts are what comes of that: one constant instead of several. Imports no torch."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from idp_deploy.formats.onnx.write.nodes import all_nodes
from idp_deploy.formats.onnx.write.storing import ENCODABLE, SHARED_ENTRIES, Weight, cost, is_sound

_DOMAINS = ("", "ai.onnx")


def fold_masks(graph: onnx.GraphProto, constants: dict[str, np.ndarray], encoding: str) -> None:
    """Replace weights that the graph multiplies by a mask by what comes of it, which needs no mask and no weight.

    `torch.nn.utils.prune` leaves the pair in a module until it is told to make the pruning permanent. A mask may also
    choose between a weight and zero. What is cast from numbers that no runtime decodes (bfloat16, float8) is stored as
    what it is cast to where that is smaller without its zeros. Constants that nothing reads are dropped.
    """
    kept = []
    for node in graph.node:
        factors = [constants[name] for name in node.input if name in constants]
        if len(factors) != len(node.input) or node.domain not in _DOMAINS:
            kept.append(node)
        elif node.op_type == "Cast" and _is_free(factors[0], cast := _cast(factors[0], node), encoding):
            constants[node.output[0]] = cast
        elif node.op_type == "Where" and _is_choice(*factors):
            constants[node.output[0]] = np.where(*factors)
        elif node.op_type == "Mul" and _is_masked(*factors):
            constants[node.output[0]] = factors[0] * factors[1]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    read = {name for node in all_nodes(graph) for name in node.input} | {value.name for value in graph.output}
    for name in [each for each in constants if each not in read]:
        del constants[name]


def _cast(values: np.ndarray, node: onnx.NodeProto) -> np.ndarray:
    to = next(attribute.i for attribute in node.attribute if attribute.name == "to")
    return values.astype(helper.tensor_dtype_to_np_dtype(to))


def _is_free(values: np.ndarray, cast: np.ndarray, encoding: str) -> bool:
    """Whether a cast constant takes no more bytes than the one it comes from, or is a mask's."""
    if _is_mask(values):
        return values.size >= SHARED_ENTRIES
    if values.ndim < 2 or cast.dtype.itemsize <= values.dtype.itemsize:
        return values.ndim > 1
    bare = Weight("", cast, cast != 0)
    return values.dtype not in ENCODABLE and is_sound(cast) and cost(bare, encoding) < values.nbytes


def _is_choice(mask: np.ndarray, a: np.ndarray, b: np.ndarray) -> bool:
    """A matrix where a mask is set, 0 elsewhere; or the other way round."""
    return any(_spans(matrix, mask, other) and not other.any() for matrix, other in ((a, b), (b, a)))


def _spans(matrix: np.ndarray, *others: np.ndarray) -> bool:
    """Whether a matrix keeps its shape beside the others."""
    try:
        shape = np.broadcast_shapes(*(each.shape for each in (matrix, *others)))
    except ValueError:  # the runtime's to say
        return False
    return matrix.shape == shape and matrix.ndim > 1 and matrix.size >= SHARED_ENTRIES


def _is_masked(a: np.ndarray, b: np.ndarray) -> bool:
    """A matrix and a mask of its entries, rows or columns."""
    return any(_spans(matrix, mask) and mask.ndim > 0 and _is_mask(mask) for matrix, mask in ((a, b), (b, a)))


def _is_mask(values: np.ndarray) -> bool:
    return bool(values.dtype == bool or np.isin(values, (0, 1)).all())
