"""Pruner in anybody's loop, and the training loop built on it."""

from __future__ import annotations

import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.checkpoint import checkpoint

from idp_deploy.errors import DivergedError, UsageError
from idp_deploy.flow import Model, Recipe
from idp_deploy.hardening import harden
from idp_deploy.masks import apply_soft_mask
from idp_deploy.pruning import Progress, Pruner, one_shot, prune
from idp_deploy.tasks import Task, evaluate
from tests.pruning_fixtures import PRUNABLE, Blobs, network, same, train, trained, zeros


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
            below = int((site.weight.abs() < site.state["t"]).sum()) if site.zeros else 0
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
    with pytest.raises(UsageError, match=r"4\.weight"):
        one_shot(Model(model), Recipe(sparsity=0.5))


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
            expected = apply_soft_mask(site.weight.detach(), site.state["t"], site.state["tau"])
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


# ── prune and harden ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def dense() -> Model:
    return trained()


def test_prune_and_harden_end_to_end(dense: Model) -> None:
    task, seen = Blobs(), list[Progress]()
    before = deepcopy(dense.module)
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    masked = prune(dense, task, Recipe(sparsity=0.9, epochs=5), progress=seen.append)
    sparse = harden(masked, task)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()
    assert same(before, dense.module)
    assert not dense.module.training
    assert sparse.zeros == zeros(sparse.module) == round(0.9 * PRUNABLE)
    assert evaluate(sparse.module, task) > evaluate(before, task) - 0.05
    epochs = [p for p in seen if p.hard is not None]
    assert len(epochs) == 5
    assert seen[0].step == 1
    assert epochs[-1].hard == pytest.approx(evaluate(masked.module, task))
    assert [p.phase for p in epochs] == ["ramp", "ramp", "ramp", "frozen", "frozen"]
    assert all(not m._forward_pre_hooks for m in masked.module.modules())


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(dense: Model) -> None:
    task = Blobs()
    one, two, other = (prune(dense, task, Recipe(sparsity=0.9, epochs=2, seed=seed)) for seed in (1, 1, 2))
    assert same(one.module, two.module)
    assert not same(one.module, other.module)


def test_one_shot_needs_no_data(dense: Model) -> None:
    sparse = one_shot(dense, Recipe(sparsity=0.6))
    assert zeros(sparse.module) == round(0.6 * PRUNABLE)
    assert zeros(dense.module) == 0
    assert sparse.recipe is not None
    assert sparse.recipe.method == "magnitude"


def test_a_loss_that_explodes_is_reported(dense: Model) -> None:
    with pytest.raises(DivergedError, match="the loss became"):
        prune(dense, Blobs(), Recipe(epochs=1, options={"learning_rate": 1e30}))


def test_a_loss_beyond_a_thousand_times_its_start_stops_the_run(dense: Model, tmp_path: Path) -> None:
    class Late(Blobs):
        """A loss that runs away in the third of its epochs."""

        calls = 0

        def loss(self, outputs: Any, batch: Any) -> torch.Tensor:
            value = super().loss(outputs, batch)
            if self.module_trains(outputs):
                self.calls += 1
            return value * (1e6 if self.calls > 2 * len(self.train_loader(0)) + 1 else 1)

        def module_trains(self, outputs: torch.Tensor) -> bool:
            return outputs.requires_grad

    with pytest.raises(
        DivergedError, match=r"in epoch [23], from .* at first; the state after epoch [12] is kept"
    ) as stop:
        prune(dense, Late(), Recipe(epochs=4), checkpoint_dir=tmp_path)
    assert stop.value.exit_code == 1
    saved = torch.load(tmp_path / "training_state.pt", weights_only=True)
    assert saved["epochs_done"] in (1, 2)
    assert all(bool(torch.isfinite(value).all()) for value in saved["module"].values())
    assert saved["threads"] == torch.get_num_threads()


def test_distillation_follows_the_dense_model(dense: Model) -> None:
    class Unlabelled(Blobs):
        def loss(self, outputs: Any, batch: Any) -> torch.Tensor:
            return outputs.sum() * 0

    masked = prune(dense, Unlabelled(), Recipe(sparsity=0.8, epochs=4, options={"distill": 0.95}))
    assert evaluate(harden(masked).module, Blobs()) > evaluate(dense.module, Blobs()) - 0.1


class Named(nn.Module):
    """Logits in a dict, as many language models return them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.inner(x), "hidden": x}


class NamedBlobs(Blobs):
    def loss(self, outputs: Any, batch: Any) -> torch.Tensor:
        return super().loss(outputs["logits"], batch)

    def score(self, outputs: Any, batch: Any) -> tuple[float, int]:
        return super().score(outputs["logits"], batch)


def test_distillation_finds_the_logits_of_a_dict(dense: Model) -> None:
    options = {"distill": 0.5}
    named = prune(Model(Named(deepcopy(dense.module))), NamedBlobs(), Recipe(epochs=1, options=options))
    plain = prune(dense, Blobs(), Recipe(epochs=1, options=options))
    assert same(named.module.inner, plain.module)


def test_distillation_without_logits_is_refused(dense: Model) -> None:
    class Pair(Blobs):
        def loss(self, outputs: Any, batch: Any) -> torch.Tensor:
            return super().loss(outputs[0], batch)

    class Two(nn.Sequential):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return super().forward(x), x

    with pytest.raises(UsageError, match="the model returns a tuple without any"):
        prune(Model(Two(*deepcopy(dense.module))), Pair(), Recipe(epochs=1, options={"distill": 0.5}))


def test_the_learning_rate_asked_for_is_the_peak_of_the_tasks_own_optimizer(dense: Model) -> None:
    class Adamic(Blobs):
        def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
            first, *rest = module.parameters()
            self.made = torch.optim.AdamW([{"params": [first], "lr": 1e-4}, {"params": rest}], lr=1e-3)
            return self.made

    task = Adamic()
    prune(dense, task, Recipe(epochs=1, options={"learning_rate": 0.02}))
    assert [group["initial_lr"] for group in task.made.param_groups] == pytest.approx([0.002, 0.02])


def test_an_untrained_model_learns_before_it_is_pruned() -> None:
    fresh, trained, told = network(), network(), network()
    for model in (trained, told):
        model.train()(torch.randn(8, 20))
        model[1].num_batches_tracked.zero_()  # as converted checkpoints have it
    starts = [
        Pruner(model, sparsity=0.5, epochs=100, **options).schedule.dense_until
        for model, options in ((fresh, {}), (trained, {}), (told, {"dense": 0.1}))
    ]
    assert starts == [20, 0, 10]
    assert Pruner(fresh, sparsity=0.5, epochs=100, method="rigl").schedule.dense_until == 0


ADAM = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize(
    ("optimizer", "settings", "clip"),
    [
        (None, {}, True),
        (torch.optim.SGD([nn.Parameter(torch.zeros(1))]), {}, True),
        (ADAM, {}, False),
        (ADAM, {"clip": True}, True),
        (None, {"mode": "paper"}, False),
    ],
)
def test_the_derivative_is_bounded_unless_the_optimizer_adapts(
    optimizer: object, settings: dict[str, Any], clip: bool
) -> None:
    pruner = Pruner(network(), sparsity=0.9, epochs=10, optimizer=optimizer, **settings)
    assert pruner.method.settings["clip"] is clip


def test_an_optimizer_that_accelerate_wraps_is_looked_into() -> None:
    pruner = Pruner(network(), sparsity=0.9, epochs=10, optimizer=Accelerator(cpu=True).prepare(ADAM))
    assert pruner.method.settings["clip"] is False


def test_prune_tells_the_pruner_of_its_optimizer() -> None:
    start = trained()

    class Adaptive(Blobs):
        def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
            return torch.optim.Adam(module.parameters(), 1e-2)

    def pruned(task: Task, **options: Any) -> nn.Module:
        return prune(start, task, Recipe(sparsity=0.9, epochs=3, options=options)).module

    assert same(pruned(Adaptive()), pruned(Adaptive(), clip=False))
    assert not same(pruned(Adaptive()), pruned(Adaptive(), clip=True))
    assert same(pruned(Blobs()), pruned(Blobs(), clip=True))


def test_a_weight_without_entries_is_not_for_pruning() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 0))
    sparse = one_shot(Model(module), Recipe(sparsity=0.5))
    assert set(sparse.masks) == {"0.weight"}
    assert zeros(sparse.module) == 16
