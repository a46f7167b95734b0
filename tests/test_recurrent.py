"""Recurrent layers and embeddings: every matrix is pruned, and what trains is what computes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from idp_deploy.errors import IdpDeployWarning, UsageError
from idp_deploy.flow import CompressedModel, Model, Recipe
from idp_deploy.hardening import harden
from idp_deploy.masks import parse_pattern, prunable_weights
from idp_deploy.pruning import METHODS, Pruner, one_shot
from idp_deploy.pruning.allocation import ALLOCATIONS, Layer, allocate
from idp_deploy.pruning.sites import Site, attach
from tests.pruning_fixtures import RECIPES

LAYERS: dict[str, nn.Module] = {}


class Words(nn.Module):
    """A table, recurrent layers of each kind, cells, and a head."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16, padding_idx=0)
        self.lstm = nn.LSTM(16, 12, 2, batch_first=True, bidirectional=True, dropout=0.1)
        self.gru = nn.GRU(24, 20, batch_first=True)
        self.cell = nn.LSTMCell(20, 16)
        self.head = nn.Linear(16, 40, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.gru(self.lstm(self.embed(words))[0])[0]
        state = self.cell(x[:, 0])
        for step in range(1, x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.head(state[0])


WORDS = torch.randint(1, 40, (8, 6), generator=torch.Generator().manual_seed(0))
MATRICES = [
    *(f"lstm.weight_{x}_l{layer}{way}" for layer in (0, 1) for way in ("", "_reverse") for x in ("ih", "hh")),
    *("gru.weight_ih_l0", "gru.weight_hh_l0", "cell.weight_ih", "cell.weight_hh", "head.weight"),
]  # fmt: skip


def words(tied: bool = False) -> Words:
    torch.manual_seed(0)
    return Words(tied)


def train(module: nn.Module, pruner: Pruner, steps: int) -> None:
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(WORDS), WORDS[:, -1]).backward()
        optimizer.step()
        pruner.step()


def test_all_gates_of_every_recurrent_layer_are_prunable() -> None:
    found = prunable_weights(words())
    assert list(found) == MATRICES
    assert {weight.kind for name, weight in found.items() if name != "head.weight"} == {"recurrent"}
    assert {name: found[name].gates for name in ("lstm.weight_hh_l1", "gru.weight_ih_l0", "cell.weight_hh")} == {
        "lstm.weight_hh_l1": 4,
        "gru.weight_ih_l0": 3,
        "cell.weight_hh": 4,
    }


def test_projections_are_matrices_of_one_gate() -> None:
    found = prunable_weights(nn.LSTM(6, 8, proj_size=3))
    assert {name: weight.gates for name, weight in found.items()} == {
        "weight_ih_l0": 4,
        "weight_hh_l0": 4,
        "weight_hr_l0": 1,
    }


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(5, 4, 2, bidirectional=True),
        nn.LSTM(5, 4, proj_size=3),
        nn.GRU(5, 4, 2),
        nn.RNN(5, 4, nonlinearity="relu"),
        nn.LSTMCell(5, 4),
        nn.GRUCell(5, 4),
        nn.RNNCell(5, 4),
    ],
    ids=lambda layer: f"{type(layer).__name__}{getattr(layer, 'proj_size', 0) or ''}",
)
def test_a_soft_mask_reaches_the_computation_and_its_gradient(layer: nn.Module) -> None:
    torch.manual_seed(0)
    layer = deepcopy(layer).double()
    x = torch.randn(*((3, 2) if isinstance(layer, nn.RNNBase) else (2,)), 5, dtype=torch.float64)

    def result(module: nn.Module) -> Tensor:
        outputs = torch.utils._pytree.tree_leaves(module(x))
        return torch.stack([(i + 1) * output.sin().sum() for i, output in enumerate(outputs)]).sum()

    def masked(site: Site, weight: Tensor) -> Tensor:
        return weight * weight.square().sigmoid()

    twin = deepcopy(layer)
    with torch.no_grad():
        for name in prunable_weights(twin):
            twin.get_parameter(name).copy_(masked(None, twin.get_parameter(name)))  # type: ignore[arg-type]
    for name, where in prunable_weights(layer).items():
        weight = layer.get_parameter(name)
        attach(layer, Site(name, layer, weight, where, parse_pattern("unstructured"), masked=masked))
    torch.testing.assert_close(result(layer), result(twin))
    result(layer).backward()
    result(twin).backward()
    for name in prunable_weights(layer):
        dense, reached = layer.get_parameter(name), twin.get_parameter(name).grad
        assert reached is not None
        leaf = dense.detach().clone().requires_grad_()
        (expected,) = torch.autograd.grad(masked(None, leaf), leaf, reached)  # type: ignore[arg-type]
        torch.testing.assert_close(dense.grad, expected)


def test_between_forwards_a_recurrent_layer_holds_its_own_parameters() -> None:
    module = words()
    pruner = Pruner(module, sparsity=0.8, epochs=1, steps_per_epoch=10)
    pruner.prepare()
    train(module, pruner, 5)
    assert all(w is p for w, p in zip(module.lstm._flat_weights, module.lstm.parameters(), strict=True))
    copied = deepcopy(module)  # a masked weight in the list would be no leaf, which nothing can copy
    torch.testing.assert_close(copied.eval()(WORDS), module.eval()(WORDS))
    pruner.detach()
    module.load_state_dict(copied.state_dict())
    assert module(WORDS).shape == (8, 40)


def test_an_exception_in_forward_leaves_the_parameters_in_place() -> None:
    layer = nn.GRU(5, 4)
    pruner = Pruner(layer, sparsity=0.5, epochs=1, steps_per_epoch=4)
    pruner.prepare()
    with pytest.raises(RuntimeError):
        layer(torch.zeros(3, 2, 6))
    assert all(w is p for w, p in zip(layer._flat_weights, layer.parameters(), strict=True))


def test_packed_sequences_are_masked_too() -> None:
    layer = nn.LSTM(5, 4)
    packed = pack_padded_sequence(torch.randn(4, 2, 5), torch.tensor([4, 2]))
    pruner = Pruner(layer, sparsity=0.5, epochs=1, steps_per_epoch=4, dense=0.0, ramp=0.3)
    pruner.prepare()
    with pruner.hardened():
        hard = layer(packed)[0].data
    assert torch.equal(hard, deepcopy(pruner.finalize().module)(packed)[0].data)


@pytest.mark.wide
@pytest.mark.parametrize("method", [name for name in METHODS if RECIPES[name][0] != "channel"])
def test_every_method_prunes_recurrent_layers_to_the_count(method: str) -> None:
    pattern, sparsity = RECIPES[method]
    module = words()

    def loss() -> Tensor:
        return nn.functional.cross_entropy(module(WORDS), WORDS[:, -1])

    pruner = Pruner(
        module, sparsity=sparsity, epochs=1, steps_per_epoch=20, method=method, pattern=pattern,
        example_inputs=(WORDS,) if method == "synflow" else None, loss=loss,
    )  # fmt: skip
    pruner.prepare()
    train(module, pruner, 20)
    recurrent = [name for name in MATRICES if name != "head.weight"]
    sparse = pruner.finalize()
    total = sum(module.get_parameter(name).numel() for name in MATRICES)
    zeros = sum(int((module.get_parameter(name) == 0).sum()) for name in MATRICES)
    assert abs(zeros - sparsity * total) <= 4
    assert all(int((module.get_parameter(name) == 0).sum()) > 0 for name in recurrent)
    assert torch.isfinite(sparse(WORDS)).all()


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "1:4", "block:1x4", "block:4x1"])
@pytest.mark.parametrize("allocation", [how for how in ALLOCATIONS if how != "sensitivity"])
def test_rows_of_gates_are_rows(pattern: str, allocation: str) -> None:
    sparsity = {"2:4": 0.5, "1:4": 0.75, "block:1x4": 0.5}.get(pattern, 0.8)
    model = Model(words())
    sparse = one_shot(model, Recipe(sparsity, pattern=pattern, allocation=allocation))
    for name, mask in sparse.masks.items():
        assert mask.any(1).all(), name  # no row of a gate is dead
        if pattern == "2:4":
            assert (mask.unflatten(1, (-1, 4)).sum(-1) == 2).all()
        if pattern == "block:4x1":
            assert (mask.unflatten(0, (-1, 4)).float().var(1) == 0).all()
    again = harden_plain(sparse)
    assert again == sparse.zeros


def test_hidden_units_stay_where_nothing_tells_what_reads_them_and_the_pruner_says_why() -> None:
    module = nn.ModuleDict({"first": nn.Linear(4, 8), "gru": nn.GRU(8, 8), "last": nn.Linear(8, 2)})
    with pytest.warns(IdpDeployWarning, match="without example inputs"):
        pruner = Pruner(module, sparsity=0.5, epochs=1, pattern="channel")
    assert pruner.left == {
        "gru.weight_ih_l0": "without example inputs nothing tells which hidden units go together",
        "gru.weight_hh_l0": "without example inputs nothing tells which hidden units go together",
        "last.weight": "last layer",
    }


def harden_plain(sparse: CompressedModel) -> int:
    return sum(int((sparse.module.get_parameter(name) == 0).sum()) for name in sparse.masks)


def test_erk_gives_each_gate_what_a_matrix_of_its_own_would_get() -> None:
    generator = torch.Generator().manual_seed(0)
    gates = [torch.randn(8, 16, generator=generator) for _ in range(4)]
    other = Layer("other", torch.randn(32, 32, generator=generator))
    apart = allocate([*(Layer(f"gate{i}", w) for i, w in enumerate(gates)), other], 0.8, "erk")
    stacked = allocate([Layer("lstm", torch.cat(gates), gates=4), other], 0.8, "erk")
    assert abs(stacked["lstm"] - sum(apart[f"gate{i}"] for i in range(4))) <= 4


def test_soft_checkpoints_of_recurrent_layers_harden_to_the_count() -> None:
    module = words()
    pruner = Pruner(module, sparsity=0.9, epochs=1, steps_per_epoch=10)
    pruner.prepare()
    train(module, pruner, 10)
    from idp_deploy.flow import MaskedModel

    soft = MaskedModel(pruner.detach(), pruner.soft_masks(), pruner.recipe)
    hard = harden(soft)
    assert hard.sparsity == pytest.approx(0.9, abs=1e-3)
    assert set(hard.masks) == set(MATRICES)


def test_tables_stay_dense_unless_asked() -> None:
    assert Pruner(words(), sparsity=0.8, epochs=1).left == {"embed.weight": "embedding"}


@pytest.mark.wide
@pytest.mark.parametrize(
    "options",
    [{"embeddings": True}, {"rules": {"*embed*": "unstructured"}}, {"rules": {"embedding": "unstructured"}}],
    ids=["option", "name", "kind"],
)
@pytest.mark.parametrize("tied", [False, True])
def test_tables_are_pruned_on_request_and_a_tied_head_counts_once(options: dict[str, Any], tied: bool) -> None:
    module = words(tied)
    pruner = Pruner(module, sparsity=0.8, epochs=1, steps_per_epoch=10, **options)
    pruner.prepare()
    train(module, pruner, 10)
    sparse = pruner.finalize()
    assert ("head.weight" in sparse.masks) is not tied
    table = module.embed.weight
    pruned = ~sparse.masks["embed.weight"]
    assert pruned.sum() > 100
    assert not table[pruned].any()
    assert (module.head.weight is table) is tied
    assert pruner.report().prunable == sum(p.numel() for p in module.parameters() if p.dim() > 1)


def test_a_tied_table_is_masked_where_it_is_looked_up_and_where_it_multiplies() -> None:
    module = words(tied=True).eval()
    pruner = Pruner(module, sparsity=0.8, epochs=1, steps_per_epoch=10, embeddings=True, finish=0.9)
    pruner.prepare()
    with pruner.hardened():
        inside = module(WORDS)
    torch.testing.assert_close(inside, pruner.finalize()(WORDS), rtol=1e-5, atol=1e-6)


def test_a_bag_is_a_table() -> None:
    bag = nn.Sequential(nn.EmbeddingBag(30, 8, mode="mean"), nn.Linear(8, 4))
    sparse = one_shot(Model(bag), Recipe(0.75, options={"embeddings": True}))
    assert int((~sparse.masks["0.weight"]).sum()) > 100


def test_n_of_m_that_does_not_divide_is_left_dense_unless_it_was_named() -> None:
    net = nn.ModuleDict({"rnn": nn.GRU(13, 8)})
    pruner = Pruner(net, sparsity=0.5, epochs=1, pattern="2:4")
    assert list(pruner.left) == ["rnn.weight_ih_l0"]
    assert [site.name for site in pruner.sites] == ["rnn.weight_hh_l0"]
    with pytest.raises(UsageError, match=r"leave it out with skip = \[\"rnn.weight_ih_l0\"\]"):
        Pruner(net, sparsity=0.5, epochs=1, rules={"rnn.weight_ih_l0": "2:4"})
