"""projected: LSTMs whose states are projected (proj_size), step by step, for formats that have no such operator.

i, f, o = σ, g = tanh of W·x + b + U·h;   c ← f⊙c + i⊙g;   h ← P·(o⊙tanh(c))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from idp_deploy.rewriting.spelling import Row

_MOST = 256  # steps in all layers and directions: each is a dozen operators in the file


def by_steps(
    x: Tensor,
    state: Sequence[Tensor],
    parameters: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...] | None:
    """(outputs, last h, last c); None where nothing is projected, or where that would be too many operators."""
    hidden, cells = state
    directions = 2 if bidirectional else 1
    x = x.transpose(0, 1) if batch_first else x
    steps = x.shape[0]
    if hidden.shape[-1] == cells.shape[-1] or not isinstance(steps, int) or steps * layers * directions > _MOST:
        return None
    rest, last = list(parameters), []
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            weight, recurrent, *rest = rest
            biases, rest = (rest[:2], rest[2:]) if has_biases else ([], rest)
            projection, *rest = rest
            place = layer * directions + direction
            given = linear(x, weight, biases[0] + biases[1] if biases else None)
            made, *ends = _layer(given, hidden[place], cells[place], recurrent, projection, backwards=direction == 1)
            outputs.append(made)
            last.append(ends)
        x = torch.cat(outputs, -1) if bidirectional else outputs[0]
    return x.transpose(0, 1) if batch_first else x, *(torch.stack(ends) for ends in zip(*last, strict=True))


def _layer(
    given: Tensor, h: Tensor, c: Tensor, recurrent: Tensor, projection: Tensor, *, backwards: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer in one direction, from what its inputs add to the gates: (steps, batch, 4 · width)."""
    outputs: list[Tensor] = []
    for step in range(given.shape[0])[:: -1 if backwards else 1]:
        i, f, g, o = (given[step] + linear(h, recurrent)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = linear(torch.sigmoid(o) * torch.tanh(c), projection)
        outputs.append(h)
    return torch.stack(outputs[::-1] if backwards else outputs), h, c


PROJECTED: dict[Any, Row] = {torch.ops.aten.lstm.input: by_steps}
