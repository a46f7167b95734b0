"""Walks over an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from idp_deploy.formats.onnx.bodies import subgraphs


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of If and Loop bodies among them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from all_nodes(inner)


def read_inside(graph: onnx.GraphProto) -> set[str]:
    """Every name that bodies of If, Loop and Scan read, those of the graph around them among them."""
    bodies = (body for node in graph.node for body in subgraphs(node))
    return {name for body in bodies for node in all_nodes(body) for name in node.input}
