"""Small .tflite files built by hand: one constant through DENSIFY and DEQUANTIZE to the output, plus an added input."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from idp_deploy.formats.tflite.write import sparse as sparse
from idp_deploy.formats.tflite.write.graph import add_buffer, add_tensor, compact, operator
from idp_deploy.formats.tflite.write.serializing import serialize

TYPES = {np.dtype(np.float32): "FLOAT32", np.dtype(np.float16): "FLOAT16", np.dtype(np.int8): "INT8"}


def adding(
    values: np.ndarray,
    layout: sparse.Layout | None = None,
    mask: np.ndarray | None = None,
    scales: np.ndarray | None = None,
) -> bytes:
    """A file that computes x + c, where c is `values` stored in `layout` (dense where None)."""
    model = schema.ModelT()
    model.version, model.operatorCodes, model.buffers, model.metadata = 3, [], [schema.BufferT()], []
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    model.subgraphs = [graph]
    like = schema.TensorT()
    like.shape, like.hasRank = list(values.shape), True
    x, c, y = (add_tensor(model, like, "FLOAT32", None) for _ in range(3))
    for index, name in ((x, "x"), (c, "c"), (y, "y")):
        graph.tensors[index].name = name
    graph.inputs, graph.outputs = [x], [y]
    kind = TYPES[values.dtype]
    if layout is None:
        source = add_tensor(model, like, kind, values)
    else:
        stored = sparse.store(values, values != 0 if mask is None else mask, layout)
        source = add_tensor(model, like, kind, stored.values)
        graph.tensors[source].sparsity = sparse.parameters(stored, values.shape)
        dense = c if values.dtype == np.float32 else add_tensor(model, like, kind, None)
        graph.operators.append(operator(model, "DENSIFY", [source], [dense]))
        graph.tensors[dense].quantization = _quantization(scales)
    graph.tensors[source].name, graph.tensors[source].quantization = "stored", _quantization(scales)
    if values.dtype != np.float32:
        graph.operators.append(operator(model, "DEQUANTIZE", [len(graph.tensors) - 1], [c], version=5))
    elif layout is None:
        c = source
    graph.operators.append(operator(model, "ADD", [x, c], [y]))
    return serialize(model)


def in_signatures(**weights: np.ndarray) -> bytes:
    """A file with a signature and a subgraph for each weight (out, in), which computes y = W·x; equal ones lie once."""
    model = schema.ModelT()
    model.version, model.operatorCodes, model.buffers, model.metadata = 3, [], [schema.BufferT()], []
    model.subgraphs, model.signatureDefs = [], []
    for place, (key, weight) in enumerate(weights.items()):
        model.subgraphs.append(graph := schema.SubGraphT())
        graph.tensors, graph.name = [], key
        x, w, y = (
            add_tensor(model, shaped(*shape), "FLOAT32", values, place=place)
            for shape, values in (((1, weight.shape[1]), None), (weight.shape, weight), ((1, weight.shape[0]), None))
        )
        for index, name in ((x, "x"), (w, "weight"), (y, "y")):
            graph.tensors[index].name = f"{key}.{name}"
        graph.inputs, graph.outputs = [x], [y]
        graph.operators = [operator(model, "FULLY_CONNECTED", [x, w, -1], [y])]
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = key, place
        signature.inputs, signature.outputs = [_end("x", x)], [_end("y", y)]
        model.signatureDefs.append(signature)
    compact(model)
    return serialize(model)


def shaped(*extents: int) -> Any:
    """A tensor as `add_tensor` takes its shape from."""
    like = schema.TensorT()
    like.shape, like.hasRank = list(extents), True
    return like


def _end(name: str, index: int) -> Any:
    end = schema.TensorMapT()
    end.name, end.tensorIndex = name, index
    return end


def with_manifest(content: bytes, raw: bytes) -> bytes:
    """The same file with `raw` under the metadata key idp_deploy."""
    from idp_deploy.formats.tflite.write.serializing import parse

    model = parse(content)
    entry = schema.MetadataT()
    entry.name, entry.buffer = "idp_deploy", add_buffer(model, raw)
    model.metadata = [entry]
    return serialize(model)


def _quantization(scales: np.ndarray | None) -> Any:
    if scales is None:
        return None
    quantization = schema.QuantizationParametersT()
    quantization.scale, quantization.zeroPoint = scales, np.zeros(len(scales), np.int64)
    quantization.quantizedDimension = 0
    return quantization
