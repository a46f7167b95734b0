"""Small .tflite files built by hand: one constant through DENSIFY and DEQUANTIZE to the output, plus an added input."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from idp_deploy.formats.tflite.write import sparse as sparse
from idp_deploy.formats.tflite.write.graph import add_buffer, add_tensor, operator
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
