"""Which operators of an .onnx file `quantize --scheme int8` lets compute with integers, told from the file alone.

The writer's rules (`write/quantizing.py`), without calibration: what ranges decide is not foretold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from idp_deploy.flow import Contents, GraphOp
from idp_deploy.formats.choosing import choosing
from idp_deploy.formats.onnx.words import CHOICES, INTEGERS

_PRODUCTS = ("Gemm", "MatMul")
_LAYERS = ("Conv", *_PRODUCTS)
_SHAPES = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def integers_onnx(contents: Contents) -> Mapping[int, bool]:
    """Place of each of them → whether what it gives becomes integers, too: a product's result, where one reads it."""
    ops, values = contents.ops, contents.values
    makers = {name: op for op in ops for name in op.outputs}
    floats = {name for name, value in values.items() if value.dtype == "float32"}
    shares = _shares(ops, makers)
    stacks = {tensor.name for tensor in contents.tensors if len(tensor.shape) > 2}
    steps = [(op.kind, op.inputs, op.outputs) for op in ops]
    chosen = choosing(steps, CHOICES, ("Cast", *_SHAPES), _LAYERS)
    served: set[str] = set()  # what integer kernels read
    found: dict[int, bool] = {}
    for place in range(len(ops) - 1, -1, -1):
        op = ops[place]
        made_by = makers.get(op.inputs[0]) if op.inputs else None
        clips = op.kind in ("Clip", "Relu") and made_by is not None and made_by.kind == "Conv"
        read = not served.isdisjoint(op.outputs)
        biased = op.kind == "Add" and len(op.inputs) < 2  # rounded to 8 bits, for nothing
        stacked = op.kind == "MatMul" and not stacks.isdisjoint(op.weights.values())
        if (
            op.kind in INTEGERS.split()
            and (op.kind in _LAYERS or clips or read)
            and floats.issuperset(op.outputs)
            and not (biased or stacked or (op.kind in _LAYERS and not chosen.isdisjoint(op.outputs)))
            and shares.isdisjoint(op.inputs)
        ):
            served.update(op.inputs)
            found[place] = read or op.kind not in _PRODUCTS
    return found


def _shares(ops: tuple[GraphOp, ...], makers: Mapping[str, GraphOp]) -> set[str]:
    """What softmaxes give whose operand would be integers; their readers stay float."""
    readers = Counter(name for op in ops for name in op.inputs)
    found: set[str] = set()
    for op in ops:
        if op.kind == "Softmax" and op.inputs:
            source = op.inputs[0]
            while source in makers and makers[source].kind in _SHAPES:
                source = makers[source].inputs[0]
            made = makers.get(source)
            alone = made is not None and made.kind in _PRODUCTS and readers[source] == 1
            if made is not None and made.kind in INTEGERS.split() and not alone:
                found.update(op.outputs)
        elif op.kind in _SHAPES and op.inputs and op.inputs[0] in found:
            found.update(op.outputs)
    return found
