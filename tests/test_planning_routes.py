"""Pruning for a device: by the way that pays there, said before training, kept afterwards."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from bench.suite.nets import separable
from idp_deploy.cli.app import app
from idp_deploy.errors import UsageError
from idp_deploy.flow import Budget, FormatName, Model, Recipe
from idp_deploy.masks import prunable_weights
from idp_deploy.planning import Prices, choose, routes
from idp_deploy.planning.routes import _Tables
from idp_deploy.pruning import Layer, allocate, one_shot
from idp_deploy.shrinking import shrink
from idp_deploy.simulation.targets import load_target

IMAGE = (torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0)),)
DEVICE = load_target("raspberry-pi-4")


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return Model(separable(3, (16, 64, 192), (1, 2), 10).eval())


@cache
def dense_ms(model: Model, format: FormatName) -> float:
    found = Prices(model, IMAGE, DEVICE, (format,)).of(Recipe(sparsity=0.0))[0].latency_ms
    assert found is not None
    return found


def within(share: float, model: Model, format: FormatName) -> tuple[Budget, float]:
    """A latency budget of a share of what the dense model takes."""
    dense = dense_ms(model, format)
    return Budget(DEVICE.name, format, "latency", share * dense, "here"), dense


class Dense(nn.Module):
    """Every layer reads all before it, through one norm: what follows belongs to several groups of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 64, 3, 2, 1), nn.Conv2d(64, 64, 3, 1, 1), nn.Conv2d(128, 64, 3, 1, 1)
        self.norm, self.out = nn.BatchNorm2d(192), nn.Conv2d(192, 10, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        b = self.b(a).relu()
        c = self.c(torch.cat([a, b], 1)).relu()
        return self.out(self.norm(torch.cat([a, b, c], 1)).relu()).mean((2, 3))


def test_a_runtime_without_sparse_kernels_gets_fewer_channels_and_nothing_else(model: Model) -> None:
    budget, dense = within(0.5, model, "onnx")
    told: list[str] = []
    found = choose(model, IMAGE, Recipe(), DEVICE, [budget], ("unstructured",), free=True, announce=told.append)
    patterns = set(found.way.recipe.options["rules"].values())
    assert patterns == {"channel", "skip"}
    assert found.way.figures["onnx", "latency"] <= budget.limit
    assert "100% too slow" in told[0]
    reached = found.figures_of(one_shot(model, found.way.recipe, IMAGE))
    assert reached == found.way.figures
    assert 0.4 * dense < reached["onnx", "latency"] <= budget.limit


def test_a_runtime_with_sparse_kernels_is_offered_both_ways_and_thins_only_what_they_run(model: Model) -> None:
    budget, _ = within(0.6, model, "tflite")
    prices = Prices(model, IMAGE, DEVICE, ("tflite",))
    found = routes(prices, Recipe(), [budget])
    assert len(found) == 2
    assert found[0].noise <= found[1].noise
    sparse = next(one for one in found if "run sparse" in one.says)
    thinned = {name for name, pattern in sparse.recipe.options["rules"].items() if pattern == "unstructured"}
    shapes = {name: model.module.get_parameter(name).shape for name in prunable_weights(model.module)}
    assert any(op.runs_sparse for op in sparse.costs[0].estimate.ops)
    assert {name for name in thinned if len(shapes[name]) == 4} <= {n for n, s in shapes.items() if s[2:] == (1, 1)}


def test_channels_that_are_read_side_by_side_are_removed_as_well() -> None:
    torch.manual_seed(0)
    model = Model(Dense().eval())
    budget, dense = within(0.6, model, "onnx")
    tables = _Tables(Prices(model, IMAGE, DEVICE, ("onnx",)), Recipe(), "onnx", None)
    problem = tables.problem(False)
    assert {weight for one in tables.coupled for weight in one.weights} == {
        f"{name}.weight" for name in ("a", "b", "c")
    }
    reads = dict.fromkeys([0, 1, 2], pytest.approx(1 / 3))
    assert {w.name: dict(w.read_from) for w in problem.weights}["out.weight"] == reads
    half = replace(problem.dense(), kept=(5, 5, 5))
    assert problem.milliseconds(half) < 0.6 * problem.milliseconds(problem.dense())
    [channels] = routes(tables.prices, Recipe(), [budget])
    assert "channel" in channels.recipe.options["rules"].values()
    small = shrink(one_shot(model, channels.recipe, IMAGE), IMAGE)
    assert sum(p.numel() for p in small.module.parameters()) < 0.8 * sum(p.numel() for p in model.module.parameters())
    value = channels.expected[0].value
    assert value is not None
    assert value <= budget.limit < dense


class Attending(nn.Module):
    """Most of its time goes to scores, which have no weights: fewer heads make fewer of them."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.inner = 8, 64
        self.stem, self.norm = nn.Conv2d(3, 32, 3, 3), nn.LayerNorm(32)
        self.qkv, self.proj, self.out = nn.Linear(32, 3 * 64), nn.Linear(64, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).flatten(2).transpose(1, 2)
        parts = self.qkv(self.norm(y)).reshape(len(x), -1, 3, self.heads, 8).permute(2, 0, 3, 1, 4)
        z = F.scaled_dot_product_attention(*parts.unbind(0)).transpose(1, 2).reshape(len(x), -1, self.inner)
        return self.out((y + self.proj(z)).mean(1))


def test_what_only_the_file_of_a_choice_saves_counts() -> None:
    torch.manual_seed(0)
    model = Model(Attending().eval())
    budget, dense = within(0.6, model, "onnx")
    tables = _Tables(Prices(model, IMAGE, DEVICE, ("onnx",)), Recipe(), "onnx", None)
    fastest = tables.problem(False).fastest(sparse=False)
    assert fastest is not None
    assert tables.problem(False).milliseconds(fastest) > budget.limit  # scores count as they are there
    [heads] = routes(tables.prices, Recipe(), [budget])
    assert set(heads.recipe.options["shares"]) == {"qkv.weight"}
    value = heads.expected[0].value
    assert value is not None
    assert 0.4 * dense < value <= budget.limit


def test_what_cannot_be_reached_is_said_with_how_much_is_missing(model: Model) -> None:
    budget, _ = within(0.02, model, "onnx")
    with pytest.raises(UsageError, match=r"even the fastest takes .* ms, \d+% too long"):
        choose(model, IMAGE, Recipe(), DEVICE, [budget], ("unstructured",), free=True)


def test_a_pattern_that_somebody_has_chosen_is_kept(model: Model) -> None:
    budget, _ = within(0.7, model, "onnx")
    found = choose(model, IMAGE, Recipe(), DEVICE, [budget], ("channel",))
    assert found.way.recipe.pattern == "channel"
    assert "shares" not in found.way.recipe.options


def test_skipped_weights_stay_dense_whatever_the_device_wants(model: Model) -> None:
    budget, _ = within(0.7, model, "onnx")
    found = choose(model, IMAGE, Recipe(skip=("12.*",)), DEVICE, [budget], ("unstructured",), free=True)
    assert found.way.recipe.options["rules"]["12.weight"] == "skip"
    assert "12.weight" not in one_shot(model, found.way.recipe, IMAGE).masks


def test_a_share_of_its_own_is_what_a_weight_gets() -> None:
    layers = [Layer("a", torch.randn(16, 16), share=0.25), Layer("b", torch.randn(16, 16))]
    assert allocate(layers, 0.5, "uniform") == {"a": 64, "b": 192}
    with pytest.raises(UsageError, match="shares of their own"):
        allocate(layers, 0.1, "uniform")


def test_a_share_for_no_weight_is_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="'nowhere' is no weight that is pruned"):
        one_shot(model, Recipe(options={"shares": {"nowhere": 0.5}}))


def test_the_command_says_the_way_first_and_what_was_reached_last(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(model.module.state_dict(), "w.pt")
    budget, _ = within(0.5, model, "onnx")
    built = "separable(3, (16, 64, 192), (1, 2), 10)"
    Path("net.py").write_text(f"from bench.suite.nets import separable\ndef build():\n    return {built}\n")
    Path("idp-deploy.toml").write_text(
        f'model = "net:build"\ninputs = ["1x3x48x48"]\n[budgets.raspberry-pi-4.onnx]\nlatency = "{budget.limit} ms"\n'
    )
    found = CliRunner().invoke(app, ["prune", "w.pt", "--target", "raspberry-pi-4", "--one-shot"])
    assert found.exit_code == 0, found.output
    assert "100% too slow" in found.output
    assert re.search(r"by the estimate, \d+% of the channels of \d+ layers removed", found.output)
    assert re.search(r"onnx latency +\d[\d.]* ms +\d[\d.]* ms +\d[\d.]* ms", found.output)
