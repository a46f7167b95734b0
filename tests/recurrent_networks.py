"""Small networks with recurrent layers, and the weights of each that may lose channels or hidden units."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Sounds(nn.Module):
    """Convolutions that a recurrent layer reads, whose end is what counts."""

    x = (torch.randn(1, 6, 64),)

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(6, 32, 5), nn.Conv1d(32, 32, 5)
        self.recurrent, self.head = kind(32, 16, 2, batch_first=True, bidirectional=True), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.b(F.relu(self.a(x))))
        ends = self.recurrent(y.transpose(1, 2))[1]
        return self.head((ends[0] if isinstance(ends, tuple) else ends)[-1])


class Hearing(nn.Module):
    """A recurrent layer and what reads its last states."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.recurrent, self.head = kind(8, 16, 2, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


class Steps(nn.Module):
    """A cell in a loop."""

    x = (torch.randn(1, 3, 16, 6),)

    def __init__(self, kind: type[nn.RNNCellBase] = nn.GRUCell, counts: bool = False) -> None:
        super().__init__()
        self.units, self.counts = 12, counts
        self.a, self.cell, self.head = nn.Conv2d(3, 16, 3, padding=1), kind(16, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x)).mean(2)
        h = torch.zeros(x.shape[0], self.units if self.counts else 12)
        state = (h, h) if isinstance(self.cell, nn.LSTMCell) else h
        for t in range(y.shape[2]):
            state = self.cell(y[:, :, t], state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Translating(nn.Module):
    """The state of one recurrent layer begins another."""

    x = (torch.randn(1, 10, 8), torch.randn(1, 5, 4))

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.start = nn.Linear(8, 24), nn.Linear(24, 16)
        self.encoder = nn.GRU(24, 16, batch_first=True)
        self.decoder = nn.GRU(4, 16, batch_first=True)
        self.up, self.out = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        y = F.relu(self.inputs(a))
        _, h = self.encoder(y, self.start(y.mean(1)).unsqueeze(0))
        return self.out(F.relu(self.up(self.decoder(b, h)[0])))


class Projecting(nn.Module):
    """An LSTM that projects, whose hidden units stay, from states that are given."""

    x = (torch.randn(2, 7, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.recurrent = nn.Linear(8, 16), nn.LSTM(16, 12, 2, proj_size=5, batch_first=True, bidirectional=True)
        self.up, self.out = nn.Linear(10, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        states = torch.zeros(4, x.shape[0], 5), torch.zeros(4, x.shape[0], 12)
        return self.out(F.relu(self.up(self.recurrent(F.relu(self.a(x)), states)[0])))


class Lengths(nn.Module):
    """Sequences of several lengths, packed."""

    x = (torch.randn(2, 10, 8), torch.tensor([10, 7]))

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.up, self.out = nn.GRU(8, 12, batch_first=True), nn.Linear(12, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, h = self.recurrent(packed)
        return self.out(F.relu(self.up(pad_packed_sequence(y, batch_first=True)[0]))), h


_TWO_LAYERS = {
    f"recurrent.weight_{side}_l{k}{way}" for side in ("ih", "hh") for k in (0, 1) for way in ("", "_reverse")
}
CASES = {
    "lstm": (Sounds, {"a.weight", "b.weight", *_TWO_LAYERS}),
    "gru": (lambda: Sounds(nn.GRU), {"a.weight", "b.weight", *_TWO_LAYERS}),
    "rnn": (lambda: Sounds(nn.RNN), {"a.weight", "b.weight", *_TWO_LAYERS}),
    "projecting": (Projecting, {"a.weight", "up.weight"}),
    "gru cell counted": (lambda: Steps(counts=True), {"a.weight", "cell.weight_ih", "cell.weight_hh"}),
    "lstm cell counted": (lambda: Steps(nn.LSTMCell, True), {"a.weight", "cell.weight_ih", "cell.weight_hh"}),
    "gru cell": (Steps, {"a.weight"}),
    "lstm cell": (lambda: Steps(nn.LSTMCell), {"a.weight"}),
    "states": (
        Translating,
        {"inputs.weight", "up.weight", "start.weight"}
        | {f"{name}.{leaf}_l0" for name in ("encoder", "decoder") for leaf in ("weight_ih", "weight_hh")},
    ),
    "packed": (Lengths, {"up.weight"}),
}
