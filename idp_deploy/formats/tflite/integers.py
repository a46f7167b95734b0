"""Which operators of a .tflite file `quantize --scheme int8` lets compute with integers, told from the file alone.

The writer's rules (`write/integer.py`), without calibration: what ranges decide is not foretold.
"""

from __future__ import annotations

from collections.abc import Mapping

from idp_deploy.flow import Contents, GraphOp
from idp_deploy.formats.choosing import choosing
from idp_deploy.formats.tflite.words import CHOICES, DELICATE, ENTRYWISE, HANDS_ON, INTEGERS, PRODUCTS

_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


def integers_tflite(contents: Contents) -> Mapping[int, bool]:
    """Place of each of them → True: what they give are integers as well."""
    kinds = {name: set(words.split()) for name, words in (("able", INTEGERS), ("spoilt", DELICATE), ("on", ENTRYWISE))}
    shapes = {tensor.name: tensor.shape for tensor in contents.tensors}
    spoilt: set[str] = set()
    found: list[int] = []
    steps = [(op.kind, op.inputs, op.outputs) for op in contents.ops]
    chosen = choosing(steps, CHOICES, HANDS_ON, PRODUCTS)
    matrices = False  # a table or a sum with a matrix stays float
    for place, op in enumerate(contents.ops):
        values = [contents.values[name] for name in op.outputs if name in contents.values]
        if not values or any(value.dtype != "float32" for value in values):
            continue
        delicate = op.kind in kinds["spoilt"] or (op.kind in kinds["on"] and not spoilt.isdisjoint(op.inputs))
        delicate |= op.kind == "MUL" and len(op.inputs) == 2 and len({*op.inputs}) == 1  # a square
        delicate |= op.kind in _LAYERS and not op.weights  # of a kernel that is computed no scale a channel is known
        if delicate or (op.kind in ("MEAN", "SUM") and _over_channels(op, contents)):
            spoilt.update(op.outputs)
            continue
        if not chosen.isdisjoint(op.outputs):
            continue
        matrix = op.kind not in _LAYERS and any(len(shapes.get(name, ())) > 1 for name in op.weights.values())
        matrices |= matrix
        if op.kind in kinds["able"] and not matrix:
            found.append(place)
    return dict.fromkeys(_reaching(contents, found) if matrices else found, True)


def _over_channels(op: GraphOp, contents: Contents) -> bool:
    """Whether a mean or a sum is one over the last axis."""
    axes, value = op.attributes.get("axes"), contents.values.get(op.inputs[0]) if op.inputs else None
    rank = len(value.shape) if value else 0
    return bool(rank) and isinstance(axes, (list, tuple)) and any(a % rank == rank - 1 for a in axes)


def _reaching(contents: Contents, found: list[int]) -> list[int]:
    """Without those that are computed from floats alone and read as floats alone."""
    able, given = set(found), set(contents.inputs)
    known = {name for place, op in enumerate(contents.ops) if place not in able for name in op.outputs}
    spared: set[str] = set()
    for place in found:
        op = contents.ops[place]
        if op.kind not in _LAYERS and set(op.inputs) <= known | given | spared:
            spared.update(op.outputs)
    for place in reversed(found):
        if spared.isdisjoint(contents.ops[place].outputs):  # what it reads becomes integers itself
            spared.difference_update(contents.ops[place].inputs)
    return [place for place in found if spared.isdisjoint(contents.ops[place].outputs)]
