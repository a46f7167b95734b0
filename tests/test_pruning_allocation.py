"""Budgets: whole numbers that add up, with a floor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from idp_deploy.errors import UsageError
from idp_deploy.flow import Model, Recipe
from idp_deploy.masks import parse_pattern
from idp_deploy.pruning import ALLOCATIONS, Layer, Pruner, allocate, allocation, prune
from tests.pruning_fixtures import PRUNABLE, Blobs, network


def layers(*shapes: tuple[int, ...], pattern: str = "unstructured") -> list[Layer]:
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(shape, generator=generator) * (i + 1) for i, shape in enumerate(shapes)]
    return [
        Layer(f"l{i}", weight, parse_pattern(pattern), gradient=torch.randn(weight.shape, generator=generator))
        for i, weight in enumerate(weights)
    ]


shapes = st.lists(st.tuples(st.integers(1, 20), st.integers(2, 20), st.integers(1, 3)), min_size=1, max_size=6)


@pytest.mark.parametrize("how", ALLOCATIONS)
@settings(max_examples=60)
@given(shapes=shapes, sparsity=st.floats(0, 0.97))
def test_budgets_add_up_exactly_and_fit(how: str, shapes: list[tuple[int, ...]], sparsity: float) -> None:
    given_layers = layers(*shapes)
    prunable = sum(layer.entries for layer in given_layers)
    if round(sparsity * prunable) > prunable - len(shapes):
        return
    budgets = allocate(given_layers, sparsity, how)
    assert sum(budgets.values()) == round(sparsity * prunable)
    floor = prunable - sum(layer.most_zeros for layer in given_layers)
    for layer in given_layers:
        assert 0 <= budgets[layer.name] < layer.entries
        if prunable - round(sparsity * prunable) >= floor:
            assert budgets[layer.name] <= layer.most_zeros


@pytest.mark.parametrize("how", ALLOCATIONS)
@pytest.mark.parametrize("sparsity", [0.3, 0.86, 0.95])
def test_blocks_add_up_to_the_nearest_block(how: str, sparsity: float) -> None:
    given_layers = layers((32, 64), (64, 16), (16, 16), pattern="block:1x4")
    budgets = allocate(given_layers, sparsity, how)
    wanted = round(sparsity * (32 * 64 + 64 * 16 + 256))
    assert all(zeros % 4 == 0 for zeros in budgets.values())
    assert abs(sum(budgets.values()) - wanted) <= 2


def test_erk_keeps_more_of_thin_layers_and_uniform_the_same() -> None:
    given_layers = layers((64, 64), (32, 32))
    density = {
        how: [1 - allocate(given_layers, 0.9, how)[x.name] / x.entries for x in given_layers] for how in ALLOCATIONS
    }
    assert density["erk"][1] == pytest.approx(2 * density["erk"][0], rel=0.02)
    assert density["uniform"][1] == pytest.approx(density["uniform"][0], rel=0.01)


def test_erk_caps_a_layer_at_dense_and_others_make_up_for_it() -> None:
    budgets = allocate(layers((512, 512), (4, 4)), 0.9, "erk")
    assert budgets["l1"] == 0
    assert budgets["l0"] == round(0.9 * (512 * 512 + 16))


def test_global_ranks_all_layers_together() -> None:
    small, large = Layer("small", torch.full((8, 8), 0.1)), Layer("large", torch.full((8, 8), 1.0))
    assert allocate([small, large], 0.4, "global") == {"small": 51, "large": 0}
    assert allocate([small, large], 0.8, "global") == {"small": 56, "large": 46}


def test_lamp_ignores_the_scale_of_a_layer() -> None:
    weight = torch.randn(16, 16)
    budgets = allocate([Layer("a", weight), Layer("b", weight * 100)], 0.5, "lamp")
    assert budgets == {"a": 128, "b": 128}


def test_nm_layers_take_what_their_pattern_means_and_the_others_the_rest() -> None:
    mixed = [*layers((16, 16), pattern="1:4"), Layer("free", torch.randn(16, 16))]
    assert allocate(mixed, 0.5, "erk") == {"l0": 192, "free": 64}
    assert allocate(mixed, 0.8, "lamp") == {"l0": 192, "free": round(0.8 * 512) - 192}
    with pytest.raises(UsageError, match=r"37\.5% of the prunable weights zero, more than 30\.0% — raise .* to 0\.375"):
        allocate(mixed, 0.3, "erk")
    with pytest.raises(UsageError, match=r"with N:M weights among them — lower the target to 0\.873 or less"):
        allocate(mixed, 0.95, "erk")


def test_impossible_targets_and_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="lower the target"):
        allocate(layers((4, 4), (4, 4)), 0.99)
    with pytest.raises(UsageError, match="known are erk, global, lamp, uniform"):
        allocate(layers((4, 4)), 0.5, "best")


def test_sensitivity_spares_what_the_loss_depends_on_and_knows_no_scale() -> None:
    weight, gradient = torch.rand(16, 16) + 0.5, torch.rand(16, 16) + 0.5
    needed, idle = Layer("needed", weight, gradient=gradient * 10), Layer("idle", weight, gradient=gradient)
    assert allocate([needed, idle], 0.4, "sensitivity")["needed"] == 0
    rescaled = Layer("needed", weight * 64, gradient=gradient * 10 / 64)
    assert allocate([rescaled, idle], 0.7, "sensitivity") == allocate([needed, idle], 0.7, "sensitivity")
    with pytest.raises(UsageError, match="looks at calibration data — give the pruner loss=callable"):
        allocate([Layer("blind", weight)], 0.5, "sensitivity")


def test_sensitivity_in_training_takes_the_gradient_of_the_tasks_loss() -> None:
    model, task = network(), Blobs()
    with torch.no_grad():
        model[4].weight[:16] = 0.3  # large, and of no use: nothing reads these units
        model[6].weight[:, :16] = 0
    before = torch.get_rng_state()
    masked = prune(Model(model), task, Recipe(sparsity=0.5, epochs=2, allocation="sensitivity"))
    assert torch.equal(before, torch.get_rng_state())
    soft = masked.soft_masks
    assert sum(mask.zeros for mask in soft.values()) == round(0.5 * PRUNABLE)
    assert soft["4.weight"].zeros >= 16 * 47
    with pytest.raises(UsageError, match="sensitivity looks at calibration data"):
        Pruner(network(), sparsity=0.5, allocation="sensitivity", epochs=1).finalize()


@pytest.mark.parametrize("entries", [1, 4, 5, 23])
def test_sums_of_squares_are_carried_from_block_to_block(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "_BLOCK", 4)
    values = np.arange(entries, dtype=np.float32) + 0.5
    squares = values.astype(np.float64) ** 2
    ordered = allocation._Ordered(values, allocation._squares_behind(values))
    assert [ordered.score(i) for i in range(entries)] == [squares[i] / squares[i:].sum() for i in range(entries)]
    assert ordered.behind is not None
    assert len(ordered.behind) == -(-entries // 4)  # a number a block, not a unit


def ranked_by_sorting(some: list[Layer], scores: list[torch.Tensor], total: int) -> dict[str, int]:
    """The definition, in memory of its own size: all units of all layers in one order."""
    guarded = []
    for layer, score in zip(some, scores, strict=True):
        flat = score.flatten().double().clone()
        flat[flat.topk((layer.entries - layer.most_zeros) // layer.unit).indices] = torch.inf
        guarded.append(flat)
    owner = torch.cat([torch.full_like(flat, i) for i, flat in enumerate(guarded)])
    size = torch.cat([torch.full_like(flat, layer.unit) for layer, flat in zip(some, guarded, strict=True)])
    everything = torch.cat(guarded)
    order = torch.sort(everything, stable=True).indices
    gone = (size[order].cumsum(0) <= total) & (everything[order] < torch.inf)
    return {layer.name: int(size[order][gone & (owner[order] == i)].sum()) for i, layer in enumerate(some)}


def lamp_scores(layer: Layer) -> torch.Tensor:
    squares = layer.pattern.scores(layer.weight, layer.output_axis).double().square().flatten()
    ordered, index = squares.sort()
    remaining = ordered.flip(0).cumsum(0).flip(0)
    return torch.empty_like(squares).scatter_(0, index, ordered / remaining.clamp_min(1e-300))


@settings(max_examples=80)
@given(shapes, st.sampled_from(["unstructured", "channel"]), st.integers(0, 100), st.booleans(), st.integers(0, 99))
def test_ranking_by_halving_is_ranking_by_sorting(
    found: list[tuple[int, ...]], pattern: str, percent: int, coarse: bool, seed: int
) -> None:
    """Ties and zeros included: coarse weights take a handful of values."""
    some = layers(*found, pattern=pattern)
    for layer in some:
        layer.weight.copy_((layer.weight * 2).round() / 2 if coarse else layer.weight)
        layer.weight[torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(seed)) < 0.3] = 0
    total = sum(layer.most_zeros for layer in some) * percent // 100
    caps = {layer.name: layer.most_zeros for layer in some}
    wanted = ranked_by_sorting(some, [lamp_scores(layer) for layer in some], total)
    assert ALLOCATIONS["lamp"](some, total, caps) == wanted
    magnitudes = [layer.pattern.scores(layer.weight, layer.output_axis) for layer in some]
    assert ALLOCATIONS["global"](some, total, caps) == ranked_by_sorting(some, magnitudes, total)
