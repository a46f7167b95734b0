"""shrink: the same outputs from a physically smaller module."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from idp_deploy.errors import ConversionError, IdpDeployError, IdpDeployWarning
from idp_deploy.flow import CompressedModel, Model, Recipe
from idp_deploy.hardening import harden
from idp_deploy.loading import load_checkpoint, save_checkpoint
from idp_deploy.pruning import Pruner, one_shot, prune
from idp_deploy.shrinking import shrink, zero_channels
from idp_deploy.tasks import Task
from sample_models import bert, mobilenet_v1, resnet18
from tests.zoo import ZOO


def resnet() -> nn.Module:
    return resnet18.build(width=0.125)


def mobilenet() -> nn.Module:
    return mobilenet_v1.build(width=0.25)


class Concat(nn.Module):
    """Two branches side by side, so that a channel of one is not channel i of what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1))))


def pruned(module: nn.Module, method: str = "idp", sparsity: float = 0.5) -> CompressedModel:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 16, 16)
    pruner = Pruner(module, sparsity=sparsity, pattern="channel", method=method, epochs=5, example_inputs=(x[:1],))
    pruner.prepare()
    optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()
        pruner.step()
    return pruner.finalize()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


CASES = [(mobilenet, "idp"), *((resnet, method) for method in ("idp", "gmp", "l1-channel", "movement", "random"))]


@pytest.mark.wide
@pytest.mark.parametrize(("build", "method"), CASES)
def test_half_the_channels_go_and_the_outputs_stay(build: Callable[[], nn.Module], method: str) -> None:
    module = build()
    model = pruned(module, method)
    before, x = deepcopy(model.module.state_dict()), torch.randn(3, 3, 16, 16)
    module.eval()
    small = shrink(model, (x[:1],))
    torch.testing.assert_close(small.module.eval()(x), module(x), rtol=1e-4, atol=1e-5)
    assert count(small.module) < 0.35 * count(module)
    assert small.zeros == 0
    assert all(torch.equal(a, b) for a, b in zip(before.values(), module.state_dict().values(), strict=True))
    widths = {m.out_channels for m in small.module.modules() if isinstance(m, nn.Conv2d)}
    full = {m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d)}
    assert widths == {c // 2 for c in full}


class Squares(Task):
    """Random images, a few."""

    def train_loader(self, seed: int) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(0)
        images, labels = torch.randn(32, 3, 16, 16, generator=generator), torch.arange(32) % 10
        return DataLoader(TensorDataset(images, labels), 16)

    def validation_loader(self) -> DataLoader[Any]:
        return self.train_loader(0)


@pytest.mark.wide
@pytest.mark.parametrize(("mode", "options"), [("paper", {}), ("auto", {"finish": 0.0}), ("auto", {})])
def test_coupled_channels_go_together_with_a_frozen_finish_and_without(mode: str, options: dict[str, Any]) -> None:
    module = resnet()
    recipe = Recipe(sparsity=0.5, epochs=2, pattern="channel", mode=mode, options=options)
    hard = harden(prune(Model(module), Squares(), recipe), Squares())
    small = shrink(hard, (torch.randn(1, 3, 16, 16),))
    assert hard.sparsity == pytest.approx(0.5, abs=0.01)
    assert small.zeros == 0
    assert count(small.module) < 0.35 * count(module)


def test_a_shrunk_checkpoint_loads_back(tmp_path: Path) -> None:
    small = shrink(pruned(resnet()), (torch.randn(1, 3, 32, 32),))
    save_checkpoint(small, tmp_path / "small.pt")
    loaded = load_checkpoint(tmp_path / "small.pt", resnet)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.module.eval()(x), small.module.eval()(x))


# whose channels are all counted out: to heads, or by a number that forward alone knows
REFUSED = ("torch_attention", "cell")


@pytest.mark.wide
@pytest.mark.parametrize("name", ZOO)
def test_every_architecture_shrinks_to_the_same_function_or_is_refused(name: str, tmp_path: Path) -> None:
    entry = ZOO[name]
    module, inputs = entry.build().eval(), entry.example_inputs()

    def smaller() -> CompressedModel:
        pruner = Pruner(module, sparsity=0.5, pattern="channel", method="l1-channel", epochs=1, example_inputs=inputs)
        return shrink(pruner.finalize(), inputs)

    if name in REFUSED:
        with pytest.raises(IdpDeployError, match="no channel of this model can be removed"):
            smaller()
        return
    small = smaller()
    others = entry.example_inputs(seed=3, batch=2)
    with torch.no_grad():
        before, after = (torch.utils._pytree.tree_leaves(m.eval()(*others)) for m in (module, small.module))
        for a, b in zip(before, after, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
        save_checkpoint(small, tmp_path / "small.pt")
        loaded = load_checkpoint(tmp_path / "small.pt", entry.build).module.eval()
        for a, b in zip(after, torch.utils._pytree.tree_leaves(loaded(*others)), strict=True):
            assert torch.equal(a, b)
    assert count(small.module) < 0.9 * count(module)


def test_channels_that_a_forward_counts_out_stay_and_are_listed() -> None:
    module = bert.build(vocabulary=32, width=32, layers=1, heads=4, length=8)
    masks = {}
    for name in ("layers.0.up", "layers.0.attention.value"):
        layer = module.get_submodule(name)
        with torch.no_grad():
            layer.weight[::2] = 0
            layer.bias[::2] = 0
        masks[f"{name}.weight"] = layer.weight != 0
    model = CompressedModel(module, masks)
    assert zero_channels(model) == {"layers.0.up.weight": 64, "layers.0.attention.value.weight": 16}
    ids = torch.ones(1, 8, dtype=torch.long)
    small = shrink(model, (ids, ids * 0, ids))
    assert small.module.get_submodule("layers.0.up").out_features == 64
    assert zero_channels(small) == {"layers.0.attention.value.weight": 16}


def test_where_no_zero_channel_can_go_the_reason_is_given() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.inner(x).reshape(-1, 2, 4).relu().reshape(-1, 8))

    module = Heads()
    with torch.no_grad():
        module.inner.weight[0] = 0
        module.inner.bias[0] = 0
    model = CompressedModel(module, {"inner.weight": module.inner.weight != 0})
    with pytest.raises(ConversionError, match=r"1 groups of channels are zero and none can be removed: .* shape"):
        shrink(model, (torch.randn(1, 4),))


def test_an_embedding_as_wide_as_it_is_long_is_not_taken_for_a_layer() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.mix = nn.Embedding(8, 8), nn.Linear(8, 8)
            self.up, self.out = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.words(ids)
            return self.out(self.up(x + self.mix(x)).relu())

    module, ids = Words(), torch.ones(1, 3, dtype=torch.long)
    before = module.words.weight.detach().clone()
    pruner = Pruner(module, sparsity=0.5, pattern="channel", method="l1-channel", epochs=1, example_inputs=(ids,))
    assert "those of an embedding" in pruner.report().left["mix.weight"]
    small = shrink(pruner.finalize(), (ids,))
    assert torch.equal(module.words.weight, before)
    assert (small.module.mix.out_features, small.module.up.out_features) == (8, 4)


def test_a_norm_over_channels_keeps_them() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    x = torch.randn(1, 3, 4, 4)
    pruner = Pruner(module, sparsity=0.5, pattern="channel", method="l1-channel", epochs=1, example_inputs=(x,))
    assert pruner.report().left["0.weight"] == "a norm takes the mean over its channels"
    small = shrink(pruner.finalize(), (x,))
    assert [small.module[i].out_channels for i in (0, 2, 4)] == [8, 4, 4]


def test_a_grouped_convolution_loses_as_many_channels_in_every_group() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 1, groups=2), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 4, 1)
    )
    x = torch.randn(1, 3, 4, 4)
    pruner = Pruner(module, sparsity=0.5, pattern="channel", method="l1-channel", epochs=1, example_inputs=(x,))
    hard = pruner.finalize()
    small = shrink(hard, (x,))
    assert [small.module[i].out_channels for i in (0, 2, 4, 5)] == [4, 8, 4, 4]
    assert small.module[2].groups == 2
    torch.testing.assert_close(small.module(x), hard.module(x))


def test_a_grouped_convolution_pruned_elsewhere_keeps_what_its_groups_do_not_share() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        for channel in (0, 1, 4):  # of groups of four: the first of both, and one of a single group
            module[1].weight[channel] = 0
            module[1].bias[channel] = 0
    x = torch.randn(1, 3, 4, 4)
    small = shrink(CompressedModel(module, {"1.weight": module[1].weight != 0}), (x,))
    assert small.module[1].out_channels == 6
    torch.testing.assert_close(small.module(x), module(x))


def test_outputs_are_left_and_named() -> None:
    x = torch.randn(1, 3, 8, 8)
    mixed = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 1))
    pruner = Pruner(mixed, sparsity=0.5, pattern="channel", example_inputs=(x,))
    assert pruner.report().left == {"2.weight": "its channels are the model's outputs"}


def test_a_dead_channel_with_a_living_norm_is_a_constant_and_stays() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        module[0].weight[:4] = 0
        module[1].bias.fill_(0.5)
        module[1].bias[0] = module[1].weight[0] = 0
    small = shrink(CompressedModel(module, {"0.weight": module[0].weight != 0}), (torch.randn(1, 3, 8, 8),))
    assert small.module[0].out_channels == 7
    assert small.masks["0.weight"].shape == (7, 3, 3, 3)
    assert small.zeros == 3 * 27


def test_a_layer_never_loses_its_last_channel() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        module[0].weight.zero_()
        module[0].bias.zero_()
    small = shrink(CompressedModel(module, {"0.weight": torch.zeros(6, 4, dtype=torch.bool)}), (torch.randn(1, 4),))
    assert small.module[0].out_features == 1


def test_masks_of_other_patterns_are_cut_along() -> None:
    module = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3))
    masks = {"0.weight": torch.rand(6, 4) > 0.5, "2.weight": torch.rand(3, 6) > 0.5}
    masks["0.weight"][2] = False
    masks["0.weight"][[0, 1, 3, 4, 5], 0] = True
    with torch.no_grad():
        for name, mask in masks.items():
            module.get_parameter(name).mul_(mask)
    small = shrink(CompressedModel(module, masks), (torch.randn(1, 4),))
    keep = [0, 1, 3, 4, 5]
    assert torch.equal(small.masks["0.weight"], masks["0.weight"][keep])
    assert torch.equal(small.masks["2.weight"], masks["2.weight"][:, keep])


def test_an_untraceable_model_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no")

    with pytest.raises(ConversionError, match="cannot be removed: no"):
        shrink(CompressedModel(Odd(), {}), (torch.randn(1, 4),))


def test_without_example_inputs_it_is_said_that_channels_will_stay_and_shrink_takes_none_silently() -> None:
    module, x = Concat(), torch.randn(1, 3, 8, 8)
    with pytest.warns(IdpDeployWarning, match="without example inputs"):
        pruned = one_shot(Model(module), Recipe(sparsity=0.5, pattern="channel"))
    assert zero_channels(pruned)
    with pytest.raises(ConversionError, match="norms or biases behind them live") as refused:
        shrink(pruned, x)
    assert "example inputs" in str(refused.value)
