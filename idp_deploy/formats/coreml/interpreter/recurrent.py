"""Recurrent and control-flow rows of the reference interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from idp_deploy.formats.coreml.interpreter.call import Call, Row, adding_to

ROWS: dict[str, Row] = {}
op = adding_to(ROWS)

_MOST_STEPS = 100_000  # of one loop
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "sigmoid_hard": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "scaled_tanh": lambda x: 1.7159 * torch.tanh(x * 2 / 3),
}


def _activation(call: Call, name: str, default: str) -> Callable[[Tensor], Tensor]:
    return _ACTIVATIONS[str(call.scalar(name, default))]


def _ordered(x: Tensor, reverse: bool) -> Tensor:
    return x.flip(0) if reverse else x


def _projected(x: Tensor, w_ih: Tensor, bias: Tensor | None, reverse: bool) -> Tensor:
    """What the inputs add to the gates, of all steps in one product: (steps, batch, in) → (steps, batch, gates)."""
    total = x @ w_ih.T
    return _ordered(total if bias is None else total + bias, reverse)


@op("lstm")
def _lstm(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    x, h, c = call["x"], call["initial_h"], call["initial_c"]
    direction = str(call.scalar("direction", "forward"))
    sequence = bool(call.scalar("output_sequence", False))
    if direction != "bidirectional":
        return _lstm_pass(call, x, h, c, "", direction == "reverse", sequence)
    width = h.shape[-1] // 2
    forward = _lstm_pass(call, x, h[:, :width], c[:, :width], "", False, sequence)
    backward = _lstm_pass(call, x, h[:, width:], c[:, width:], "_back", True, sequence)
    joined = [torch.cat(pair, -1) for pair in zip(forward, backward, strict=True)]
    return joined[0], joined[1], joined[2]


def _lstm_pass(
    call: Call, x: Tensor, h: Tensor, c: Tensor, suffix: str, reverse: bool, sequence: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction; gate rows lie in the order input, forget, output, cell."""
    w_ih, w_hh, bias = call[f"weight_ih{suffix}"], call[f"weight_hh{suffix}"], call.get(f"bias{suffix}")
    if call.get(f"peephole{suffix}") is not None:
        raise ValueError("peephole connections")
    gate = _activation(call, "recurrent_activation", "sigmoid")
    cell = _activation(call, "cell_activation", "tanh")
    out = _activation(call, "activation", "tanh")
    clip = call.scalar("clip")
    steps, w_hh_t = [], w_hh.T.contiguous()
    for step in _projected(x, w_ih, bias, reverse):
        i, f, o, z = torch.addmm(step, h, w_hh_t).chunk(4, -1)
        z = z if clip is None else z.clamp(-clip, clip)
        c = gate(f) * c + gate(i) * cell(z)
        h = gate(o) * out(c)
        steps.append(h)
    return _sequence(steps, h, reverse, sequence), h, c


@op("gru")
def _gru(call: Call) -> tuple[Tensor, Tensor]:
    """Gate rows lie in the order reset, output, update, as MIL's reference says."""
    x, h, bias = call["x"], call["initial_h"], call.get("bias")
    w_ih, w_hh = call["weight_ih"], call["weight_hh"]
    reverse = str(call.scalar("direction", "forward")) == "reverse"
    gate, act = _activation(call, "recurrent_activation", "sigmoid"), _activation(call, "activation", "tanh")
    steps, w_hh_t = [], w_hh.T.contiguous()
    for step in _projected(x, w_ih, bias, reverse):
        r_x, o_x, z_x = step.chunk(3, -1)
        r_h, o_h, z_h = (h @ w_hh_t).chunk(3, -1)
        r, z = gate(r_x + r_h), gate(z_x + z_h)
        h = (1 - z) * act(o_x + r * o_h) + z * h
        steps.append(h)
    return _sequence(steps, h, reverse, bool(call.scalar("output_sequence", False))), h


@op("rnn")
def _rnn(call: Call) -> tuple[Tensor, Tensor]:
    x, h, bias = call["x"], call["initial_h"], call.get("bias")
    reverse = str(call.scalar("direction", "forward")) == "reverse"
    act = _activation(call, "activation", "tanh")
    steps, w_hh_t = [], call["weight_hh"].T.contiguous()
    for step in _projected(x, call["weight_ih"], bias, reverse):
        h = act(torch.addmm(step, h, w_hh_t))
        steps.append(h)
    return _sequence(steps, h, reverse, bool(call.scalar("output_sequence", False))), h


def _sequence(steps: list[Tensor], last: Tensor, reverse: bool, whole: bool) -> Tensor:
    return _ordered(torch.stack(steps), reverse) if whole else last.unsqueeze(0)


@op("while_loop")
def _while_loop(call: Call) -> tuple[Any, ...]:
    condition, body = call.operation.blocks
    state = list(call["loop_vars"])
    for _ in range(_MOST_STEPS):
        if not bool(call.run_block(condition, state, call.environment)[0]):
            return tuple(state)
        state = call.run_block(body, state, call.environment)
    raise ValueError(f"a loop of more than {_MOST_STEPS} steps")


@op("cond")
def _cond(call: Call) -> tuple[Any, ...]:
    taken = call.operation.blocks[0 if bool(call["pred"]) else 1]
    return tuple(call.run_block(taken, [], call.environment))


@op("make_list")
def _make_list(call: Call) -> list[Tensor | None]:
    return [None] * int(call.scalar("init_length", 1))


@op("list_write")
def _list_write(call: Call) -> list[Any]:
    items, at = list(call["ls"]), int(call.scalar("index"))
    items += [None] * (at + 1 - len(items))
    items[at] = call["value"]
    return items


@op("list_read")
def _list_read(call: Call) -> Tensor:
    item: Tensor = call["ls"][int(call.scalar("index"))]
    return item


@op("list_gather")
def _list_gather(call: Call) -> Tensor:
    return torch.stack([call["ls"][i] for i in call.numbers("indices")])


@op("list_scatter")
def _list_scatter(call: Call) -> list[Any]:
    items = list(call["ls"])
    for i, value in zip(call.numbers("indices"), call["value"], strict=True):
        items += [None] * (i + 1 - len(items))
        items[i] = value
    return items


@op("list_length")
def _list_length(call: Call) -> Tensor:
    return torch.tensor(len(call["ls"]))
