"""Pruner in anybody's loop."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.flow import Model, Recipe
from idp_deploy.masks import apply_soft_mask
from idp_deploy.pruning import Pruner, one_shot
from tests.pruning_fixtures import PRUNABLE, Blobs, network, train, zeros


def test_finalize_alone_prunes_by_size() -> None:
    pruner = Pruner(network(), sparsity=0.8)
    assert zeros(pruner.finalize().module) == round(0.8 * PRUNABLE)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_finalize_is_exact_wherever_the_loop_stopped(steps: int) -> None:
    pruner = Pruner(network(), sparsity=0.8, epochs=100)
    train(pruner.prepare(), pruner, steps)
    assert pruner.finalize().zeros == round(0.8 * PRUNABLE)


@pytest.mark.parametrize("mode", ["auto", "paper"])
@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
def test_short_runs_reach_the_target_before_they_end(mode: str, epochs: int) -> None:
    pruner = Pruner(network(), sparsity=0.9, epochs=epochs, steps_per_epoch=4, mode=mode)
    train(pruner.prepare(), pruner, 4 * epochs)
    report = pruner.report()
    assert report.zeros == report.target_zeros == round(0.9 * PRUNABLE)


def test_the_weight_stays_dense_while_the_forward_is_masked() -> None:
    model = network()
    weights = deepcopy(model.state_dict())
    pruner = Pruner(model, sparsity=0.9, epochs=100, dense=0.0, ramp=0.0)
    x = torch.randn(4, 20)
    plain = model.eval()(x)
    pruner.prepare()
    masked = model(x)
    assert not torch.allclose(plain, masked)
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), model.state_dict().values(), strict=True))
    pruner.detach()
    assert torch.equal(model(x), plain)


def test_a_pruned_weight_recovers() -> None:
    layer = nn.Linear(8, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.10, 1, 1, 1, 1, 0.2, 0.2, 0.2]]))
    pruner = Pruner(layer, sparsity=0.5, epochs=400, dense=0.0, ramp=0.0, kappa=2.0)
    pruner.prepare()
    with pruner.hardened():
        assert layer(torch.eye(8)).detach().flatten()[0] == 0
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(200):
        optimizer.zero_grad()
        (layer(torch.eye(8))[0] - 2).square().sum().backward()
        optimizer.step()
        pruner.step()
    with pruner.hardened():
        assert layer(torch.eye(8)).detach().flatten()[0] > 1


def test_between_two_looks_the_threshold_stays_within_one_percent_of_the_entries() -> None:
    model = network()
    pruner = Pruner(model, sparsity=0.9, epochs=300, ramp=0.5, finish=0.0)
    pruner.prepare()
    for _ in range(300):
        train(model, pruner, 1, rate=0.05)
        for site in pruner.sites:
            dropped = site.weight.abs() < site.state["t"] if site.zeros else torch.zeros(())
            if site.zeros:
                dropped[tuple(site.state["rows"])] = False
            below = int(dropped.sum())
            assert abs(below - site.zeros) <= max(3, 0.01 * site.weight.numel())


def test_zero_sparsity_is_identity() -> None:
    class Bystander:
        def step(self) -> None:
            """A loop without pruning."""

    free, masked = network(), network()
    pruner = Pruner(masked, sparsity=0.0, epochs=8)
    torch.manual_seed(1)
    train(pruner.prepare(), pruner, 8)
    torch.manual_seed(1)
    train(free, Bystander(), 8)
    assert pruner.report().zeros == pruner.finalize().zeros == 0
    assert all(torch.equal(a, b) for a, b in zip(free.state_dict().values(), masked.state_dict().values(), strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused_by_name(bad: float) -> None:
    model = network()
    with torch.no_grad():
        model[4].weight[3, 5] = bad
    with pytest.raises(UsageError, match=r"weight '4\.weight' holds 1 values that are NaN or infinite"):
        Pruner(model, sparsity=0.5, epochs=1).prepare()
    with pytest.raises(ConversionError, match=rf"weight '4\.weight' .*, the first {bad} at \[3, 5\]"):
        one_shot(Model(model), Recipe(sparsity=0.5))


def test_weights_that_become_nan_are_refused_with_the_step() -> None:
    model = network()
    pruner = Pruner(model, sparsity=0.5, epochs=1, steps_per_epoch=20)
    train(pruner.prepare(), pruner, 3)
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    with pytest.raises(UsageError, match=r"'0\.weight' holds 960 values .* infinite, at step 4 — .*strong_wolfe"):
        train(model, pruner, 1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(tokens)))


@pytest.mark.parametrize("training", [True, False])
def test_attention_reads_its_masked_weights(training: bool) -> None:
    torch.manual_seed(0)
    model = Attention().train(training)
    pruner = Pruner(model, sparsity=0.8, epochs=10, dense=0.0, ramp=0.0)
    names = [site.name for site in pruner.sites]
    assert "layer.self_attn.in_proj_weight" in names
    assert "layer.self_attn.out_proj.weight" in names
    assert "embed.weight" not in names
    assert "head.weight" not in names
    tokens = torch.randint(0, 11, (3, 5))
    with torch.no_grad():
        plain = model(tokens)
        pruner.prepare()
        with pruner.hardened():
            hard = model(tokens)
        assert not torch.allclose(plain, hard, atol=1e-3)
        torch.testing.assert_close(pruner.finalize()(tokens), hard)


def test_tied_layers_share_one_mask() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16, bias=False), nn.ReLU(), nn.Linear(16, 16, bias=False))
    model[2].weight = model[0].weight
    pruner = Pruner(model, sparsity=0.75, epochs=4, ramp=0.0)
    pruner.prepare()
    x = torch.randn(3, 16)
    with pruner.hardened():
        hard = model(x)
    sparse = pruner.finalize()
    assert list(sparse.masks) == ["0.weight"]
    torch.testing.assert_close(sparse(x), hard)


def test_masks_survive_gradient_checkpointing_and_deepcopy() -> None:
    model = network().eval()
    pruner = Pruner(model, sparsity=0.9, epochs=4, ramp=0.0)
    pruner.prepare()
    x = torch.randn(5, 20)
    direct = model(x)
    direct.sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    recomputed = checkpoint(model, x, use_reentrant=False)
    recomputed.sum().backward()
    assert torch.equal(direct, recomputed)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), expected, strict=True))
    copied = deepcopy(model)
    assert torch.equal(copied(x), direct)
    with torch.no_grad():
        copied[0].weight.zero_()
    assert not torch.equal(copied(x), direct)
    assert torch.equal(model(x), direct)


def test_an_exception_in_a_forward_leaves_no_masked_weight_behind() -> None:
    model = network()
    pruner = Pruner(model, sparsity=0.9, epochs=4, ramp=0.0)
    pruner.prepare()
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 3))
    assert isinstance(model[0].weight, nn.Parameter)


def test_a_compiled_model_trains_with_masks() -> None:
    model = network()
    pruner = Pruner(model, sparsity=0.9, epochs=10)
    pruner.prepare()
    compiled = torch.compile(model, backend="eager")
    train(compiled, pruner, 10)
    with torch.no_grad():
        model.eval()
        x = torch.randn(3, 20)
        assert torch.equal(compiled(x), model(x))
    assert pruner.finalize().zeros == round(0.9 * PRUNABLE)


def test_mixed_precision_trains_with_masks_of_full_precision() -> None:
    model = network()
    pruner = Pruner(model, sparsity=0.9, epochs=10)
    pruner.prepare()
    inputs, labels = Blobs().train.tensors
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    losses = []
    for step in range(10):
        if step == 4:
            site = pruner.sites[0]
            weight = site.weight.detach()
            expected = apply_soft_mask(weight, site.state["t"], site.state["tau"])
            rows = tuple(site.state["rows"])
            expected[rows] = weight[rows]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert model[0](inputs).dtype == torch.bfloat16
                assert torch.equal(site.read(site.weight), expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(inputs), labels)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.dtype == torch.float32 for p in model.parameters())
        optimizer.step()
        pruner.step()
    assert losses[-1] < losses[0]
    sparse = pruner.finalize()
    assert zeros(model) == round(0.9 * PRUNABLE)
    assert all(torch.equal(model.get_parameter(name) != 0, mask) for name, mask in sparse.masks.items())


def test_a_weight_read_behind_its_layers_back_is_noticed() -> None:
    class Sneaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen, self.unseen = nn.Linear(20, 20), nn.Linear(20, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.seen(x), self.unseen.weight)

    model = Sneaky()
    pruner = Pruner(model, sparsity=0.5, epochs=4)
    pruner.prepare()
    with pytest.raises(UsageError, match=r"'unseen\.weight' is trained but not read"):
        train(model, pruner, 1)


def test_skipped_weights_are_reported_and_stay_dense() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 4, 1))
    pruner = Pruner(model, sparsity=0.5, epochs=1, first=False, skip=["3.*"])
    assert pruner.report().left == {
        "0.weight": "first layer",
        "1.weight": "depthwise",
        "3.weight": "matches skip '3.*'",
    }
    pruner.prepare()
    assert pruner.finalize().prunable == 128


@pytest.mark.parametrize("pattern", ["2:4", "1:4"])
def test_what_cannot_hold_n_of_m_along_its_input_channels_stays_dense_and_says_so(pattern: str) -> None:
    """A stem of 3 channels; 6 channels whose 2x2 kernels would divide, over kernel positions; a width of 10."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 2), nn.Conv2d(8, 12, 1), nn.Flatten(), nn.Linear(10, 4))
    sparsity = 1 - int(pattern[0]) / 4
    pruner = Pruner(model, sparsity=sparsity, epochs=1, pattern=pattern)
    assert pruner.report().left == {
        f"{layer}.weight": f"{pattern} goes along input channels, and {width} do not divide by 4"
        for layer, width in ((0, 3), (1, 6), (4, 10))
    }
    pruner.prepare()
    kept = pruner.finalize().masks["2.weight"].reshape(12, 2, 4).sum(-1)  # along the input channel
    assert (kept == int(pattern[0])).all()


def test_mixed_recipes_go_by_name_then_kind_then_default() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 16, 1), nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 8))
    pruner = Pruner(model, sparsity=0.5, epochs=1, rules={"linear": "2:4", "4.*": "skip", "1.*": "block:1x4"})
    assert {s.name: s.pattern.name for s in pruner.sites} == {
        "0.weight": "unstructured",
        "1.weight": "block:1x4",
        "3.weight": "2:4",
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "sparsity is 1.0"),
        ({"sparsity": -0.1}, "sparsity is -0.1"),
        ({"sparsity": float("nan")}, "sparsity is nan"),
        ({"mode": "fast"}, "unknown mode 'fast'"),
        ({"method": "ipd"}, "unknown method 'ipd'"),
        ({"allocation": "erg"}, "unknown allocation 'erg'"),
        ({"epochs": 0}, "0 epochs"),
        ({"skip": ["conv9.*"]}, "'conv9.*' matches no prunable weight"),
        ({"skip": ["*"]}, "nothing to prune"),
        ({"pattern": "2:4"}, "pattern 2:4 means a sparsity of 0.5, not 0.9"),
        ({"warp": 3}, "option 'warp' is unknown to method idp"),
        ({"rate": 0.1}, "option 'rate' is unknown to method idp — it belongs to --mode paper"),
        ({"temperature": 0}, "option temperature is 0 — give a number above 0"),
        ({"kappa": float("nan")}, "option kappa is nan"),
        ({"finish": 1.5}, "option finish is 1.5 — give a share from 0 to 1"),
        ({"refresh": 0.5}, "option refresh is 0.5 — give a whole number from 1"),
        ({"clip": "no"}, "option clip is 'no' — give true or false"),
        ({"rules": ["linear"]}, "option rules is ['linear'] — give globs with their patterns"),
        ({"method": "movement", "scope": "net"}, "option scope is 'net' — give layer or global"),
        ({"sparsity": 0.9999}, "leaves fewer entries"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        Pruner(network(), **{"sparsity": 0.9, "epochs": 2, **settings}).prepare()
    assert message in str(error.value)
