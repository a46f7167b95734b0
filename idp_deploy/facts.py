"""What a file holds of every layer, counted in the file: zeros, bytes, and what these could be. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from idp_deploy.encodings import bound_bytes
from idp_deploy.flow import Contents, FileFacts, Layer, StoredTensor
from idp_deploy.formats.layer_names import LayerNames
from idp_deploy.formats.prunable import prunable_tensors


def facts_of(contents: Contents) -> FileFacts:
    """Sizes, zeros and layers of a file of any tool. Decodes nothing."""
    prunable = prunable_tensors(contents)
    stored = sum(tensor.size_bytes for tensor in contents.tensors)
    bound = sum(map(_bound, contents.tensors))
    return FileFacts(
        path=contents.path,
        format=contents.format,
        size_bytes=contents.size_bytes,
        dense_bytes=contents.dense_bytes,
        bound_bytes=max(0.0, contents.size_bytes - stored + bound),
        zeros=sum(tensor.zeros for tensor in prunable),
        prunable=sum(tensor.size for tensor in prunable),
        layers=_layers(contents, {tensor.name for tensor in prunable}),
    )


def _layers(contents: Contents, prunable: set[str]) -> tuple[Layer, ...]:
    """In execution order; a module that is called twice is one layer, and so are the matrices of a recurrence.

    A row that is added or multiplied, such as a first state of zeros, is none.
    """
    names, tensors = LayerNames(contents), {tensor.name: tensor for tensor in contents.tensors}
    members: dict[str, dict[str, StoredTensor]] = {}
    for op in contents.ops:
        own = {name: tensors[name] for name in op.weights.values() if name in tensors}
        if any(name in prunable or _is_matrix(tensor) for name, tensor in own.items()):
            members.setdefault(names.of(op), {}).update(own)
    return tuple(_layer(name, list(own.values()), prunable) for name, own in members.items())


def _layer(name: str, tensors: Sequence[StoredTensor], prunable: set[str]) -> Layer:
    weights = [t for t in tensors if t.name in prunable] or [t for t in tensors if _is_matrix(t)] or list(tensors)
    return Layer(
        name=name,
        entries=sum(tensor.size for tensor in weights),
        zeros=sum(tensor.zeros for tensor in weights),
        size_bytes=sum(tensor.size_bytes for tensor in weights),
        dense_bytes=round(sum(tensor.size * tensor.value_bits / 8 for tensor in weights)),
        bound_bytes=sum(map(_bound, weights)),
        encoding=max(weights, key=lambda tensor: tensor.size).encoding,
        tensors=tuple(tensor.name for tensor in weights),
    )


def _is_matrix(tensor: StoredTensor) -> bool:
    return sum(n > 1 for n in tensor.shape) > 1


def _bound(tensor: StoredTensor) -> float:
    return min(float(tensor.size_bytes), bound_bytes(tensor.size, tensor.size - tensor.zeros, tensor.value_bits))
