"""ends: what an int8 file takes and gives — float32, converted inside by an operator of its own, or the integers.

A neural processing unit computes no floats, so the QUANTIZE behind a float input and the DEQUANTIZE before a float
output each stay on the processor beside it. With integers at the ends they are not there; scale and zero point stand
in the tensor, and the caller converts (which a camera's or a microphone's bytes hardly need).

Images lie as (batch, height, width, channels) at the ends or as the model has them; kernels work on the former.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils import _pytree

from idp_deploy.capturing import Captured
from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.formats.tflite.write.graph import add_tensor, kind, operator, schema

IO = ("float", "int8")
LAYOUTS = ("nchw", "nhwc", "auto")
_WAY_OUT = "quantize it first: idp-deploy quantize MODEL.pt --scheme int8"


def refuse_io(io: str, scheme: str | None) -> None:
    """UsageError where nobody knows `io`, or where integers at the ends would have floats behind them."""
    if io not in IO:
        raise UsageError(f"--io takes {' or '.join(IO)}, not {io!r}", way_out="leave it out for float")
    if io == "int8" and scheme != "int8":
        what = "this model is not quantized" if scheme is None else f"the scheme {scheme!r} leaves activations float"
        raise UsageError(f"--io int8 needs int8 activations, and {what}", way_out=_WAY_OUT)


def refuse_empty(captured: Captured) -> None:
    """ConversionError where an output has no entries, for which LiteRT's CompiledModel makes no buffer."""
    graph: Any = captured.module.graph
    leaves = _pytree.tree_leaves(graph.output_node().args[0])
    for name, leaf in zip(captured.output_names(), leaves, strict=True):
        value = leaf.meta.get("val")
        if not isinstance(value, Tensor):
            continue
        if not all(isinstance(extent, int) for extent in value.shape):
            raise ConversionError(
                f"how large output '{name}' is depends on the numbers in the inputs, and TFLite's shapes are fixed",
                way_out="give all entries and a mask beside them, or export to ONNX",
            )
        if value.numel() == 0:
            shape = "×".join(map(str, value.shape))
            raise ConversionError(
                f"output '{name}' is empty ({shape}), and LiteRT runs no file with such an output",
                way_out="leave it out of what forward returns, or export to ONNX",
            )


def refuse_layout(layout: str) -> None:
    """UsageError where nobody knows `layout`."""
    if layout not in LAYOUTS:
        said = f"--layout takes {', '.join(LAYOUTS[:-1])} or {LAYOUTS[-1]}, not {layout!r}"
        raise UsageError(said, way_out="auto takes images as NHWC and gives what the model gives")


def layout_notes(layouts: Mapping[str, str], outputs: Sequence[str]) -> tuple[str, ...]:
    """Which ends lie otherwise in the file than in the model: a runtime takes the wrong layout without a word."""
    turned = [name for name, layout in layouts.items() if layout == "NHWC" and name not in outputs]
    given = [name for name, layout in layouts.items() if layout == "NHWC" and name in outputs]
    what = "images as NHWC (batch, height, width, channels) where the model"
    if not turned and not given:
        return ()
    if not turned:
        return (f"layout: {', '.join(given)} gives {what} gives NCHW",)
    rest = f"; {', '.join(given)} is NHWC too" if given else "; outputs keep the model's layout"
    return (f"layout: {', '.join(turned)} {'takes' if len(turned) == 1 else 'take'} {what} takes NCHW{rest}",)


def part_outputs(model: Any) -> None:
    """A tensor for each output, in place: a result given twice, or an input plus 0, is one tensor to the converter.

    The runtimes then know it by one name alone; the others become copies of it.
    """
    graph = model.subgraphs[0]
    _numbers_without_extents(model)
    entries = [entry for signature in model.signatureDefs or [] for entry in signature.outputs]
    entries.sort(key=lambda entry: (len(entry.name), entry.name))  # output_2 stands behind output_10
    inputs, outputs = {int(index) for index in graph.inputs}, list[int]()
    for index in map(int, graph.outputs):
        if index in inputs or index in outputs:
            tensor = graph.tensors[index]
            copy = add_tensor(model, tensor, "FLOAT32", None)
            graph.tensors[copy].type, graph.tensors[copy].quantization = tensor.type, tensor.quantization
            graph.operators.append(operator(model, "RESHAPE", [index, *_extents(model, tensor)], [copy]))
            known_by = [entry for entry in entries if int(entry.tensorIndex) == index]
            known_by[index not in inputs].tensorIndex = index = copy
        outputs.append(index)
    graph.outputs = outputs


def _numbers_without_extents(model: Any) -> None:
    """One entry as a number, in place: a constant of extents without an entry counts as none to LiteRT's CompiledModel,
    which then has no room for the output."""
    for graph in model.subgraphs:
        for op in graph.operators:
            if kind(model, op) == "RESHAPE" and len(op.inputs) > 1:
                extents = graph.tensors[int(op.inputs[1])].shape
                if extents is not None and list(extents) == [0]:
                    op.inputs = op.inputs[:1]


def _extents(model: Any, tensor: Any) -> list[int]:
    """A constant that holds the extents of `tensor`; none for a number: a constant without an entry counts as none."""
    shape = np.array([] if tensor.shape is None else tensor.shape, np.int32)
    if not shape.size:
        return []
    extents = add_tensor(model, schema().TensorT(), "INT32", shape)
    model.subgraphs[0].tensors[extents].shape = [shape.size]
    return [extents]


def integer_ends(model: Any) -> tuple[str, ...]:
    """Let inputs and outputs be the int8 tensors behind and before them, in place; a note for each that cannot."""
    graph = model.subgraphs[0]
    graph.inputs, graph.outputs = [int(t) for t in graph.inputs], [int(t) for t in graph.outputs]
    notes = [_input(model, graph, place) for place in range(len(graph.inputs))]
    notes += [_output(model, graph, place) for place in range(len(graph.outputs))]
    return tuple(note for note in notes if note)


def _input(model: Any, graph: Any, place: int) -> str:
    """Several int8 tensors may be made of one input: the one of the widest range becomes it, the rest are made of it.

    Readers of the same scale read it directly.
    """
    index = graph.inputs[place]
    tensor = graph.tensors[index]
    readers = [op for op in graph.operators if index in [int(t) for t in op.inputs]]
    if tensor.type != schema().TensorType.FLOAT32 or not readers:
        return ""
    others = sorted({kind(model, op) for op in readers if not _makes(model, graph, op, "QUANTIZE")})
    if others or index in graph.outputs:
        return f"io: input {tensor.name} stays float32, since {', '.join(others) or 'an output'} takes it in float"
    made = [int(op.outputs[0]) for op in readers]
    widest = max(made, key=lambda t: float(graph.tensors[t].quantization.scale[0]))
    same = {t for t in made if _levels(graph.tensors[t]) == _levels(graph.tensors[widest])}
    for op in list(readers):
        if int(op.outputs[0]) in same:
            graph.operators.remove(op)
        else:
            op.inputs = [widest]
    for op in graph.operators:
        op.inputs = [widest if int(t) in same else int(t) for t in op.inputs]
    graph.outputs = [widest if t in same else t for t in graph.outputs]
    _becomes(model, graph, index, widest)
    graph.inputs[place] = widest
    return ""


def _output(model: Any, graph: Any, place: int) -> str:
    index = graph.outputs[place]
    tensor = graph.tensors[index]
    if tensor.type != schema().TensorType.FLOAT32:
        return ""
    makers = [op for op in graph.operators if index in [int(t) for t in op.outputs]]
    readers = [op for op in graph.operators if index in [int(t) for t in op.inputs]]
    ends = {*graph.inputs, *graph.outputs}
    found = [op for op in makers if kind(model, op) == "DEQUANTIZE"]
    if not found or readers or int(found[0].inputs[0]) in ends or not _is_int8(graph.tensors[int(found[0].inputs[0])]):
        why = "an operator reads it in float" if readers else "no int8 tensor stands for it alone"
        return f"io: output {tensor.name} stays float32, since {why}"
    source = int(found[0].inputs[0])
    graph.operators.remove(found[0])
    _becomes(model, graph, index, source)
    graph.outputs[place] = source
    return ""


def _becomes(model: Any, graph: Any, end: int, integers: int) -> None:
    """The int8 tensor takes the place of a float end: its name, and its entry in the signatures."""
    graph.tensors[integers].name, graph.tensors[end].name = graph.tensors[end].name, None
    for signature in model.signatureDefs or []:
        for entry in [*signature.inputs, *signature.outputs]:
            if int(entry.tensorIndex) == end:
                entry.tensorIndex = integers


def _makes(model: Any, graph: Any, op: Any, name: str) -> bool:
    return kind(model, op) == name and _is_int8(graph.tensors[int(op.outputs[0])])


def _is_int8(tensor: Any) -> bool:
    return bool(tensor.type == schema().TensorType.INT8)


def _levels(tensor: Any) -> tuple[float, int]:
    return float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
