"""restore a .tflite file: the zeros that another tool stored densely are left out. Imports no torch.

The graph stays as that tool made it, but for long names inside of it; each weight it stores densely comes out of a
DENSIFY instead, in front of the DEQUANTIZE where there is one. Runtimes fail on some of these, so there are several
forms, one more careful than the other; full int8 layers are rewritten as in our own export, where that lets their
weights be sparse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from idp_deploy.errors import ConversionError, require
from idp_deploy.flow import Contents
from idp_deploy.formats import manifest
from idp_deploy.formats.tflite.write import sparse as sparse
from idp_deploy.formats.tflite.write.attached import with_files_of
from idp_deploy.formats.tflite.write.graph import (
    Constant,
    add_buffer,
    add_tensor,
    compact,
    constants,
    kind,
    merge_equal_constants,
    name_the_rest,
    operator,
    schema,
)
from idp_deploy.formats.tflite.write.pointwise import as_convolutions
from idp_deploy.formats.tflite.write.serializing import parse, serialize
from idp_deploy.formats.tflite.write.storing import BOTH_DECODERS, PLAIN, SPARSE_INT8, WEIGHTS, Plan, plan

_LONG_NAME = 24
Readers = Mapping[int, Sequence[tuple[Any, str, int]]]  # tensor → (operator, its kind, input position)


@dataclass(frozen=True, eq=False)
class _Weight:
    """One that its subgraph can read out of a DENSIFY."""

    constant: Constant
    values: np.ndarray  # as they are stored now
    layout: sparse.Layout
    idle: Any | None  # the DEQUANTIZE that it does without from now on

    def tensor(self, model: Any) -> Any:
        return model.subgraphs[self.constant.place].tensors[self.constant.index]


def restored_tflite(contents: Contents, *, encoding: str = "auto") -> Iterator[bytes]:
    """The file with its weights stored sparse in every way that may pay, the smallest first.

    Raises:
        ConversionError: parts of it lie outside of what can be rewritten.
        UsageError: an unknown encoding. MissingDependencyError: LiteRT, which knows the schema, is not installed.
    """
    wanted = plan(encoding, None, ())
    require("ai_edge_litert", "tflite")
    _refuse_outside(contents, parse(contents.parsed))
    careful = replace(wanted, one_decoder=True)
    ways = ((wanted, True), (wanted, False), (careful, False))
    forms = (_form(contents.parsed, storing, encoding, pointwise=pointwise) for storing, pointwise in ways)
    for form in dict.fromkeys(sorted(filter(None, forms), key=len)):
        yield with_files_of(contents.parsed, form)


def _refuse_outside(contents: Contents, model: Any) -> None:
    """Data that tables know by its place in the file alone would not be there any more."""
    held = any(int(op.largeCustomOptionsOffset) > 1 for graph in model.subgraphs for op in graph.operators or ())
    if held or model.externalBuffers or model.externalBufferGroups:
        raise ConversionError(
            f"{contents.path} keeps parts of its model outside of its tables",
            way_out="convert the model into one plain .tflite file first",
        )


def _form(content: bytes, storing: Plan, encoding: str, *, pointwise: bool) -> bytes:
    """The file in one way; empty where nothing in it would be sparse."""
    model = parse(content)
    merge_equal_constants(model)
    if pointwise:
        for place in range(len(model.subgraphs)):
            as_convolutions(model, {}, {}, place=place)
    compact(model)  # what several subgraphs hold of equal weights lies in one buffer
    holders = Counter(tensor.buffer for graph in model.subgraphs for tensor in graph.tensors)
    found: dict[int, list[_Weight]] = {}
    for place in range(len(model.subgraphs)):
        for weight in _weights(model, place, storing, holders):
            found.setdefault(weight.tensor(model).buffer, []).append(weight)
    sparse_everywhere = [weights for buffer, weights in found.items() if len(weights) == holders[buffer]]
    if not sparse_everywhere:
        return b""
    for weight in reversed([weight for weights in sparse_everywhere for weight in weights]):
        _decode(model, weight)
    for each in model.subgraphs:
        _shorten_names(each)
    _tell(model, encoding)
    compact(model)
    name_the_rest(model)
    return serialize(model)


def _weights(model: Any, place: int, storing: Plan, holders: Mapping[int, int]) -> Iterator[_Weight]:
    """The weights of one subgraph that may be stored sparse there, and are smaller then."""
    graph, readers = model.subgraphs[place], _readers(model, place)
    for constant in constants(model, floats_only=False, place=place):
        single = storing.one_decoder or not _takes_both(model, constant, readers)
        idle = _widening(constant, readers) if single else None
        values = constant.values if idle is None else constant.values.astype(np.float32)
        if _may_be_sparse(model, constant, readers, single):
            copies = holders[graph.tensors[constant.index].buffer]
            layout = _layout(values, constant.values.nbytes, storing, copies)
            if layout is not None:
                yield _Weight(constant, values, layout, idle)


def _decode(model: Any, weight: _Weight) -> None:
    """Let its subgraph begin with the DENSIFY that makes it."""
    place, graph = weight.constant.place, model.subgraphs[weight.constant.place]
    made = weight.constant.index if weight.idle is None else int(weight.idle.outputs[0])
    tensor, values = graph.tensors[made], weight.values
    stored = sparse.store(values, values != 0, weight.layout)
    source = add_tensor(model, tensor, PLAIN[values.dtype], stored.values, place=place)
    graph.tensors[source].sparsity = sparse.parameters(stored, values.shape)
    graph.tensors[source].quantization, graph.tensors[source].name = tensor.quantization, tensor.name
    tensor.name, tensor.buffer = None, 0
    rest = [op for op in graph.operators if op is not weight.idle]
    graph.operators = [operator(model, "DENSIFY", [source], [made]), *rest]


def _tell(model: Any, encoding: str) -> None:
    """Our manifest, where it has one, says how zeros are stored now."""
    for entry in model.metadata or []:
        if (entry.name or b"") in (manifest.KEY, manifest.KEY.encode()):
            record = manifest.stored_anew(bytes(model.buffers[entry.buffer].data), encoding)
            entry.buffer = entry.buffer if record is None else add_buffer(model, record.encode())


def _shorten_names(graph: Any) -> None:
    """Of inner tensors: a converter that writes a whole path of modules into each would outweigh sparse weights."""
    outside = {int(t) for t in [*graph.inputs, *graph.outputs]}
    names = [_text(tensor.name) for tensor in graph.tensors]
    long = [index for index, name in enumerate(names) if len(name) > _LONG_NAME and index not in outside]
    taken = {"", *names} - {names[index] for index in long}
    count: Counter[str] = Counter()
    for index in long:
        shorter = _ends(names[index])
        name = next((each for each in shorter if each not in taken), "")
        while not name or name in taken:
            count[shorter[0]] += 1
            name = f"{shorter[0]}#{count[shorter[0]]}"
        taken.add(name)
        graph.tensors[index].name = name


def _ends(path: str) -> list[str]:
    """The last part of a path, then with the modules around it, as far as that is short.

    >>> _ends("net.Net/torch.nn.Encoder_encoder/net.Block_1/torch.nn.modules.linear.Linear_wide;1")
    ['Linear_wide;1', '1/Linear_wide;1', 'encoder/1/Linear_wide;1']
    """
    *around, last = [part.rpartition(".")[2] for part in path.rstrip(";./").rpartition(";;")[2].split("/")]
    last = last if len(last) <= _LONG_NAME else last.partition("_")[2] or last
    ends = [last[-_LONG_NAME:]]
    for module in reversed(around):
        ends.append(f"{module.rpartition('_')[2]}/{ends[-1]}")
    return [end for end in ends if len(end) <= _LONG_NAME]


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name or ""


def _readers(model: Any, place: int) -> Readers:
    found: dict[int, list[tuple[Any, str, int]]] = {}
    for op in model.subgraphs[place].operators:
        for position, tensor in enumerate(op.inputs):
            found.setdefault(int(tensor), []).append((op, kind(model, op), position))
    return found


def _may_be_sparse(model: Any, constant: Constant, readers: Readers, single: bool) -> bool:
    """Whether it is a weight and all that read it, maybe through a DEQUANTIZE, take one that DENSIFY restores.

    Args:
        single: without a DEQUANTIZE behind it.
    """
    direct = readers.get(constant.index, ())
    widened = bool(direct) and all(word == "DEQUANTIZE" for _, word, _ in direct)
    last = [r for op, _, _ in direct for r in readers.get(int(op.outputs[0]), ())] if widened else direct
    kinds = {word for _, word, position in last if WEIGHTS.get(word, (None,))[0] == position}
    if not kinds or len(kinds) != len({word for _, word, _ in last}):
        return False
    if widened and single:
        return _widening(constant, readers) is not None
    if widened:
        return constant.values.dtype in PLAIN
    if constant.values.dtype == np.int8:  # beside float activations it would be refused
        tensors, whole = model.subgraphs[constant.place].tensors, schema().TensorType.INT8
        others = {int(op.inputs[0 if position else 1]) for op, word, position in last if word == "CONV_2D"}
        return kinds <= SPARSE_INT8 and all(tensors[i].type == whole for i in others)
    return constant.values.dtype == np.float32


def _takes_both(model: Any, constant: Constant, readers: Readers) -> bool:
    """Whether all that read it behind a DEQUANTIZE take it with a DENSIFY in front of that as well.

    A transposed convolution whose shape is computed does not: XNNPACK decodes its weight, but does not run it.
    """
    below = [int(op.outputs[0]) for op, word, _ in readers.get(constant.index, ()) if word == "DEQUANTIZE"]
    last = [(op, word) for index in below for op, word, _ in readers.get(index, ())]
    if not {word for _, word in last} <= BOTH_DECODERS:
        return False
    tensors = model.subgraphs[constant.place].tensors
    shapes = [tensors[int(op.inputs[0])] for op, word in last if word == "TRANSPOSE_CONV"]
    return all(model.buffers[tensor.buffer].data is not None for tensor in shapes)


def _widening(constant: Constant, readers: Readers) -> Any | None:
    """The one DEQUANTIZE that makes float32 of a float16 weight, and that a float32 out of a DENSIFY can do without."""
    found = [op for op, word, _ in readers.get(constant.index, ()) if word == "DEQUANTIZE"]
    return found[0] if len(found) == 1 and constant.values.dtype == np.float16 else None


def _layout(values: np.ndarray, most_bytes: int, storing: Plan, copies: int) -> sparse.Layout | None:
    """The cheapest way to leave the zeros out, or None where that is no cheaper than what is there.

    Args:
        copies: tensors that hold it now, and of which each has a decoder then.
    """
    if not values.size or storing.is_dense:
        return None
    layout, size = sparse.smallest(values != 0, values.itemsize, block=storing.block)
    return layout if size + copies * sparse.OVERHEAD_BYTES < most_bytes else None
