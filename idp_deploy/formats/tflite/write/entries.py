"""entries: the subgraphs of a .tflite file beside the main one, each as something to call.

They are what other signatures run, and the bodies of loops and branches, which a call of the main one may not reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from idp_deploy.flow import Contents, Value
from idp_deploy.formats.tflite.write.graph import dtype_of, schema
from idp_deploy.formats.tflite.write.serializing import parse, serialize


def entries_tflite(contents: Contents) -> Iterator[Contents]:
    """The file once for each subgraph but the main one: a session of it calls that.

    Bodies have no signature; they get one in a copy of the file. What takes or gives what numpy does not know, such as
    the states of a table, is left out.
    """
    model = parse(contents.parsed)
    ways = {int(each.subgraphIndex): each for each in model.signatureDefs or ()}
    graphs = dict(enumerate(model.subgraphs))
    bodies = {place: _signature(place, graph) for place, graph in graphs.items() if place and place not in ways}
    model.signatureDefs = [*(model.signatureDefs or ()), *bodies.values()]
    whole = serialize(model) if bodies else contents.parsed
    for place, signature in {**ways, **bodies}.items():
        inputs, outputs = (_values(graphs[place], side or ()) for side in (signature.inputs, signature.outputs))
        if place and outputs and all(value.dtype for value in (*inputs.values(), *outputs.values())):
            yield replace(
                contents,
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                values={**inputs, **outputs},
                metadata={},
                parsed=whole if place in bodies else contents.parsed,
                signature=_text(signature.signatureKey),
            )


def _signature(place: int, graph: Any) -> Any:
    """A name for a subgraph and its ends; a tensor that it takes or gives twice is named once."""
    signature = schema().SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = f"subgraph {place}", place
    signature.inputs, signature.outputs = (
        [_end(f"{role}{index}", index) for index in dict.fromkeys(int(i) for i in side)]
        for role, side in (("in", graph.inputs), ("out", graph.outputs))
    )
    return signature


def _end(name: str, index: int) -> Any:
    end = schema().TensorMapT()
    end.name, end.tensorIndex = name, index
    return end


def _values(graph: Any, ends: Any) -> dict[str, Value]:
    """By the names that the runtime lists them under, in its order; the type of what numpy does not know is empty."""
    tensors = {_text(end.name): graph.tensors[int(end.tensorIndex)] for end in ends}
    return {name: Value(name, _shape(tensors[name]), dtype_of(tensors[name])) for name in sorted(tensors)}


def _shape(tensor: Any) -> tuple[int, ...]:
    shape, signature = ([] if each is None else each for each in (tensor.shape, tensor.shapeSignature))
    return tuple(int(n) for n in (signature if len(signature) == len(shape) else shape))


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name or ""
