"""Channels of networks nobody prepared: those that can go do so for real, and no others are chosen."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from idp_deploy import Pruner, load_checkpoint, one_shot, save_checkpoint, shrink
from idp_deploy.channels import couple
from idp_deploy.channels.recurrent import standing_in
from idp_deploy.channels.tracing import half
from idp_deploy.errors import IdpDeployWarning, UsageError
from idp_deploy.shrinking import zero_channels
from tests.channel_networks import CASES, Counting, Flattened
from tests.recurrent_networks import Sounds


@pytest.mark.filterwarnings("ignore:LSTM with projections")
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
    assert small.wide.out_features == 12  # in fours, as runtimes compute them


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


@pytest.mark.parametrize("method", ["rigl", "granet", "synflow"])
def test_methods_that_choose_by_their_own_scores_choose_the_same_channels_for_layers_that_share_them(
    method: str,
) -> None:
    torch.manual_seed(0)
    module, x = Residual(), torch.randn(4, 3, 8, 8)
    pruner = Pruner(module, sparsity=0.5, pattern="channel", method=method, epochs=6, example_inputs=x[:1])
    pruner.prepare()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(6):
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()
        pruner.step()
    pruned = pruner.finalize()
    assert pruned.zeros
    assert not zero_channels(shrink(pruned, x[:1]))


@pytest.mark.parametrize("many", [1, 2, 6, 32, 96])
def test_what_a_trial_leaves_is_no_number_of_whole_heads(many: int) -> None:
    group = SimpleNamespace(with_it={channel: channel // 2 for channel in range(2 * many)})  # tied in pairs
    gone = half(group)
    assert {channel ^ 1 for channel in gone} == set(gone)
    assert 0 < len(gone) <= max(2, many)
    assert many == 1 or math.gcd(many - len(gone) // 2, many) == 1


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


def test_what_every_block_refuses_is_found_in_few_calls() -> None:
    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv1d(3, 8, 1)
            self.blocks = nn.ModuleList(
                nn.ModuleDict({"free": nn.Conv1d(8, 8, 1), "heads": nn.Conv1d(8, 8, 1), "out": nn.Conv1d(8, 8, 1)})
                for _ in range(8)
            )

        def forward(self, x: Tensor) -> Tensor:
            Blocks.called += 1
            x = self.first(x)
            for block in self.blocks:
                heads = block["heads"](block["free"](x).relu())
                x = block["out"](heads.reshape(len(x), 2, 4, -1).tanh().flatten(1, 2))
            return x

        called = 0

    module = Blocks().eval()
    weights = [name for name, _ in module.named_parameters() if name.endswith(".weight")]
    refused = {one.weights[0] for one in couple(module, (torch.randn(1, 3, 5),), weights) if one.fixed}
    assert refused == {f"blocks.{place}.heads.weight" for place in range(8)} | {"blocks.7.out.weight"}
    assert Blocks.called <= 40


def test_an_assertion_without_words_is_named_by_its_type() -> None:
    class Sure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out = nn.Linear(6, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            if y.shape[-1] != 16:
                raise AssertionError
            return self.out(F.relu(y))

    with pytest.raises(UsageError, match=r"the model cannot be called: AssertionError: a\.weight"):
        one_shot(Sure(), sparsity=0.5, pattern="channel", example_inputs=torch.randn(1, 6))
