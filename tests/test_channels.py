"""Channels of networks nobody prepared: those that can go do so for real, and no others are chosen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves

from idp_deploy import Pruner, load_checkpoint, one_shot, save_checkpoint, shrink
from idp_deploy.channels import couple
from idp_deploy.channels.recurrent import standing_in
from idp_deploy.errors import IdpDeployWarning, UsageError
from idp_deploy.shrinking import zero_channels


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


class Steps(nn.Module):
    """A cell in a loop."""

    x = (torch.randn(1, 3, 16, 6),)

    def __init__(self, kind: type[nn.RNNCellBase] = nn.GRUCell) -> None:
        super().__init__()
        self.a, self.cell, self.head = nn.Conv2d(3, 16, 3, padding=1), kind(16, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x)).mean(2)
        h = torch.zeros(x.shape[0], 12)
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


class Flattened(nn.Module):
    """A channel is many inputs of what follows."""

    x = (torch.randn(1, 3, 16, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.up, self.norm, self.head = nn.Linear(24 * 16, 64), nn.BatchNorm1d(64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.b(F.relu(self.a(x)))).flatten(1)
        return self.head(F.relu(self.norm(self.up(y))))


class Gated(nn.Module):
    """The halves of a gate, a shuffle of pixels and a split by numbers: channels that cannot go one by one."""

    x = (torch.randn(1, 3, 12, 12),)

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.halves, self.split = nn.Conv2d(3, 20, 1), nn.Conv2d(20, 16, 1), nn.Conv2d(8, 16, 1)
        self.pixels, self.last = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        p, q = self.halves(F.relu(self.inner(x))).chunk(2, 1)
        r, s = F.relu(self.split(torch.tanh(p) * torch.sigmoid(q))).split((8, 8), 1)
        return self.last(F.relu(F.pixel_shuffle(self.pixels(r + s), 2)))


class Products(nn.Module):
    """Features of two branches multiplied, then flattened: the tracer's own walk goes round for ever."""

    x = (torch.randn(1, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 3), nn.Conv2d(3, 10, 3), nn.Linear(120, 6)
        self.up, self.out = nn.Linear(6, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bchw,bdhw->bcd", F.relu(self.a(x)), F.relu(self.b(x)))
        return self.out(F.relu(self.up(self.c(y.flatten(1)))))


class Normed(nn.Module):  # a norm of which several entries serve one channel
    x = (torch.randn(2, 3, 16, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm1d(128), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(F.relu(self.a(x)).flatten(1)))


class Upsampled(nn.Module):  # a transposed convolution of one filter a channel
    x = (torch.randn(1, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.up, self.out = (
            nn.Conv2d(3, 12, 1),
            nn.ConvTranspose2d(12, 12, 2, 2, groups=12),
            nn.Conv2d(12, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.up(F.relu(self.a(x)))))


class Counting(nn.Module):
    """What every call leaves behind: a buffer, numbers, a state that begins the next one, a tensor with graph."""

    x = (torch.randn(1, 5, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.up, self.recurrent = nn.Linear(8, 24), nn.GRU(24, 16, batch_first=True)
        self.wide, self.out = nn.Linear(16, 20), nn.Linear(20, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.seen: list[int] = []
        self.state: Tensor | None = None
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(len(x))
        y, state = self.recurrent(F.relu(self.up(x)), self.state)
        self.state, self.last = state, y
        return self.out(F.relu(self.wide(y)))


class Answering(nn.Module):  # results that are no tensors, no numbers or have no graph
    x = (torch.randn(2, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> dict[str, object]:
        y = self.c(F.relu(self.b(F.relu(self.a(x)))))
        infinite = y.masked_fill(torch.tensor([True, False]), float("-inf"))
        return {"y": y, "none": None, "count": 3, "best": y.argmax(-1), "nan": infinite * 0, "infinite": infinite}


class Tied(nn.Module):
    """One weight in two layers, whose neighbours are not the same."""

    x = (torch.randn(2, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b, self.c = nn.Linear(8, 12), nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.c.weight, self.out = self.b.weight, nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(F.relu(self.first(x))))
        return self.out(F.relu(self.c(F.relu(self.b(y)))))


class Halves(nn.Module):
    """Shuffled halves, of which the tracer cannot count the channels, beside channels that it can."""

    x = (torch.randn(1, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)
        self.c, self.d, self.out = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(x))
        for up, down in ((self.a, self.b), (self.c, self.d)):
            p, q = y.chunk(2, 1)
            y = F.channel_shuffle(torch.cat([p, F.relu(down(F.relu(up(q))))], 1), 2)
        return self.out(y.mean((2, 3)))


class Joined(nn.Module):
    """Every layer reads all that came before it, each through norms of its own, as in DenseNet."""

    x = (torch.randn(1, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(24, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (8, 14, 24))
        self.grown = nn.ModuleList(nn.Conv2d(*widths, 3, padding=1) for widths in ((8, 6), (14, 10)))
        with torch.no_grad():
            for norm in self.norms:
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_()
                norm.running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for norm, grow in zip(self.norms, self.grown, strict=False):
            y = torch.cat([y, grow(F.relu(norm(y)))], 1)
        return self.out(F.relu(self.norms[2](y)).mean((2, 3)))


class Filtered(nn.Module):
    """GhostNet: filters of one channel each beside those that they read, and halves of which one opens the other."""

    x = (torch.randn(1, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.filters = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.b, self.norm, self.out = nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24), nn.Linear(12, 3)
        with torch.no_grad():
            self.norm.bias.normal_()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        y, gate = self.norm(self.b(torch.cat([y, F.relu(self.filters(y))], 1))).chunk(2, 1)
        return self.out((F.relu(y) * torch.sigmoid(gate)).mean((2, 3)))


class Parts(nn.Module):
    """YOLO's C2f: a part that three read, next to one that goes past them; then a part nobody reads, and a `glu`."""

    x = (torch.randn(1, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.parted, self.worked, self.joined = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(24, 18, 1)
        self.norm, self.gate, self.out = nn.BatchNorm2d(16), nn.Linear(12, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = list(F.relu(self.norm(self.parted(x))).chunk(2, 1))
        y.append(y[-1] + F.relu(self.worked(y[-1])))
        last, _, first = F.relu(self.joined(torch.cat(y, 1))).chunk(3, 1)
        return self.out(F.glu(self.gate(torch.cat([first, last], 1).mean((2, 3))), -1))


CASES = {
    "parts": (Parts, {"parted.weight", "worked.weight", "joined.weight", "gate.weight"}),
    "joined": (Joined, {"stem.weight", "grown.0.weight", "grown.1.weight"}),
    "filtered": (Filtered, {"a.weight", "b.weight"}),
    "lstm": (Sounds, {"a.weight", "b.weight"}),
    "gru": (lambda: Sounds(nn.GRU), {"a.weight", "b.weight"}),
    "rnn": (lambda: Sounds(nn.RNN), {"a.weight", "b.weight"}),
    "gru cell": (Steps, {"a.weight"}),
    "lstm cell": (lambda: Steps(nn.LSTMCell), {"a.weight"}),
    "states": (Translating, {"inputs.weight", "up.weight"}),
    "packed": (Lengths, {"up.weight"}),
    "flattened": (Flattened, {"a.weight", "b.weight", "up.weight"}),
    "gated": (Gated, {"inner.weight", "halves.weight"}),
    "products": (Products, {"c.weight", "up.weight"}),
    "normed": (Normed, {"a.weight"}),
    "upsampled": (Upsampled, {"a.weight"}),
    "counting": (Counting, {"up.weight", "wide.weight"}),
    "answering": (Answering, {"a.weight", "b.weight"}),
    "halves": (Halves, {"a.weight", "c.weight"}),
    "tied": (Tied, {"first.weight"}),
}


@pytest.mark.parametrize("name", CASES)
def test_channels_that_are_chosen_are_removed(name: str, tmp_path: Path) -> None:
    build, chosen = CASES[name]
    torch.manual_seed(0)
    module = build().eval()
    pruned = one_shot(module, sparsity=0.5, pattern="channel", example_inputs=module.x)
    assert set(pruned.masks) == chosen
    small = shrink(pruned, module.x)
    assert not zero_channels(small)
    save_checkpoint(small, tmp_path / "small.pt")
    loaded = load_checkpoint(tmp_path / "small.pt", build).module.eval()
    with torch.no_grad():
        results = [tree_leaves(m.eval()(*module.x)) for m in (pruned.module, small.module, loaded)]
    before, after, again = ([leaf for leaf in leaves if isinstance(leaf, Tensor)] for leaves in results)
    for a, b, c in zip(before, after, again, strict=True):
        torch.testing.assert_close(b, a, equal_nan=True)
        torch.testing.assert_close(b, c, rtol=0, atol=0, equal_nan=True)
    assert sum(p.numel() for p in small.module.parameters()) < 0.9 * sum(p.numel() for p in module.parameters())


def test_the_module_itself_is_left_as_it_is() -> None:
    module = Sounds().eval()
    attributes, names = {**module.recurrent.__dict__}, list(module.state_dict())
    coupled = couple(module, module.x, ["a.weight", "b.weight"])
    assert {one.weights: one.fixed for one in coupled} == {("a.weight",): "", ("b.weight",): ""}
    assert list(module.state_dict()) == names
    assert module.recurrent.__dict__.keys() == attributes.keys()
    with standing_in(module), torch.no_grad():
        inside = module(*module.x)
    assert inside.shape == module(*module.x).shape
    assert list(module.state_dict()) == names


def test_what_cannot_go_is_named_with_the_reason() -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.halves, self.out, self.aside = nn.Conv1d(4, 16, 1), nn.Conv1d(8, 2, 1), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                shift = self.aside(x.mean(-1)).mean()
            a, b = self.halves(x).split(8, 1)
            return self.out(torch.tanh(a) * torch.sigmoid(b)) + shift

    with pytest.raises(UsageError) as refused:
        one_shot(Alone(), sparsity=0.5, pattern="channel", example_inputs=torch.randn(1, 4, 8))
    for reason in (
        "its channels are the model's outputs: out.weight",
        "without some of them the model cannot be called",
        "nothing tells which channels follow its own: aside.weight",
    ):
        assert reason in str(refused.value)


def test_zeros_that_come_back_further_on_are_no_reason_to_remove() -> None:
    class Raised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(16, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(F.relu(self.b(torch.sigmoid(self.a(x)))))

    pruned = one_shot(Raised(), sparsity=0.5, pattern="channel", example_inputs=torch.randn(1, 6))
    assert set(pruned.masks) == {"b.weight"}


def test_calls_that_are_made_to_look_leave_no_state() -> None:
    module = Counting().eval()
    module.train()
    module(*module.x)  # as a step of training leaves it
    module.eval()
    pruned = one_shot(module, sparsity=0.5, pattern="channel", example_inputs=module.x)
    small = shrink(pruned, module.x).module
    for one in (module, pruned.module, small):
        assert (int(one.calls), one.seen) == (1, [1])
        assert torch.equal(one.state, module.state)
    assert small.wide.out_features == 10


class Residual(nn.Module):
    """Channels that are added to each other, made by layers of several sizes."""

    x = (torch.randn(1, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 15, 3, padding=1)
        self.c, self.out = nn.Conv2d(15, 16, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        return self.out(F.relu(y + self.c(F.relu(self.b(y)))).mean((2, 3)))


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk", "lamp"])
def test_layers_that_make_the_same_channels_lose_the_same_ones(allocation: str) -> None:
    torch.manual_seed(0)
    pruned = one_shot(Residual(), sparsity=0.5, pattern="channel", allocation=allocation, example_inputs=Residual.x)
    dead = {name: (~mask.flatten(1).any(1)).tolist() for name, mask in pruned.masks.items()}
    assert dead["a.weight"] == dead["c.weight"]
    assert any(any(gone) for gone in dead.values())
    assert not zero_channels(shrink(pruned, Residual.x))


@pytest.mark.parametrize("choice", [{"skip": ["c.weight"]}, {"rules": {"c.weight": "skip"}}], ids=["skip", "rule"])
def test_a_layer_that_is_skipped_keeps_its_channels_and_those_they_are_added_to(choice: dict[str, Any]) -> None:
    module = Residual()
    pruner = Pruner(module, sparsity=0.5, pattern="channel", epochs=1, example_inputs=module.x, **choice)
    assert pruner.report().left["a.weight"] == "'c.weight' makes the same channels and keeps them"
    with pytest.warns(IdpDeployWarning, match="0 of the 1 epochs"):
        small = shrink(pruner.finalize(), module.x).module
    assert (small.a.out_channels, small.c.out_channels) == (16, 16)
    assert small.b.out_channels in (7, 8)  # half of 15


def test_a_norm_without_weights_makes_something_of_zeros() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16, affine=False), nn.Conv2d(16, 8, 3)
            # the statistics of this one take away whatever constant the other makes
            self.shift, self.c = nn.BatchNorm2d(8, track_running_stats=False), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(F.relu(self.shift(self.b(self.norm(self.a(x))))))

    module, x = Plain(), torch.randn(2, 3, 12, 12)
    module.norm.running_mean.uniform_(-1, 1)
    pruned = one_shot(module, sparsity=0.5, pattern="channel", example_inputs=x)
    assert set(pruned.masks) == {"b.weight"}
    assert not zero_channels(shrink(pruned, x))


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, partial(torch.compile, backend="eager")], ids=["parallel", "compiled"]
)
def test_a_model_in_a_wrapper_is_pruned_as_the_model_itself(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    module = Flattened().eval()
    pruned = one_shot(wrap(module), sparsity=0.5, pattern="channel", example_inputs=module.x)
    assert set(pruned.module.state_dict()) == set(module.state_dict())
    small = shrink(pruned, module.x)
    save_checkpoint(small, tmp_path / "small.pt")
    with torch.no_grad():
        torch.testing.assert_close(small.module(*module.x), pruned.module(*module.x))
        assert torch.equal(load_checkpoint(tmp_path / "small.pt", Flattened).module(*module.x), small.module(*module.x))
