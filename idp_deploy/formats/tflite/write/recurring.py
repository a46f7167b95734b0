"""recurring: LSTM, GRU and RNN as the operators of their steps, written by us where the converter would take minutes.

The converter knows no recurrent layer: it takes one apart into every operator of every step and then simplifies them
together, a minute of CPU for 160 steps of three layers. Here the weights of its inputs become one linear layer over
all steps, and what goes from step to step one call that the converter leaves alone (a StableHLO composite). In the
finished file each call becomes its steps, which share the weights:

    gates = W·h + b + x's part                                  of one step, (batch, gates · width)
    LSTM: i, f, o = σ, g = tanh of them;   c ← f⊙c + i⊙g;   h ← o⊙tanh(c), or P·(o⊙tanh(c)) where it is projected
    GRU:  r, z = σ, n = tanh(x's part + r⊙(W·h + b));   h ← n + z⊙(h − n)
    RNN:  h ← tanh or relu of them

Source of the equations and of the gates' order: torch.nn.LSTM, GRU and RNN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from idp_deploy.formats.tflite.write.graph import compact, kind, schema
from idp_deploy.formats.tflite.write.steps import Steps

aten = torch.ops.aten
_NAME = "idp_deploy.recurrence."  # of a composite; what it computes in a step follows


def _whole(
    cell: str,
    x: Tensor,
    state: Any,
    parameters: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...] | None:
    """A recurrent operator of any depth, by what one layer of one direction gives."""
    if train and dropout:
        return None
    states = [state] if isinstance(state, Tensor) else list(state)
    x = x.transpose(0, 1) if batch_first else x
    directions, rest, last = 2 if bidirectional else 1, list[Any](parameters), list[list[Tensor]]()
    projected = states[0].shape[-1] != states[-1].shape[-1]
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            w_ih, w_hh, *rest = rest
            b_ih, b_hh, *rest = rest if has_biases else (None, None, *rest)
            projection, *rest = rest if projected else (None, *rest)
            before = [one[layer * directions + direction] for one in states]
            call = _operator()(cell, bool(direction), linear(x, w_ih, b_ih), before, w_hh, b_hh, projection)
            outputs.append(call[0])
            last.append(list(call[1:]))
        x = torch.cat(outputs, 2) if bidirectional else outputs[0]
    return x.transpose(0, 1) if batch_first else x, *(torch.stack(ends) for ends in zip(*last, strict=True))


RECURRENT_LAYERS: dict[Any, Callable[..., Any]] = {
    aten.lstm.input: partial(_whole, "lstm"),
    aten.gru.input: partial(_whole, "gru"),
    aten.rnn_tanh.input: partial(_whole, "tanh"),
    aten.rnn_relu.input: partial(_whole, "relu"),
}


@cache
def _operator() -> Any:
    """One layer in one direction, from what its inputs add to the gates: (steps, batch, gates · width).

    Returns the outputs of all steps (steps, batch, width) and the last state, of an LSTM both halves.
    """
    from litert_converter.mlir import ir
    from litert_converter.mlir.dialects import func, stablehlo
    from litert_torch._convert.fx_passes.optimize_layout_transposes_pass.layout_rewrite import rewriters
    from litert_torch.backend.lowerings import registry

    def shapes(cell: str, backwards: bool, x: Tensor, state: list[Tensor], *_: Tensor | None) -> list[Tensor]:
        return [x.new_empty(*x.shape[:2], state[0].shape[-1]), *(x.new_empty(one.shape) for one in state)]

    library = torch.library.Library("idp_deploy", "FRAGMENT")
    library.define(
        "recurrence(str cell, bool backwards, Tensor x, Tensor[] state, Tensor w, Tensor? b, Tensor? p) -> Tensor[]"
    )
    library.impl("recurrence", shapes, "Meta")
    _held.append(library)
    made = torch.ops.idp_deploy.recurrence.default

    def lower(context: Any, cell: str, backwards: bool, x: Any, state: Any, *weights: Any) -> Any:
        operands = [x, *state, *(one for one in weights if one is not None)]
        element, (steps, batch, _) = x.type.element_type, x.type.shape
        results = [ir.RankedTensorType.get([steps, batch, state[0].type.shape[-1]], element), *(s.type for s in state)]
        body = context.ir_module.body
        with ir.InsertionPoint(body):

            @func.FuncOp.from_py_func(*(x.type for x in operands), name=f"recurrence{len(body.operations)}")  # type: ignore[untyped-decorator]
            def stand_in(*given: Any) -> Any:  # of the right shapes: a composite must have a body
                return stablehlo.broadcast_in_dim(results[0], given[1], [1, 2]), *given[1 : len(results)]

        function = stand_in.func_op
        function.attributes["sym_visibility"] = ir.StringAttr.get("private")
        parts = [
            cell,
            "backwards" if backwards else "forwards",
            *("bp"[i] for i in (0, 1) if weights[1 + i] is not None),
        ]
        return ir.Operation.create(
            "stablehlo.composite",
            results=results,
            operands=operands,
            attributes={
                "name": ir.StringAttr.get(_NAME + ".".join(parts)),
                "composite_attributes": ir.DictAttr.get({}),
                "decomposition": ir.FlatSymbolRefAttr.get(function.attributes["sym_name"].value),
            },
        ).results

    registry.lower(made)(lower)
    rewriters.register(made)(lambda node: None)  # it has no layout of its own
    return made


_held: list[torch.library.Library] = []  # an operator ends with the library that defined it


def write_steps(model: Any) -> None:
    """Every such call in a finished file, in place, as its steps."""
    graph, bodies = model.subgraphs[0], set()
    read = {int(t) for op in graph.operators for t in op.inputs} | {int(t) for t in graph.outputs}
    for at in reversed(range(len(graph.operators))):
        op = graph.operators[at]
        if kind(model, op) != "STABLEHLO_COMPOSITE":
            continue
        name = op.builtinOptions2.name.decode()
        if name.startswith(_NAME):
            bodies.add(int(op.builtinOptions2.decompositionSubgraphIndex))
            graph.operators[at : at + 1] = _steps(model, op, read, *name.removeprefix(_NAME).split("."))
    if bodies:
        _remove(model, bodies)
        compact(model)  # of results that nothing reads


def _steps(model: Any, op: Any, read: set[int], cell: str, direction: str, *given: str) -> list[Any]:
    """The operators that take the place of one call; of its results those that are read."""
    steps, operands, results = Steps(model), [int(t) for t in op.inputs], [int(t) for t in op.outputs]
    x, *state = operands[: len(results)]
    weight, *others = operands[len(results) :]
    named = dict(zip(given, others, strict=True))
    inputs, outputs = steps.unstack(x), list[int]()
    for one in reversed(inputs) if direction == "backwards" else inputs:
        recurrent = steps.linear(state[0], weight, named.get("b"))
        state = list(_CELLS[cell](steps, one, recurrent, state, named.get("p")))
        outputs.append(state[0])
    if results[0] in read:
        steps.stack(outputs[::-1] if direction == "backwards" else outputs, results[0])
    for last, result in zip(state, results[1:], strict=True):
        if result in read:
            steps.same(last, result)
    return steps.operators


def _lstm(steps: Steps, x: int, recurrent: int, state: list[int], projection: int | None) -> tuple[int, ...]:
    i, f, g, o = steps.split(steps.of("ADD", x, recurrent), 4)
    i, f, g, o = (*(steps.of("LOGISTIC", gate) for gate in (i, f)), steps.of("TANH", g), steps.of("LOGISTIC", o))
    cell = steps.of("ADD", steps.of("MUL", f, state[1]), steps.of("MUL", i, g))
    hidden = steps.of("MUL", o, steps.of("TANH", cell))
    return hidden if projection is None else steps.linear(hidden, projection, None), cell


def _gru(steps: Steps, x: int, recurrent: int, state: list[int], projection: int | None) -> tuple[int, ...]:
    (xr, xz, xn), (hr, hz, hn) = steps.split(x, 3), steps.split(recurrent, 3)
    r, z = steps.of("LOGISTIC", steps.of("ADD", xr, hr)), steps.of("LOGISTIC", steps.of("ADD", xz, hz))
    n = steps.of("TANH", steps.of("ADD", xn, steps.of("MUL", r, hn)))
    return (steps.of("ADD", n, steps.of("MUL", z, steps.of("SUB", state[0], n))),)


def _rnn(name: str, steps: Steps, x: int, recurrent: int, state: list[int], projection: int | None) -> tuple[int, ...]:
    return (steps.of(name, steps.of("ADD", x, recurrent)),)


_CELLS: dict[str, Callable[..., tuple[int, ...]]] = {
    "lstm": _lstm,
    "gru": _gru,
    "tanh": partial(_rnn, "TANH"),
    "relu": partial(_rnn, "RELU"),
}


def _remove(model: Any, bodies: set[int]) -> None:
    """Take subgraphs out that nothing calls any more; calls of others go by their new places."""
    kept = [i for i in range(len(model.subgraphs)) if i not in bodies]
    model.subgraphs = [model.subgraphs[i] for i in kept]
    for graph in model.subgraphs:
        for op in graph.operators:
            for options in (op.builtinOptions, op.builtinOptions2):
                for field in [f for f in vars(options or schema().BufferT()) if f.endswith("ubgraphIndex")]:
                    at = getattr(options, field)
                    setattr(options, field, kept.index(at) if at in kept else at)
    for signature in model.signatureDefs or []:
        signature.subgraphIndex = kept.index(signature.subgraphIndex)
