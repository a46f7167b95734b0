"""Constants that the converter made of parameters go by the module that reads them: `encoder.rnn/val_31`.

The gates of a recurrence change places and a product wants its weight transposed: what is left of the parameter's name
is a number. The part in front of the slash is what `formats.layer_names` knows a layer by.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Collection

import onnx

from idp_deploy.formats.onnx.write.nodes import all_nodes

_SCOPES = "pkg.torch.onnx.name_scopes"  # from the whole model to the operator: "['', 'encoder.rnn', 'gru']"


def name_constants(graph: onnx.GraphProto, parameters: Collection[str]) -> None:
    """Rename, in place, matrices that are none of `parameters` by name; reads what `torch.onnx` noted of each node."""
    unnamed = {one.name for one in graph.initializer if len(one.dims) > 1 and one.name not in parameters}
    renames: dict[str, str] = {}
    for node in graph.node:
        module = _module(node)
        for name in node.input if module else ():
            if name in unnamed:
                renames.setdefault(name, f"{module}/{name}")
    for node in all_nodes(graph):
        for i, name in enumerate(node.input):
            node.input[i] = renames.get(name, name)
    for tensor in graph.initializer:
        tensor.name = renames.get(tensor.name, tensor.name)
    for value in graph.output:
        value.name = renames.get(value.name, value.name)


def _module(node: onnx.NodeProto) -> str:
    noted = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    return next((scope for scope in reversed(literal_eval(noted)[:-1]) if scope), "")
