"""Every row of METHODS keeps the same contract, and does what its equation says."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from idp_deploy.errors import UsageError
from idp_deploy.flow import Recipe
from idp_deploy.hardening import harden
from idp_deploy.masks import NM, parse_pattern, write_zeros
from idp_deploy.pruning import METHODS, Pruner, prune
from tests.pruning_fixtures import PRUNABLE, RECIPES, Blobs, network, same, train, trained, zeros

PATTERNS = {
    "unstructured": 0.9,
    "free": 0.9,
    "2:4": 0.5,
    "1:4": 0.75,
    "block:1x4": 0.9,
    "block:4x1": 0.8,
    "channel": 0.5,
}


def pruner_for(model: nn.Module, method: str, sparsity: float, **settings: object) -> Pruner:
    task = Blobs()
    inputs, labels = task.train.tensors
    return Pruner(
        model,
        sparsity=sparsity,
        method=method,
        example_inputs=(inputs[:1],),
        loss=lambda: nn.functional.cross_entropy(model(inputs[:64]), labels[:64]),
        **settings,
    )


@pytest.mark.wide
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_zeros_are_exact_in_every_unit(method: str, pattern: str) -> None:
    only, sparsity = METHODS[method].pattern, PATTERNS[pattern]
    model = network()
    if only is not None and type(parse_pattern(pattern)) is not only:
        with pytest.raises(UsageError, match="prunes by another pattern"):
            pruner_for(model, method, sparsity, pattern=pattern)
        return
    pruner = pruner_for(model, method, sparsity, pattern=pattern, epochs=12)
    train(pruner.prepare(), pruner, 12)
    wanted = round(sparsity * pruner.report().prunable)
    unit = max(site.pattern.unit(tuple(site.weight.shape)) for site in pruner.sites)
    assert abs(pruner.report().zeros - wanted) <= unit // 2
    sparse = pruner.finalize()
    assert abs(sparse.zeros - wanted) <= unit // 2
    for name, mask in sparse.masks.items():
        assert not sparse.module.get_parameter(name)[~mask].any()
        units = parse_pattern(pattern).to_units(mask)
        if ":" in pattern and "x" not in pattern:
            kept = parse_pattern(pattern)
            assert isinstance(kept, NM)
            assert (units.sum(-1) == kept.kept).all()
        elif pattern not in ("unstructured", "free"):
            assert torch.equal(units.any(-1), units.all(-1))


@pytest.mark.wide
@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_added_to_the_state_dict(method: str) -> None:
    model = network()
    pattern, sparsity = RECIPES[method]
    before, parameters = list(model.state_dict()), list(model.parameters())
    pruner = pruner_for(model, method, sparsity, pattern=pattern, epochs=6)
    assert pruner.prepare() is model
    for step in range(6):
        train(model, pruner, 1)
        assert list(model.state_dict()) == before, step
        assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
        assert model[0].weight is parameters[0]
    pruner.finalize()
    assert list(model.state_dict()) == before


@pytest.mark.wide
@pytest.mark.parametrize("method", METHODS)
def test_hardened_evaluation_leaves_everything_as_it_was(method: str) -> None:
    model = network()
    pattern, sparsity = RECIPES[method]
    pruner = pruner_for(model, method, sparsity, pattern=pattern, epochs=100)
    train(pruner.prepare(), pruner, 20)
    model.eval()
    x, before = torch.randn(4, 20), deepcopy(model.state_dict())
    soft = model(x)
    with pruner.hardened():
        model(x)
    assert torch.equal(model(x), soft)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


@pytest.mark.wide
@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_bytes(method: str) -> None:
    pattern, sparsity = RECIPES[method]
    recipe = Recipe(sparsity=sparsity, epochs=2, method=method, pattern=pattern, seed=3)
    model, task = trained(), Blobs()
    one, two = prune(model, task, recipe), prune(model, task, recipe)
    assert same(one.module, two.module)
    assert same(harden(one).module, one.module)


def test_gmp_forgets_and_its_variant_remembers() -> None:
    for forget in (True, False):
        model = network()
        pruner = Pruner(model, sparsity=0.9, method="gmp", epochs=100, forget=forget, ramp=0.1)
        train(pruner.prepare(), pruner, 50)
        assert (zeros(model) == round(0.9 * PRUNABLE)) == forget


def test_sr_ste_pulls_hidden_weights_towards_zero() -> None:
    layer = nn.Linear(8, 1, bias=False)
    pruner = Pruner(layer, sparsity=0.5, pattern="2:4", method="sr-ste", epochs=10, pull=0.1)
    pruner.prepare()
    x = torch.randn(1, 8)
    layer(x).sum().backward()
    mask = parse_pattern("2:4").hard_mask(layer.weight, 4)
    torch.testing.assert_close(layer.weight.grad, x + 0.1 * ~mask * layer.weight.detach())


def test_movement_scores_follow_minus_gradient_times_weight() -> None:
    layer = nn.Linear(8, 1, bias=False)
    pruner = Pruner(layer, sparsity=0.5, method="movement", epochs=10, score_rate=0.5, dense=0.0, ramp=0.0)
    pruner.prepare()
    x, w = torch.randn(1, 8), layer.weight.detach().clone()
    layer(x).sum().backward()
    pruner.step()
    torch.testing.assert_close(pruner.sites[0].state["score"], -0.5 * x * w)
    kept = pruner.sites[0].state["mask"]
    assert torch.equal(kept[0], (-x * w)[0] >= (-x * w)[0].sort().values[4])


def test_supermask_weights_never_move() -> None:
    model = network()
    before = [m.weight.detach().clone() for m in model if isinstance(m, nn.Linear)]
    pruner = Pruner(model, sparsity=0.5, method="supermask", epochs=40)
    train(pruner.prepare(), pruner, 40)
    sparse = pruner.finalize()
    for old, (name, mask) in zip(before, sparse.masks.items(), strict=True):
        assert torch.equal(sparse.module.get_parameter(name), torch.where(mask, old, 0))


def test_rigl_moves_its_mask_at_a_constant_count() -> None:
    model = network()
    pruner = Pruner(model, sparsity=0.9, method="rigl", epochs=40, interval=4)
    pruner.prepare()
    first = pruner.sites[0].state["mask"].clone()
    for _ in range(20):
        train(model, pruner, 1)
        assert pruner.report().zeros == round(0.9 * PRUNABLE)
        assert zeros(model) >= round(0.9 * PRUNABLE)
    assert not torch.equal(first, pruner.sites[0].state["mask"])


def test_acdc_alternates_and_ends_compressed() -> None:
    model = network()
    pruner = Pruner(model, sparsity=0.9, method="acdc", epochs=60)
    pruner.prepare()
    counts = []
    for _ in range(60):
        train(model, pruner, 1)
        counts.append(pruner.report().zeros)
    changes = [a for a, b in pairwise(counts) if a != b]
    assert set(counts) == {0, round(0.9 * PRUNABLE)}
    assert len(changes) == 5
    assert counts[-1] == round(0.9 * PRUNABLE)


def test_lottery_rewinds_what_it_keeps() -> None:
    model = network()
    first = model[0].weight.detach().clone()
    pruner = Pruner(model, sparsity=0.9, method="lottery", epochs=40)
    pruner.prepare()
    rounds = 0
    for _ in range(40):
        before = pruner.sites[0].state.get("round", 0)
        train(model, pruner, 1)
        state = pruner.sites[0].state
        if state.get("round", 0) > before:
            rounds += 1
            assert torch.equal(model[0].weight.detach(), first * state["mask"])
    assert rounds == 3


def test_synflow_leaves_the_model_as_it_found_it_and_looks_at_no_data() -> None:
    one, two = network(), network()
    before = deepcopy(one.state_dict())
    for model, inputs in ((one, torch.randn(1, 20)), (two, torch.zeros(1, 20))):
        Pruner(model, sparsity=0.9, method="synflow", epochs=9, example_inputs=(inputs,)).prepare()
    assert all(torch.equal(a, b) for a, b in zip(before.values(), one.state_dict().values(), strict=True))
    x = torch.randn(3, 20)
    assert torch.equal(one.eval()(x), two.eval()(x))


def test_methods_that_look_before_they_prune_say_what_they_need() -> None:
    with pytest.raises(UsageError, match="example_inputs"):
        Pruner(network(), sparsity=0.9, method="synflow").prepare()
    with pytest.raises(UsageError, match="loss=callable"):
        Pruner(network(), sparsity=0.9, method="grasp").prepare()


def test_str_learns_how_to_share_zeros_among_layers() -> None:
    model = network()
    pruner = Pruner(model, sparsity=0.8, method="str", epochs=60)
    train(pruner.prepare(), pruner, 60)
    shares = {name: zeros / size for name, (zeros, size) in pruner.report().layers.items()}
    assert pruner.finalize().zeros == round(0.8 * PRUNABLE)
    assert max(shares.values()) - min(shares.values()) > 0.01


def test_random_masks_come_from_the_seed() -> None:
    masks = []
    for seed in (0, 0, 1):
        pruner = Pruner(network(), sparsity=0.5, method="random", epochs=3, seed=seed)
        pruner.prepare()
        masks.append(pruner.finalize().masks["4.weight"])
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_a_detached_mask_drops_the_boosting_term() -> None:
    layer = nn.Linear(8, 1, bias=False)
    pruner = Pruner(layer, sparsity=0.5, epochs=10, ramp=0.0, detach=True)
    pruner.prepare()
    layer(torch.ones(1, 8)).sum().backward()
    state, w = pruner.sites[0].state, layer.weight.detach()
    torch.testing.assert_close(layer.weight.grad, torch.sigmoid((w * w - state["t"] ** 2) / state["tau"]))


def test_gradients_add_up_over_accumulated_batches() -> None:
    layer = nn.Linear(8, 1, bias=False)
    pruner = Pruner(layer, sparsity=0.5, method="movement", epochs=10, ramp=0.0)
    pruner.prepare()
    x, y, w = torch.randn(1, 8), torch.randn(1, 8), layer.weight.detach().clone()
    layer(x).sum().backward()
    layer(y).sum().backward()
    pruner.step()
    torch.testing.assert_close(pruner.sites[0].state["score"], -(x + y) * w)


@pytest.mark.wide
@pytest.mark.parametrize("mode", ["auto", "paper"])
@pytest.mark.parametrize("method", METHODS)
def test_without_a_finish_hardening_still_takes_what_the_method_chose(method: str, mode: str) -> None:
    pattern, sparsity = RECIPES[method]
    models = [network(), network()]
    pruners = [
        pruner_for(model, method, sparsity, pattern=pattern, mode=mode, epochs=40, finish=0.0, seed=1)
        for model in models
    ]
    for pruner in pruners:
        train(pruner.prepare().eval(), pruner, 40)  # without dropout's dice
    finalized = pruners[0].finalize()
    masks = write_zeros(pruners[1].detach(), pruners[1].soft_masks())
    assert all(torch.equal(mask, masks[name]) for name, mask in finalized.masks.items())
    assert same(*models)


def test_the_floor_of_idp_falls_from_one_to_nothing_until_the_mask_is_frozen() -> None:
    layer = nn.Linear(64, 1, bias=False)
    pruner = Pruner(layer, sparsity=0.5, epochs=10, dense=0.0, ramp=0.0)
    pruner.prepare()
    least = []
    for _ in range(7):
        layer.weight.grad = None
        layer(torch.ones(1, 64)).sum().backward()
        least.append(float(layer.weight.grad.min()))
        with torch.no_grad():
            layer.weight.mul_(1.0001)
        pruner.step()
    assert least == pytest.approx([1 - step / 7 for step in range(7)], abs=1e-2)


@pytest.mark.parametrize(("width", "every"), [(256, 1), (300, 8)])
def test_the_threshold_of_a_small_weight_is_exact_at_every_step_and_a_large_one_waits(width: int, every: int) -> None:
    layer = nn.Linear(width, width, bias=False)
    pruner = Pruner(layer, sparsity=0.9, epochs=100, dense=0.0, ramp=0.0)
    pruner.prepare()
    site, exact = pruner.sites[0], 0
    for _ in range(8):
        with torch.no_grad():
            layer.weight.mul_(1.01)
        pruner.step()
        exact += bool(torch.isclose(site.state["t"], site.threshold(), rtol=1e-6))
    assert exact == 8 // every


@pytest.mark.parametrize("rows", [True, False])
def test_with_rows_the_soft_mask_of_idp_keeps_what_hardening_will_keep(rows: bool) -> None:
    pruner = Pruner(network(), sparsity=0.95, epochs=40, dense=0.0, ramp=0.2, allocation="erk", rows=rows)
    train(pruner.prepare(), pruner, 20)
    agree = []
    for site in pruner.sites:
        weight = site.live().detach()
        soft = site.read(weight)
        hard = site.magnitude_mask()
        agree.append(torch.equal(soft.abs() > 0.5 * weight.abs(), hard))
        best = weight.abs().argmax(1, keepdim=True)
        kept_in_full = torch.equal(soft.gather(1, best), weight.gather(1, best))
        assert kept_in_full or not rows
    assert all(agree) == rows


@pytest.mark.parametrize("finish", [0.0, 0.3])
@pytest.mark.parametrize("pattern", ["unstructured", "free"])
def test_under_free_size_alone_decides_in_the_budgets_the_soft_and_the_hard_mask(pattern: str, finish: float) -> None:
    model = network()
    with torch.no_grad():
        model[0].weight[3] *= 1e-3  # a row that nothing but its right to one would keep
    pruner = Pruner(model, sparsity=0.9, epochs=20, pattern=pattern, dense=0.0, ramp=0.2, finish=finish)
    train(pruner.prepare(), pruner, 20, rate=1e-5)
    site = pruner.sites[0]
    empty = not site.read(site.live().detach())[3].abs().gt(0.5 * site.live()[3].abs()).any()
    soft = pruner.soft_masks()
    module = network()
    module.load_state_dict(model.state_dict())
    sparse = pruner.finalize()
    assert sparse.zeros == round(0.9 * sum(s.weight.numel() for s in pruner.sites))
    assert empty == (not sparse.masks[site.name][3].any()) == (pattern == "free")
    written = write_zeros(module, soft)
    assert all(torch.equal(written[name], mask) for name, mask in sparse.masks.items())


@pytest.mark.parametrize("pattern", ["unstructured", "free", "2:4"])
@pytest.mark.parametrize("adaptive", [True, False])
def test_what_idp_does_by_itself_depends_on_the_optimizer(adaptive: bool, pattern: str) -> None:
    model = network()
    kind = torch.optim.AdamW if adaptive else torch.optim.SGD
    pruner = Pruner(
        model, sparsity=0.5, epochs=40, pattern=pattern, dense=0.0, ramp=0.2, optimizer=kind(model.parameters(), 1e-3)
    )
    train(pruner.prepare(), pruner, 20)
    straight = []
    for site in pruner.sites:
        weight = site.live().detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(site.read(weight).sum(), weight)
        straight.append(torch.equal(slope, torch.ones_like(slope)))
    assert all(straight) == adaptive
    chosen = Pruner(network(), sparsity=0.5, epochs=40, kappa=7.0, optimizer=kind(model.parameters(), 1e-3))
    assert chosen.method.settings["kappa"] == 7.0


class Lion(torch.optim.Optimizer):
    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad.sign())


@pytest.mark.parametrize("kind", [Lion, torch.optim.Adafactor, torch.optim.AdamW, torch.optim.SGD, torch.optim.ASGD])
def test_an_optimizer_that_nobody_named_is_known_by_its_step(kind: Any) -> None:
    model, other = network(), network()
    told = Pruner(network(), sparsity=0.5, epochs=4, optimizer=kind(network().parameters(), lr=1e-3)).method.settings
    pruner = Pruner(model, sparsity=0.5, epochs=4, floor_end=0.5)
    pruner.prepare()
    for net, optimizer in ((other, torch.optim.Adam(other.parameters())), (model, kind(model.parameters(), lr=1e-3))):
        assert pruner.method.settings["kappa"] == 10.0
        net(torch.rand(4, 20)).sum().backward()
        optimizer.step()
    pruner.step()
    assert pruner.method.settings == told | {"floor_end": 0.5}
    assert (told["kappa"] == 100.0) == (kind not in (torch.optim.SGD, torch.optim.ASGD))


def test_with_an_adaptive_optimizer_the_mask_has_decided_before_it_is_frozen() -> None:
    undecided, apart = [], []
    for kind in (torch.optim.AdamW, torch.optim.SGD):
        model = network()
        pruner = Pruner(model, sparsity=0.9, epochs=40, dense=0.0, ramp=0.2, optimizer=kind(model.parameters(), 1e-3))
        train(pruner.prepare(), pruner, 27)  # the last step before the freeze is the 28th
        weights = {site: site.live().detach() for site in pruner.sites}
        masks = torch.cat([(site.read(w) / w).flatten() for site, w in weights.items() if site.zeros])
        undecided.append(int(((masks > 0.05) & (masks < 0.95)).sum()))
        apart.append(sum(int(((site.read(w) / w > 0.5) != site.magnitude_mask()).sum()) for site, w in weights.items()))
    assert undecided[0] < undecided[1] / 3
    assert apart == [0, 0]


def test_only_the_paper_leaves_rows_to_t_alone() -> None:
    model = network()
    kept = [Pruner(model, sparsity=0.9, epochs=40, mode=mode).method.settings["rows"] for mode in ("auto", "paper")]
    assert kept == [True, False]
