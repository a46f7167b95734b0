"""Which tensors of a file pruning is about, told from its graph alone: the same rule for every tool's file."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from idp_deploy.flow import INSIDE, Contents, GraphOp, StoredTensor
from idp_deploy.formats.operators import classes_of, is_channels_last

_READERS = ("convolution", "depthwise", "transposed", "product", "packed", "recurrence", "loop")
_MATRIX = ("weight", "recurrence")  # roles by which operators that are in no class read them, such as fused attention
_NO_MATRIX = ("bias", "initial")  # roles of a recurrence begin with these


def prunable_tensors(contents: Contents) -> tuple[StoredTensor, ...]:
    """The matrices and kernels that convolutions, products and recurrences read, each once, in the file's order.

    Left out are depthwise kernels, of which there is one a channel, and matrices that are a table of embeddings too,
    whether the file stores it once or, as folded constants, once for each reader.
    What a file says of itself in its metadata has no part in it.
    """
    chosen, apart = _read(contents)
    return tuple(tensor for tensor in contents.tensors if tensor.name in chosen - apart)


def tensors_apart(contents: Contents) -> tuple[StoredTensor, ...]:
    """The matrices and kernels that are left out there, which quantization takes all the same."""
    _, apart = _read(contents)
    return tuple(tensor for tensor in contents.tensors if tensor.name in apart and len(tensor.shape) > 1)


def _read(contents: Contents) -> tuple[set[str], set[str]]:
    """Names of those that are pruned, among them some of those that are set apart, and names of these."""
    classes = classes_of(contents.format)
    by_name = {tensor.name: tensor for tensor in contents.tensors}
    chosen: set[str] = set()
    apart: set[str] = set()
    tables: set[str] = set()
    for op in (*contents.ops, *contents.beside):
        found = classes.get(op.kind, "")
        if found == "table":
            tables.update(op.weights.values())
        elif found in _READERS or not found:
            kernels = list(_matrices(op, found, by_name))
            depthwise = found == "depthwise" or any(_is_depthwise(contents, op, found, t) for t in kernels)
            (apart if depthwise else chosen).update(tensor.name for tensor in kernels)
    known = [by_name[name] for name in tables if name in by_name]
    tied = {name for name in chosen - apart - tables if any(_is_same(by_name[name], table) for table in known)}
    return chosen, apart | tables | tied


def _is_same(matrix: StoredTensor, table: StoredTensor) -> bool:
    """Whether a matrix is a table once more, as it lies or turned."""
    if matrix.zeros != table.zeros or table.zeros == prod(table.shape) or len(matrix.shape) != 2:
        return False
    if table.shape not in (matrix.shape, matrix.shape[::-1]):
        return False
    ours, theirs = matrix.values(), table.values()
    turned = (theirs, theirs.T) if table.shape == matrix.shape else (theirs.T,)
    return any(ours.shape == way.shape and np.array_equal(ours, way) for way in turned)


def _matrices(op: GraphOp, found: str, tensors: dict[str, StoredTensor]) -> Iterator[StoredTensor]:
    for role, name in op.weights.items():
        tensor = tensors.get(name)
        if found == "loop":
            read = role.startswith(INSIDE)
        else:
            read = not role.startswith(_NO_MATRIX) if found else role in _MATRIX
        if tensor is not None and len(tensor.shape) > 1 and read:
            yield tensor


def _is_depthwise(contents: Contents, op: GraphOp, found: str, kernel: StoredTensor) -> bool:
    """Whether a convolution has as many groups as input channels, and more than one."""
    if found not in ("convolution", "transposed"):
        return False
    if is_channels_last(contents.format):  # (out, *kernel, in / groups)
        value = contents.values.get(op.inputs[0]) if op.inputs else None
        return kernel.shape[-1] == 1 and value is not None and bool(value.shape) and value.shape[-1] > 1
    groups = op.attributes.get("group", op.attributes.get("groups", 1))
    if not isinstance(groups, int) or groups < 2:
        return False
    return kernel.shape[0] == groups if found == "transposed" else kernel.shape[1] == 1
