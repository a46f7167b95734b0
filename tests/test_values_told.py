"""Numbers of buffers and constants that forward asks for are told in a trace; of inputs, weights and state not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.overrides import _get_current_function_mode_stack

from idp_deploy.capturing import export_program
from idp_deploy.errors import ConversionError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 4)
        self.register_buffer("count", torch.tensor(2))
        self.register_buffer("times", torch.tensor([0.0, 0.5, 2.0]))
        self.register_buffer("kept", torch.tensor([True, False, True, True]))
        self.register_buffer("order", torch.tensor([0, 2, 1]))
        self.steps = torch.tensor([1, 3])


class Strides(Net):
    """Numbers in buffers, as codecs keep strides and borders."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(self.line(x), (int(self.count), self.steps.tolist()[1])) * float(self.times[2])


class Solver(Net):
    """A solver of fixed steps, which looks whether its times rise, and how far."""

    def forward(self, x: Tensor) -> Tensor:
        times = torch.linspace(0, 1, 4)
        steps = times[1:] - times[:-1]
        assert (steps > 0).all()
        for start, step in zip(times[:-1], steps, strict=True):
            x = x + step * self.line(x) if start < 0.5 else x
        return x


class Lengths(Net):
    """A mask of lengths made in forward, as a conformer's is, of which one was written to."""

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((3,), 4)
        lengths[1] = 2
        lengths -= 1
        return self.line(x)[:, : int(lengths.max())]


class Places(Net):
    """Sizes that values tell: entries of a mask, and an order of axes."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.line(x)
        (chosen,) = torch.where(self.kept)
        order = torch.cat((torch.tensor([0]), torch.arange(1, 3).flip(0)))
        turned = y.unsqueeze(1).permute(*order).permute(*self.order).squeeze(1)
        return y[:, self.kept.nonzero().squeeze(1)] + turned[:, chosen] + torch.arange(4)[self.kept]


class Chosen(Net):
    """Entries of what an input tells, by a constant mask and constant counts: edges of a graph, lengths of phones."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y, counts = self.line(x), self.kept.long() + 1
        edges = torch.stack([torch.arange(4), torch.arange(4).flip(0)])[:, self.kept]
        return (
            y[:, self.kept],
            y[..., edges[0]].index_add(1, edges[1] % 3, y[:, edges[1]]),
            y.repeat_interleave(counts, 1),
            y.repeat_interleave(repeats=torch.tensor([2]), dim=1),
            y[:, torch.repeat_interleave(counts)],
            y[0].masked_select(self.kept),
        )


class ByInput(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.line(x) if x.sum() > 0 else x


class Written(Net):
    """A constant that an input was written into, seen through a view of it."""

    def forward(self, x: Tensor) -> Tensor:
        places = torch.zeros(4)
        view = places[:1]
        places[0] = x[0, 0]
        return self.line(x) if view.sum() > 0 else x


class ByWeight(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.line(x) if self.line.weight.sum() > 0 else x


class ByCalls(Net):
    """The number of calls so far: another one in every call."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.line(x) if self.count < 5 else x
        self.count += 1
        return y


class ByChance(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.line(x) if torch.rand(3).sum() > 1 else x


@pytest.mark.parametrize("kind", [Strides, Solver, Lengths, Places])
def test_what_no_input_tells_is_known_in_the_trace(kind: type[Net]) -> None:
    torch.manual_seed(0)
    net = kind()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    program, free = export_program(net, (torch.randn(1, 4),), dynamic_batch=True)
    x = torch.randn(3, 4)
    assert free
    assert torch.equal(program.module()(x), net(x))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net._forward_pre_hooks
    assert not net._forward_hooks


def test_constants_choose_entries_in_sizes_that_are_known() -> None:
    torch.manual_seed(0)
    net = Chosen()
    program, free = export_program(net, (torch.randn(1, 4),), dynamic_batch=True)
    x = torch.randn(3, 4)
    assert free
    for found, wanted in zip(program.module()(x), net(x), strict=True):
        assert torch.equal(found, wanted)
    assert not [node for node in program.graph.nodes if free_unbacked_symbols(node.meta.get("val", 0))]


class ChosenByInput(Net):
    """A constant mask that an input was written into, and one of an input's own."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mask = torch.tensor([True, False, True, True])
        mask[1] = x[0, 0] > 0
        return x[:, mask], x[:, x[0] > 0], x[:, self.kept]


@pytest.mark.parametrize("sign", [1, -1])
def test_what_an_input_chooses_stays_open(sign: int) -> None:
    net, x = ChosenByInput(), torch.ones(1, 4)
    program, _ = export_program(net, (x,))
    for found, wanted in zip(program.module()(x * sign), net(x * sign), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("kind", [ByInput, Written, ByWeight, ByCalls, ByChance])
def test_what_another_call_may_change_is_not_told(kind: type[Net], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConversionError, match=r"by the values of its input at test_values_told\.py:\d+ \(`"):
        export_program(kind(), (torch.randn(1, 4),))
    assert "def forward" not in capfd.readouterr().err  # PyTorch prints the graph it has come to
    assert not _get_current_function_mode_stack()  # what answered for it is gone
