"""tidy: what a graph spends on names and on small constants that nobody asks for, before it is written again.

A converter that writes a whole path of modules into the name of every value, and a node for every small constant, can
outweigh the sparse weights of a small network. Names of nodes, weights, inputs and outputs stay.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import numpy_helper

from idp_deploy.formats.onnx.bodies import subgraphs
from idp_deploy.formats.onnx.write.decoding import Decoder
from idp_deploy.formats.onnx.write.nodes import all_nodes, read_inside

_LONG_NAME = 6
_DOMAINS = ("", "ai.onnx")
_PLAIN = "fiub"  # kinds of numbers that numpy tells apart by their type


def tidy(graph: onnx.GraphProto, decoder: Decoder, constants: Collection[str]) -> None:
    """Store equal small constants once, read constants without a copy, and name inner values shortly.

    Args:
        constants: names of the weights, which nothing in the graph computes.
    """
    asked, inside = _asked_for(graph), read_inside(graph)
    stored = set(constants)
    kept = []
    for node in graph.node:
        name = node.output[0] if node.output else ""
        array = _constant(node)
        if node.domain not in _DOMAINS or name in asked | inside:
            kept.append(node)
        elif array is not None:
            decoder.alias(decoder.constant(array), name)
            stored.add(name)
        elif node.op_type == "Identity" and node.input[0] in stored:
            decoder.alias(node.input[0], name)
            stored.add(name)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    for node in graph.node:
        for position, name in enumerate(node.output):
            if len(name) > _LONG_NAME and name not in asked:
                node.output[position] = decoder.name()
                decoder.alias(node.output[position], name)
    _rename_shapes(graph, decoder, stored)


def _rename_shapes(graph: onnx.GraphProto, decoder: Decoder, stored: Collection[str]) -> None:
    """What is told of the shapes of values goes by their new names, once each, and not of values that are gone."""
    made = {decoder.read_as(name) for node in graph.node for name in node.output} | {*stored}
    told = {name: value for value in graph.value_info if (name := decoder.read_as(value.name)) in made}
    for name, value in told.items():
        value.name = name
    values = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in told.values()]
    del graph.value_info[:]
    graph.value_info.extend(values)


def _asked_for(graph: onnx.GraphProto) -> set[str]:
    """Names that stand elsewhere than in a node's inputs."""
    bodies = [body for node in all_nodes(graph) for body in subgraphs(node)]
    names = {value.name for each in (graph, *bodies) for value in each.output}
    for entry in graph.quantization_annotation:
        names |= {entry.tensor_name, *(pair.value for pair in entry.quant_parameter_tensor_names)}
    return names


def _constant(node: onnx.NodeProto) -> np.ndarray | None:
    if node.op_type != "Constant" or len(node.attribute) != 1 or node.attribute[0].name != "value":
        return None
    array = numpy_helper.to_array(node.attribute[0].t)
    return array if array.dtype.kind in _PLAIN else None
