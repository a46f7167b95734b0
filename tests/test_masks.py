"""Threshold, soft mask, hard mask, patterns, and what counts as prunable."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from idp_deploy.errors import UsageError
from idp_deploy.masks import (
    NM,
    apply_soft_mask,
    keep_largest,
    parse_pattern,
    prunable_weights,
    smallest_kept_and_largest_pruned,
    soft_mask,
)

NAMES = ["unstructured", "free", "2:4", "1:4", "block:1x4", "block:4x1", "block:1x16", "channel"]
SHAPES = [(16, 16), (16, 16, 3), (16, 16, 3, 3), (16, 32, 1, 1)]


def test_the_mask_is_one_half_at_the_threshold() -> None:
    w = torch.tensor([0.3, -0.3], dtype=torch.float64)
    assert soft_mask(w, t=torch.tensor(0.3, dtype=torch.float64), tau=1e-4).tolist() == [0.5, 0.5]
    assert torch.equal(apply_soft_mask(w, torch.tensor(0.3, dtype=torch.float64), 1e-4), w / 2)


def test_the_mask_is_the_softmax_over_prune_and_keep() -> None:
    w, t, tau = torch.randn(50, dtype=torch.float64), 0.7, 0.1
    pair = torch.softmax(torch.stack([torch.full_like(w, t * t), w * w]) / tau, dim=0)[1]
    torch.testing.assert_close(soft_mask(w, t, tau), pair)


@pytest.mark.parametrize("clip", [False, True])
def test_gradient_is_m_plus_the_boosting_term(clip: bool) -> None:
    w = torch.linspace(-0.4, 0.4, 201, dtype=torch.float64, requires_grad=True)
    t, tau = 0.1, 1e-3
    apply_soft_mask(w, t, tau, clip=clip).sum().backward()
    m = soft_mask(w.detach(), t, tau)
    expected = m + 2 * w.detach() ** 2 / tau * m * (1 - m)
    assert expected.max() > 2
    torch.testing.assert_close(w.grad, expected.clamp(max=1) if clip else expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("entries", [300, 200_000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_with_a_floor_pruned_weights_go_on_learning(entries: int, dtype: torch.dtype) -> None:
    w = torch.linspace(-0.4, 0.4, entries + 1, dtype=dtype).requires_grad_()  # 0 is among them
    t, tau = 0.1, 1e-3
    apply_soft_mask(w, t, tau, clip=True, floor=0.3).sum().backward()
    m = soft_mask(w.detach(), t, tau).to(dtype)
    expected = (m + 2 * w.detach() ** 2 / tau * m * (1 - m)).clamp(0.3, 1)
    assert int((expected == 0.3).sum()) > entries // 10
    assert torch.equal(apply_soft_mask(w, t, tau, clip=True, floor=0.3), apply_soft_mask(w, t, tau))
    torch.testing.assert_close(w.grad, expected, rtol=0, atol=1e-6 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("entries", [300, 600_000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_between_a_floor_and_a_bound_of_one_the_gradient_passes_as_it_is(entries: int, dtype: torch.dtype) -> None:
    w = torch.randn(entries, dtype=dtype, requires_grad=True)
    g = torch.randn(entries, dtype=dtype)
    masked = apply_soft_mask(w, 0.5, 0.25 / 100, clip=True, floor=1.0)
    (grad,) = torch.autograd.grad(masked, w, g)
    assert torch.equal(grad, g)
    assert torch.equal(masked, apply_soft_mask(w, 0.5, 0.25 / 100))


def test_a_shared_mask_with_a_floor_lets_every_direction_learn() -> None:
    w = torch.randn(1, 4, dtype=torch.float64)
    t = 3 * w.square().mean().sqrt()
    free, lifted = (
        torch.autograd.functional.jacobian(
            lambda x, floor=floor: apply_soft_mask(x, t, t * t / 10, clip=True, floor=floor, shared=True), w
        ).reshape(4, 4)
        for floor in (0.0, 0.5)
    )
    assert torch.linalg.eigvalsh(free).min() < 0.01
    assert torch.linalg.eigvalsh(lifted).min() >= 0.5 - 1e-9
    assert torch.linalg.eigvalsh(lifted).max() <= 1 + 1e-9


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_match_finite_differences(shared: bool) -> None:
    w = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: apply_soft_mask(x, 0.8, 0.3, shared=shared), w)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("clip", [False, True])
def test_a_gradient_may_be_differentiated_once_more(dtype: torch.dtype, shared: bool, clip: bool) -> None:
    """As an inner step of meta-learning does it; float32 goes by chunks."""
    w = torch.randn(6, 8, dtype=dtype, requires_grad=True)

    def slope(create_graph: bool) -> torch.Tensor:
        masked = apply_soft_mask(w, 0.8, 0.3, shared=shared, clip=clip, floor=0.1)
        return torch.autograd.grad(masked.square().sum(), w, create_graph=create_graph)[0]

    torch.testing.assert_close(slope(True), slope(False))
    (twice,) = torch.autograd.grad(slope(True).sum(), w)
    assert torch.isfinite(twice).all()
    assert twice.any()
    if dtype == torch.float64 and not clip:
        assert torch.autograd.gradgradcheck(lambda x: apply_soft_mask(x, 0.8, 0.3, shared=shared), w)


def test_a_shared_mask_of_clipped_gain_stretches_no_direction() -> None:
    w = torch.randn(1, 4, dtype=torch.float64)
    t = w.square().mean().sqrt()
    free, clipped = (
        torch.autograd.functional.jacobian(
            lambda x, clip=clip: apply_soft_mask(x, t, t * t / 10, clip=clip, shared=True), w
        ).reshape(4, 4)
        for clip in (False, True)
    )
    assert torch.linalg.eigvalsh(free).max() > 2
    assert torch.linalg.eigvalsh(clipped).max() <= 1 + 1e-9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_masked_in_float32(dtype: torch.dtype) -> None:
    w = (torch.randn(100) * 0.01).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        masked = apply_soft_mask(w, 0.01, 1e-5)
    assert masked.dtype == dtype
    exact = w.detach().float()
    torch.testing.assert_close(masked, (soft_mask(exact, 0.01, 1e-5) * exact).to(dtype))
    masked.sum().backward()
    assert torch.isfinite(w.grad).all()


@pytest.mark.parametrize("clip", [False, True])
def test_temperature_towards_zero_is_hard_magnitude_pruning(clip: bool) -> None:
    w = torch.randn(64, 32, requires_grad=True)
    pattern = parse_pattern("unstructured")
    t = pattern.threshold(w, zeros=1000)
    masked = apply_soft_mask(w, t, 0.0, clip=clip)
    assert torch.equal(masked, w * pattern.hard_mask(w, 1000))
    masked.sum().backward()
    assert torch.isfinite(w.grad).all()


def test_the_threshold_lies_midway() -> None:
    w = torch.tensor([[0.1, -0.4], [0.2, 0.8]])
    assert parse_pattern("unstructured").threshold(w, 2).item() == pytest.approx(0.3)
    assert parse_pattern("unstructured").threshold(w, 1).item() == pytest.approx(0.15)


values = st.lists(st.integers(-6, 6), min_size=2, max_size=60)


@given(values, st.data())
def test_selection_agrees_with_sorting(entries: list[int], data: st.DataObject) -> None:
    scores = torch.tensor(entries).float()
    pruned = data.draw(st.integers(1, len(entries) - 1))
    ordered = sorted(scores.tolist())
    for x in (scores, scores.bfloat16()):
        kept, gone = smallest_kept_and_largest_pruned(x, pruned)
        assert (kept.item(), gone.item()) == (ordered[pruned], ordered[pruned - 1])
    for near in (0.5, 1.0, ordered[pruned], ordered[-1] * 2):
        kept, gone = smallest_kept_and_largest_pruned(scores, pruned, near)
        assert (kept.item(), gone.item()) == (ordered[pruned], ordered[pruned - 1])


def test_a_good_guess_finds_the_same_threshold() -> None:
    w = torch.randn(300, 300)
    pattern = parse_pattern("unstructured")
    t = pattern.threshold(w, 81000)
    for near in (t * 0.98, t, t * 1.02, t * 2):
        assert torch.equal(pattern.threshold(w, 81000, near=float(near)), t)


def test_a_large_weight_is_masked_piece_by_piece_as_a_small_one_is() -> None:
    w = torch.randn(600, 601, requires_grad=True)
    g = torch.randn(600, 601)
    for clip in (False, True):
        masked = apply_soft_mask(w, 1.0, 0.1, clip=clip)
        (grad,) = torch.autograd.grad(masked, w, g)
        m = soft_mask(w.detach(), 1.0, 0.1)
        slope = m + 20 * w.detach() ** 2 * m * (1 - m)
        torch.testing.assert_close(masked.detach(), m * w.detach())
        torch.testing.assert_close(grad, (slope.clamp(max=1) if clip else slope) * g, rtol=1e-4, atol=1e-5)


LAYOUTS = {
    "rows": lambda w: w.contiguous(),
    "channels last": lambda w: w.to(memory_format=torch.channels_last),
    "transposed": lambda w: w.transpose(0, 1).contiguous().transpose(0, 1),
    "with gaps": lambda w: torch.stack([w, w], -1)[..., 0],
}


@pytest.mark.wide
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("clip", "floor"), [(True, 0.0), (True, 0.4), (False, 0.0), (True, 1.0)])
@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (300, 130, 3, 3)])
def test_entries_kept_in_full_are_as_if_chosen_after_the_mask(
    shape: tuple[int, ...], clip: bool, floor: float, dtype: torch.dtype, layout: str
) -> None:
    """In whatever order the weight lies in memory, and whether or not it is masked piece by piece."""
    torch.manual_seed(0)
    w = LAYOUTS[layout](torch.randn(shape, dtype=dtype)).requires_grad_()
    w.data[3] = 0.0
    g = torch.randn(shape, dtype=dtype)
    best = w.detach().abs().flatten(1).argmax(1)
    full = torch.stack(torch.unravel_index(best + w[0].numel() * torch.arange(shape[0]), shape))
    masked = apply_soft_mask(w, 1.0, 0.1, clip=clip, floor=floor, full=full)
    (grad,) = torch.autograd.grad(masked, w, g)
    chosen = torch.zeros(shape, dtype=torch.bool).index_put(tuple(full), torch.tensor(True))
    m = soft_mask(w.detach(), 1.0, 0.1)
    slope = (m + 20 * w.detach() ** 2 * m * (1 - m)).clamp(min=floor, max=1.0 if clip else None)
    torch.testing.assert_close(masked.detach(), torch.where(chosen, w.detach(), m * w.detach()))
    assert torch.equal(masked[chosen], w[chosen])
    torch.testing.assert_close(grad, torch.where(chosen, g, slope * g), rtol=1e-4, atol=1e-5)
    assert torch.equal(grad[chosen], g[chosen])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_entries_kept_in_full_have_no_second_derivative(dtype: torch.dtype) -> None:
    w = torch.randn(6, 8, dtype=dtype, requires_grad=True)
    full = torch.tensor([[0, 2], [1, 5]])
    masked = apply_soft_mask(w, 0.8, 0.3, full=full)
    (slope,) = torch.autograd.grad(masked.sum(), w, create_graph=True)
    (twice,) = torch.autograd.grad(slope.sum(), w)
    assert torch.equal(slope[tuple(full)], torch.ones(2, dtype=dtype))
    assert not twice[tuple(full)].any()
    assert twice.any()


@pytest.mark.parametrize("tau", [1e-4, 0.1, 30.0])
def test_the_quotient_of_masked_and_dense_weight_is_a_mask_at_zero_and_far_out_too(tau: float) -> None:
    w = torch.tensor([0.0, -0.0, 1e-30, -1e-4, 0.99, 1.0, 1.01, -40.0, 3e4], requires_grad=True)
    (slope,) = torch.autograd.grad(apply_soft_mask(w, 1.0, tau).sum(), w)
    exact = w.detach().double()
    m = soft_mask(exact, 1.0, tau)
    expected = m + 2 * exact**2 / tau * m * (1 - m)
    torch.testing.assert_close(slope.double(), expected, rtol=2e-2 if tau == 1e-4 else 1e-4, atol=1e-7)
    assert torch.equal(slope[-2:], torch.ones(2)) or tau > 1


@given(values, st.data())
def test_hard_masks_are_exact_and_ties_keep_the_first(entries: list[int], data: st.DataObject) -> None:
    scores = torch.tensor(entries).float()
    pruned = data.draw(st.integers(0, len(entries)))
    expected = torch.ones(len(entries), dtype=torch.bool)
    order = sorted(range(len(entries)), key=lambda i: (scores[i].item(), -i))
    expected[order[:pruned]] = False
    assert torch.equal(keep_largest(scores, pruned), expected)


@pytest.mark.wide
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("output_axis", [0, 1])
def test_units_go_there_and_back(name: str, shape: tuple[int, ...], output_axis: int) -> None:
    pattern, w = parse_pattern(name), torch.randn(shape)
    pattern.check("w", shape, output_axis)
    assert torch.equal(pattern.from_units(pattern.to_units(w, output_axis), shape, output_axis), w)


@pytest.mark.wide
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("output_axis", [0, 1])
def test_every_pattern_is_exact_in_every_unit(name: str, shape: tuple[int, ...], output_axis: int) -> None:
    pattern, w = parse_pattern(name), torch.randn(shape)
    unit = pattern.unit(shape, output_axis)
    zeros = round(pattern.sparsity * w.numel()) if isinstance(pattern, NM) else w.numel() // unit // 2 * unit
    mask = pattern.hard_mask(w, zeros, output_axis)
    assert mask.shape == w.shape
    assert int((~mask).sum()) == zeros
    kept = pattern.to_units(mask, output_axis)
    if isinstance(pattern, NM):
        assert (kept.sum(-1) == pattern.kept).all()
    elif pattern.shared:
        assert torch.equal(kept.any(-1), kept.all(-1))
    scores = pattern.scores(w, output_axis)
    t = pattern.threshold(w, zeros, output_axis)
    assert torch.equal(scores > t, kept.all(-1) if pattern.shared else kept)


@pytest.mark.parametrize("zeros", [1, 100, 127, 128])
def test_an_nm_ramp_zeroes_the_smallest_candidates_first(zeros: int) -> None:
    pattern, w = parse_pattern("2:4"), torch.randn(16, 16)
    full, partial = pattern.hard_mask(w, 128), pattern.hard_mask(w, zeros)
    assert int((~partial).sum()) == zeros
    assert not (full & ~partial).any()
    t = pattern.threshold(w, zeros)
    assert torch.equal(pattern.scores(w) > t, pattern.to_units(partial))


def test_nm_groups_run_along_the_input_channels() -> None:
    w = torch.zeros(1, 8, 1, 2)
    w[0, :4, 0, 0] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    w[0, 4:, 0, 1] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    mask = parse_pattern("2:4").hard_mask(w, 8)
    assert mask[0, :4, 0, 0].tolist() == [True, True, False, False]
    assert mask[0, 4:, 0, 1].tolist() == [False, False, True, True]


def test_the_floor_keeps_one_weight_a_row() -> None:
    w = torch.cat([torch.rand(7, 8) + 1, torch.rand(1, 8) * 0.01])
    pattern = parse_pattern("unstructured")
    assert not pattern.hard_mask(w, 56)[7].any()
    mask = pattern.hard_mask(w, 56, floor=True)
    assert int(mask.sum()) == 8
    assert mask.any(1).all()


def test_free_entries_need_no_row() -> None:
    w = torch.cat([torch.rand(7, 8) + 1, torch.rand(1, 8) * 0.01])
    mask = parse_pattern("free").hard_mask(w, 56, floor=True)
    assert int(mask.sum()) == 8
    assert not mask[7].any()


def test_a_shape_that_does_not_divide_is_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError) as error:
        parse_pattern("2:4").check("stem.conv.weight", (32, 3, 3, 3))
    assert str(error.value) == (
        "weight 'stem.conv.weight' has shape (32, 3, 3, 3); pattern 2:4 needs 27 inputs to divide by 4"
        ' — leave it out with skip = ["stem.conv.*"]'
    )
    with pytest.raises(UsageError, match="needs 6 outputs to divide by 4"):
        parse_pattern("block:4x1").check("fc.weight", (6, 8))


@pytest.mark.parametrize("text", ["", "4:4", "0:4", "block:0x4", "block:1", "rows", "2:4:8"])
def test_unknown_patterns_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_pattern(text)


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.attend = nn.MultiheadAttention(8, 2)
        self.norm = nn.LayerNorm(8)
        self.conv = nn.Conv1d(8, 8, 3)
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.twin = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.twin.weight
        self.head = nn.Linear(8, 10)
        self.head.weight = self.embed.weight


def test_prunable_weights_leave_out_norms_biases_and_embeddings() -> None:
    found = prunable_weights(Everything())
    assert list(found) == ["attend.in_proj_weight", "attend.out_proj.weight", "conv.weight", "up.weight", "twin.weight"]
    assert [place.owner for place in found["twin.weight"].places] == ["twin", "tied"]
    assert found["attend.out_proj.weight"].places[0].reader == "attend"
    assert found["up.weight"].output_axis == 1
