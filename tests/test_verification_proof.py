"""The proof of weights: found in any layout, and one that differs fails by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from idp_deploy.capturing import capture
from idp_deploy.flow import CompressedModel, Quantization
from idp_deploy.quantizers import dequantize_int8, dequantize_palette, palettize, quantize_int8
from idp_deploy.verification.proof import prove_weights
from tests.verification_fixtures import EXAMPLE, contents, net, pruned, stored

TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda w: w,
    "NHWC or transposed": lambda w: w.transpose(0, 2, 3, 1) if w.ndim == 4 else w.T,
    "HWIO": lambda w: w.transpose(2, 3, 1, 0) if w.ndim == 4 else w[:, :, None, None],
    "flattened": lambda w: w.reshape(len(w), -1),
}


def folded(model: CompressedModel) -> dict[str, np.ndarray]:
    captured = capture(model, EXAMPLE)
    return {name: captured.weight(name) for name in model.masks}


@pytest.mark.wide
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_weights_are_found_by_content_in_any_layout(
    transform: Callable[[np.ndarray], np.ndarray], ours: bool, dtype: str
) -> None:
    model = pruned(net())
    tensors = [stored(f"t{i}", transform(w).astype(dtype)) for i, w in enumerate(folded(model).values())]
    noise = stored("noise", np.random.default_rng(0).normal(size=tensors[0].shape).astype(dtype))
    proofs, notes = prove_weights(model, contents(noise, *tensors, weights={} if ours else None), EXAMPLE)
    assert [(p.parameter, p.tensor, p.passed) for p in proofs] == [("0.weight", "t0", True), ("4.weight", "t1", True)]
    for proof in proofs:
        mask = model.masks[proof.parameter]
        assert proof.zeros == proof.expected_zeros == int((~mask).sum())
        assert proof.encoding == "gaps8"
    assert notes == ()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("ours", [True, False])
def test_one_mutated_weight_fails(dtype: str, ours: bool) -> None:
    model = pruned(net())
    values = {name: w.astype(dtype) for name, w in folded(model).items()}
    kept = np.argwhere(values["0.weight"] != 0)[5]
    values["0.weight"][tuple(kept)] *= np.array(1.01, dtype)
    found = contents(*(stored(n, w) for n, w in values.items()), weights={n: n for n in values} if ours else None)
    first, second = prove_weights(model, found, EXAMPLE)[0]
    assert not first.passed
    assert first.tensor == "0.weight"
    assert 0 < first.max_relative_error < 0.02
    assert second.passed


def test_in_our_own_files_the_last_bit_counts() -> None:
    model = pruned(net())
    values = folded(model)
    kept = tuple(np.argwhere(values["4.weight"] != 0)[-1])
    values["4.weight"][kept] = np.nextafter(values["4.weight"][kept], np.float32(9))
    tensors = [stored(n, w) for n, w in values.items()]
    assert not prove_weights(model, contents(*tensors, weights={}), EXAMPLE)[0][1].passed
    assert prove_weights(model, contents(*tensors), EXAMPLE)[0][1].passed


@pytest.mark.parametrize("value", [0.0, 1e-9])
def test_a_zero_too_many_or_too_few_fails(value: float) -> None:
    model = pruned(net())
    values = folded(model)
    w = values["4.weight"]
    w[tuple(np.argwhere((w == 0) if value else (w != 0))[0])] = value
    proof = prove_weights(model, contents(*(stored(n, v) for n, v in values.items())), EXAMPLE)[0][1]
    assert not proof.passed
    assert proof.zeros == proof.expected_zeros + (-1 if value else 1)


def test_a_missing_weight_is_a_failure_and_a_note() -> None:
    model = pruned(net())
    proofs, notes = prove_weights(model, contents(stored("a", folded(model)["0.weight"])), EXAMPLE)
    assert [p.passed for p in proofs] == [True, False]
    assert notes == ("weight '4.weight' of shape (5, 288) was not found in net.onnx",)


def test_weights_that_another_tool_left_unfolded_are_proved_too() -> None:
    model = pruned(net())
    raw = {n: model.module.get_parameter(n).detach().numpy() for n in model.masks}
    assert all(p.passed for p in prove_weights(model, contents(*(stored(n, w) for n, w in raw.items())), EXAMPLE)[0])


@pytest.mark.parametrize("mutate", [False, True])
def test_integers_of_a_quantized_model(mutate: bool) -> None:
    model = pruned(nn.Sequential(nn.Linear(6, 40)), quantization=Quantization("int8-weights"))
    w = model.module.get_parameter("0.weight")
    q, scale = quantize_int8(w.detach().numpy())
    w.data = torch.from_numpy(dequantize_int8(q, scale))
    if mutate:
        entry = tuple(np.argwhere(np.abs(q) > 1)[3])
        q[entry] -= np.sign(q[entry])
    found = contents(stored("q", q, scale=scale))
    assert prove_weights(model, found, (torch.zeros(1, 6),))[0][0].passed is not mutate
    half = contents(stored("q", q, scale=scale.astype(np.float16).astype(np.float32)))
    assert not prove_weights(model, half, (torch.zeros(1, 6),))[0][0].passed
    package = replace(half, format="coreml")
    assert prove_weights(model, package, (torch.zeros(1, 6),))[0][0].passed is not mutate


def test_an_integer_file_of_a_float_model_is_proved_within_half_a_step() -> None:
    model = pruned(nn.Sequential(nn.Linear(6, 40)))
    q, scale = quantize_int8(model.module.get_parameter("0.weight").detach().numpy())
    assert prove_weights(model, contents(stored("q", q, scale=scale)), (torch.zeros(1, 6),))[0][0].passed
    far = q.copy()
    far[tuple(np.argwhere(q > 100)[0])] -= 5
    assert not prove_weights(model, contents(stored("q", far, scale=scale)), (torch.zeros(1, 6),))[0][0].passed


def test_a_palette_of_a_quantized_model() -> None:
    model = pruned(nn.Sequential(nn.Linear(30, 40)), quantization=Quantization("lut4"))
    w = model.module.get_parameter("0.weight")
    values = dequantize_palette(*palettize(w.detach().numpy()))
    w.data = torch.from_numpy(values)
    half = stored("p", values.astype(np.float16), "sparse+lut4")
    assert prove_weights(model, contents(half, weights={}), (torch.zeros(1, 30),))[0][0].passed


class Gates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(x)[0]


def test_reordered_gates_and_split_projections_are_found_by_rows() -> None:
    model = pruned(Gates(), share=0.5)
    ih, hh = (model.module.get_parameter(f"gru.weight_{x}_l0").detach().numpy() for x in ("ih", "hh"))
    joined = stored("W", ih.reshape(3, 4, 5)[[1, 0, 2]].reshape(1, 12, 5))
    split = [stored(f"R{i}", np.ascontiguousarray(hh[4 * i : 4 * i + 4].T)) for i in range(3)]
    proofs, _ = prove_weights(model, contents(joined, *split), (torch.zeros(1, 3, 5),))
    assert [(p.tensor, p.passed) for p in proofs] == [("W", True), ("R0 + R1 + R2", True)]
    missing = prove_weights(model, contents(joined, *split[:2]), (torch.zeros(1, 3, 5),))[0][1]
    assert not missing.passed


def test_groups_that_a_converter_split_are_found_in_parts() -> None:
    model = pruned(nn.ConvTranspose2d(8, 6, 4, groups=2), share=0.5)
    w = model.module.get_parameter("weight").detach().numpy().copy()
    parts = [stored(f"g{i}", half.transpose(1, 2, 3, 0)) for i, half in enumerate(np.split(w, 2))]
    (proof,), _ = prove_weights(model, contents(*parts), (torch.zeros(1, 8, 5, 5),))
    assert (proof.tensor, proof.passed, proof.size_bytes) == ("g0 + g1", True, 20)
    assert proof.zeros == proof.expected_zeros == model.zeros
    parts[1].values()[0, 0, 0, 0] += 1
    assert not prove_weights(model, contents(*parts), (torch.zeros(1, 8, 5, 5),))[0][0].passed


class LearnedQuery(nn.Module):
    """Attention that pools over positions: its query is a parameter, so a third of the projection meets no input."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(self.query.expand(1, 2, 8), x, x, need_weights=False)[0]


def test_rows_that_act_on_constants_only_need_not_be_in_the_file() -> None:
    model = pruned(LearnedQuery(), share=0.5)
    projection, out = (w.numpy() for w in model.module.state_dict().values() if w.ndim == 2)
    example = (torch.randn(1, 5, 8),)
    kept = projection[8:].copy()
    proofs, notes = prove_weights(model, contents(stored("kv", kept), stored("out", out)), example)
    assert [(p.tensor, p.passed, p.zeros) for p in proofs] == [
        ("kv", True, int((kept == 0).sum())),
        ("out", True, int((out == 0).sum())),
    ]
    assert notes == (
        "8 rows of weight 'attention.in_proj_weight' act on constants only: the file holds what they give",
    )
    whole = prove_weights(model, contents(stored("w", projection), stored("out", out)), example)
    assert [p.tensor for p in whole[0]] == ["w", "out"]
    assert whole[1] == ()
    kept[3, np.flatnonzero(kept[3])[0]] += 0.5
    assert not prove_weights(model, contents(stored("kv", kept), stored("out", out)), example)[0][0].passed


def test_a_weight_that_meets_no_input_is_named_and_not_looked_for() -> None:
    class Bias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make, self.source = nn.Linear(4, 4, bias=False), nn.Parameter(torch.randn(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.make(self.source)

    proofs, notes = prove_weights(pruned(Bias(), share=0.5), contents(), (torch.zeros(1, 4),))
    assert proofs == ()
    assert notes == ("weight 'make.weight' acts on constants only: the file may hold what it gives; not looked for",)


def test_a_weight_that_forward_adds_to_a_constant_is_said_to_have_lost_its_zeros() -> None:
    """A LoRA that forward merges: no entry of the sum is zero."""

    class Merging(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 4, bias=False)
            self.register_buffer("delta", torch.full((4, 4), 0.1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.weight + self.delta)

    proofs, (note,) = prove_weights(pruned(Merging(), share=0.5), contents(), (torch.zeros(1, 4),))
    assert proofs == ()
    assert note.startswith("weight 'weight' meets an input only in a sum with other constants, of which 0.0% are zero")
    assert "then prune it" in note


class Scaled(nn.Module):
    """A linear layer whose weight forward makes from its parameter and constants."""

    def __init__(self, make) -> None:
        super().__init__()
        self.make, self.weight = make, nn.Parameter(torch.randn(6, 4))
        self.register_buffer("gain", torch.rand(6, 1) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.make(self.weight, self.gain))


@pytest.mark.parametrize(
    "make",
    [
        lambda w, g: w * 0.7,
        lambda w, g: w * torch.sigmoid(g),
        lambda w, g: (w.t() / 3).t() * g,
        lambda w, _: nn.functional.normalize(w),
    ],
    ids=["scalar", "gain", "moved", "normalised"],
)
def test_a_weight_that_constants_scale_is_proved_as_what_they_make_of_it(make) -> None:
    model = pruned(Scaled(make), share=0.5)
    parameter = model.module.weight.detach()
    example = (torch.zeros(1, 4),)
    made = make(parameter, model.module.gain).detach().numpy()
    for held in (made, parameter.numpy(), np.nextafter(made, 2 * made)):  # folded, as it is, rounded otherwise
        (proof,), notes = prove_weights(model, contents(stored("w", held)), example)
        assert (proof.passed, proof.zeros, notes) == (True, int((made == 0).sum()), ())
    for place in (np.flatnonzero(made)[0], np.flatnonzero(made == 0)[0]):
        wrong = made.copy()
        wrong.flat[place] += 0.01
        (proof,), _ = prove_weights(model, contents(stored("w", wrong)), example)
        assert not proof.passed


class Lookup(nn.Module):
    """A table, a norm, a bias and a pruned weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm, self.head = nn.Embedding(20, 8), nn.LayerNorm(8), nn.Linear(8, 12)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.table(tokens)))


@pytest.mark.parametrize("name", ["table.weight", "head.bias"])
def test_a_changed_tensor_beside_the_pruned_weights_is_told_of(name) -> None:
    model = pruned(Lookup(), share=0.5)
    model = replace(model, masks={"head.weight": model.masks["head.weight"]})
    values = {n: p.detach().numpy().copy() for n, p in model.module.named_parameters()}
    example = (torch.zeros(1, 3, dtype=torch.long),)

    def proofs() -> dict[str, bool]:
        found, _ = prove_weights(model, contents(*(stored(n, v) for n, v in values.items())), example)
        return {proof.parameter: proof.passed for proof in found}

    assert proofs() == {"head.weight": True}
    values[name].flat[-1] += 0.25
    assert proofs() == {"head.weight": True, name: False}
    values[name] += 1.0  # nothing like the model's: converters may have made something else of it
    assert proofs() == {"head.weight": True}
    del values[name]
    assert proofs() == {"head.weight": True}


def test_two_tensors_that_are_nearly_the_same_are_told_apart() -> None:
    model = pruned(Lookup(), share=0.5)
    twin = nn.Embedding(20, 8)
    twin.weight.data.copy_(model.module.table.weight.data)
    twin.weight.data[3] += 1.0
    both = nn.ModuleList([model.module, twin])

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = both

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.both[0](tokens).sum() + self.both[1](tokens).sum()

    held = [stored(n, p.detach().numpy()) for n, p in both.named_parameters() if n != "1.weight"]
    masks = {"both.0.head.weight": model.masks["head.weight"]}
    tokens = (torch.zeros(1, 3, dtype=torch.long),)
    found, _ = prove_weights(CompressedModel(Both().eval(), masks), contents(*held), tokens)
    assert [(proof.parameter, proof.passed) for proof in found] == [("both.0.head.weight", True)]


class Tied(nn.Module):
    """One matrix under two names, and a layer that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head, self.unused = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False), nn.Linear(4, 4)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(ids))


def test_tied_weights_share_a_tensor_and_unused_ones_are_not_looked_for() -> None:
    module = Tied()
    model = pruned(module)
    masks = dict(model.masks) | {"head.weight": model.masks["embed.weight"]}
    model = CompressedModel(module, masks)
    tensor = stored("shared", module.embed.weight.detach().numpy())
    proofs, notes = prove_weights(model, contents(tensor), (torch.zeros(1, 3, dtype=torch.long),))
    assert {p.parameter: (p.tensor, p.passed) for p in proofs} == {
        "embed.weight": ("shared", True),
        "head.weight": ("shared", True),
    }
    assert notes == ("weight 'unused.weight' has no part in the model's outputs and is not looked for",)
