"""Soft masks of channels act behind norms: what training sees is what hardening leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from idp_deploy import Pruner, shrink
from idp_deploy.errors import IdpDeployWarning
from tests.channel_networks import Scaled

X = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 12, 3), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Flatten(), nn.Linear(12 * 16, 4),
    )  # fmt: skip
    with torch.no_grad():
        for norm in (net[1], net[4]):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.5)
    return net


@contextmanager
def half_way(net: nn.Module, **options: Any) -> Iterator[Pruner]:
    """In the middle of the ramp."""
    pruner = Pruner(
        net, sparsity=0.5, pattern="channel", epochs=40, dense=0.0, ramp=0.5, example_inputs=X[:1], **options
    )
    pruner.prepare()
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    for _ in range(15):
        optimizer.zero_grad()
        net(X).square().mean().backward()
        optimizer.step()
        pruner.step()
    yield pruner


def gap(pruner: Pruner) -> float:
    """How far outputs move when the mask turns hard, in parts of the largest; as in training."""
    before = pruner.model(X)
    with pruner.hardened() as hard:
        return float((hard(X) - before).abs().max() / before.abs().max())


def test_channels_that_will_go_are_gone_while_the_mask_is_soft() -> None:
    with half_way(network()) as pruner, torch.no_grad():
        assert 0 < pruner.sparsity <= 0.5
        gated = gap(pruner)
    with half_way(network(), gates=False) as pruner, torch.no_grad():
        assert gated < 0.1 < gap(pruner)


def test_weights_in_front_of_a_norm_stay_as_they_are_and_learn_where_they_count() -> None:
    net = network()
    with half_way(net) as pruner:
        keep = pruner.sites[0].magnitude_mask().flatten(1).any(1)
        pruner.model.zero_grad()
        net(X).square().mean().backward()
        slope = net[0].weight.grad.flatten(1).norm(dim=1)
        assert float(slope[~keep].max()) < 0.1 * float(slope[keep].median())
        assert float(slope[~keep].median()) == 0


def test_a_copy_computes_what_the_model_does_and_the_names_stay() -> None:
    net = network()
    names = list(net.state_dict())
    with half_way(net) as pruner, torch.no_grad():
        net.eval()
        copy = deepcopy(net)
        torch.testing.assert_close(copy(X), net(X))
        assert list(net.state_dict()) == list(copy.state_dict()) == names
        shift = net[1].bias.clone()
        pruner.detach()
        assert torch.equal(net[1].bias, shift)
        assert not any("weight" in vars(layer) or "bias" in vars(layer) for layer in net.modules())


def test_a_resumed_run_goes_on_behind_the_same_gates() -> None:
    net = network()
    with half_way(net) as pruner, torch.no_grad():
        again = network()
        again.load_state_dict(net.state_dict())
        other = Pruner(again, sparsity=0.5, pattern="channel", epochs=40, dense=0.0, ramp=0.5, example_inputs=X[:1])
        other.load_state_dict(pruner.state_dict())
        other.prepare()
        torch.testing.assert_close(again.eval()(X), net.eval()(X))


def test_the_end_has_exactly_the_zeros_and_their_norms() -> None:
    net = network()
    with half_way(net) as pruner, pytest.warns(IdpDeployWarning, match="15 of the 40"):
        done = pruner.finalize()
    dead: Tensor = ~done.masks["0.weight"].flatten(1).any(1)
    assert int(dead.sum()) == 8
    assert not net[0].weight[dead].any()
    assert not net[1].weight[dead].any()
    assert not net[1].bias[dead].any()
    assert net[1].weight[~dead].all()


class Joined(nn.Module):
    """Two layers side by side behind one norm, and halves of which one opens the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 10, 3), nn.BatchNorm2d(16)
        self.halves, self.gated, self.out = nn.Conv2d(16, 12, 1), nn.BatchNorm2d(12), nn.Linear(6, 4)
        with torch.no_grad():
            for norm in (self.norm, self.gated):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(torch.cat([self.a(x), self.b(x)], 1)).relu()
        y, gate = self.gated(self.halves(y)).chunk(2, 1)
        return self.out((y.relu() * gate.sigmoid()).mean((2, 3)))


def joined() -> nn.Module:
    torch.manual_seed(0)
    return Joined()


def test_a_norm_behind_two_layers_has_the_gates_of_both() -> None:
    net = joined()
    with half_way(net) as pruner, torch.no_grad():
        gone = [~site.magnitude_mask().flatten(1).any(1) for site in pruner.sites[:2]]
        assert all(0 < int(one.sum()) < len(one) for one in gone)
        assert gap(pruner) < 0.1
        shift = net.norm.bias.clone()
        with pruner.hardened():
            assert torch.equal(net.norm.bias == 0, torch.cat(gone))
        assert torch.equal(net.norm.bias, shift)
        again = joined()
        again.load_state_dict(net.state_dict())
        other = Pruner(again, sparsity=0.5, pattern="channel", epochs=40, dense=0.0, ramp=0.5, example_inputs=X[:1])
        other.load_state_dict(pruner.state_dict())
        other.prepare()
        torch.testing.assert_close(again.eval()(X), net.eval()(X))
        torch.testing.assert_close(deepcopy(net)(X), net(X))


def test_halves_lose_the_same_channels_and_copies_are_hardened_as_the_model_is() -> None:
    net = joined()
    with half_way(net) as pruner:
        average = deepcopy(net)
        with pytest.warns(IdpDeployWarning, match="15 of the 40|average"):
            done = pruner.finalize()
    gone: Tensor = ~done.masks["halves.weight"].flatten(1).any(1)
    assert torch.equal(gone[:6], gone[6:])
    assert int(gone.sum()) == 6
    small = shrink(done, X[:1])
    assert (small.module.a.out_channels, small.module.b.out_channels, small.module.halves.out_channels) == (4, 4, 6)
    copy = shrink(pruner.apply_to(average), X[:1]).module
    assert [tuple(p.shape) for p in copy.parameters()] == [tuple(p.shape) for p in small.module.parameters()]
    with torch.no_grad():
        torch.testing.assert_close(small.module.eval()(X), done.module.eval()(X))


def test_factors_and_shifts_outside_the_layers_go_by_the_gates_and_are_zero_at_the_end() -> None:
    net = Scaled()
    pruner = Pruner(net, sparsity=0.5, pattern="channel", epochs=8, dense=0.0, ramp=0.5, example_inputs=Scaled.x)
    optimizer = torch.optim.SGD(pruner.prepare().parameters(), 1e-2)
    for _ in range(8):
        optimizer.zero_grad()
        net(X).square().mean().backward()
        optimizer.step()
        pruner.step()
    done = pruner.finalize()
    gone: Tensor = ~done.masks["a.weight"].flatten(1).any(1)
    assert int(gone.sum()) == 6
    assert torch.equal(net.factor.flatten() == 0, gone)
    assert torch.equal(net.shift.flatten() == 0, gone)
    small = shrink(done, X[:1]).module
    assert small.shift.shape == (1, 6, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(X), net.eval()(X))
