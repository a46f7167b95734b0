"""What a graph says about itself and nobody needs: where in its source a node came from, shapes that follow anyway."""

from __future__ import annotations

import onnx
from onnx import helper

from idp_deploy.formats.onnx.bodies import keep
from idp_deploy.formats.onnx.write.nodes import all_nodes

_EXPORTERS = ("pkg.", "namespace")  # keys under which exporters note modules, stack traces and graphs of their own
_SOURCE = ".py"  # in what says which line of which file a node came from
_NAMED = "unk__"  # how shape inference calls extents it does not know
_SMALL = 64  # entries of a constant that may be a shape


def drop_notes(proto: onnx.ModelProto) -> None:
    """Drop what exporters note for those who debug them, and shapes that inference finds again.

    What people wrote stays: documentation, metadata of other keys, and shapes that only the file tells, which
    onnxruntime fuses operators by.
    """
    graph = proto.graph
    nodes = list(all_nodes(graph))
    for named in (graph, *nodes, *graph.input, *graph.output, *graph.value_info):
        if _SOURCE in named.doc_string:
            named.ClearField("doc_string")
        keep(named.metadata_props, lambda entry: not entry.key.startswith(_EXPORTERS))
    found = _inferred(proto) if graph.value_info else {}
    keep(graph.value_info, lambda value: not _is_told(value, found))


def _inferred(proto: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """The types that follow from inputs and constants, by name; none where inference fails."""
    graph = proto.graph
    bare = onnx.GraphProto(name="types", node=graph.node, input=graph.input)
    given = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if tensor.name not in given:
            bare.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        if len(tensor.dims) < 2 and sum(tensor.dims) <= _SMALL:
            bare.initializer.append(tensor)
    for sparse in graph.sparse_initializer:
        bare.input.append(helper.make_tensor_value_info(sparse.values.name, sparse.values.data_type, sparse.dims))
    for value in graph.output:
        bare.output.add(name=value.name).type.CopyFrom(value.type)
    model = onnx.ModelProto(
        ir_version=proto.ir_version, graph=bare, opset_import=proto.opset_import, functions=proto.functions
    )
    try:
        found = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # an operator outside of ONNX, a contradiction, or more than a message holds
        return {}
    return {value.name: value.type for value in (*bare.input, *found.value_info, *found.output)}


def _is_told(value: onnx.ValueInfoProto, found: dict[str, onnx.TypeProto]) -> bool:
    """Whether inference finds the same without making names up: which unknown extents are one, a file alone tells."""
    return found.get(value.name) == value.type and not any(
        dim.dim_param.startswith(_NAMED) for dim in value.type.tensor_type.shape.dim
    )
