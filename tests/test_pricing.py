"""What candidates cost is told by one place, whatever answers for the target."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from bench.suite.nets import separable
from idp_deploy.errors import UsageError
from idp_deploy.flow import Model, Recipe
from idp_deploy.planning import Cost, Prices, Shipped, candidates
from idp_deploy.simulation.targets import load_target

IMAGE = (torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)),)


def model() -> Model:
    torch.manual_seed(0)
    return Model(separable(3, (16, 64, 128), (2, 1), 10).eval())


def costs_of(found: object) -> tuple[Cost, ...]:
    assert isinstance(found, tuple), found
    return found


def test_a_target_that_runs_sparse_gains_from_zeros_and_one_that_does_not_from_channels_alone() -> None:
    prices = Prices(model(), IMAGE, load_target("raspberry-pi-4"), ("tflite", "onnx"))
    found = candidates(prices, share=0.85, patterns=("unstructured", "channel"))
    dense, zeros, channels = (costs_of(found[name]) for name in ("dense", "unstructured", "channel"))
    assert [cost.runtime for cost in dense] == ["litert-xnnpack", "onnxruntime"]
    assert any(op.runs_sparse for op in zeros[0].estimate.ops)
    assert zeros[0].metrics["latency"] < 0.8 * dense[0].metrics["latency"]
    assert zeros[1].metrics["latency"] == pytest.approx(dense[1].metrics["latency"], rel=0.01)
    assert all(
        cost.metrics["latency"] < 0.8 * was.metrics["latency"] for cost, was in zip(channels, dense, strict=True)
    )
    assert not channels[0].channels_stay


def test_a_pattern_that_does_not_fit_the_model_says_why() -> None:
    odd = Model(torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.Conv2d(6, 10, 3)).eval())
    found = candidates(Prices(odd, IMAGE, load_target("pixel-4"), ("onnx",)), patterns=("2:4",))
    assert "divide by 4" in str(found["2:4"])
    assert isinstance(found["dense"], tuple)


def test_quantized_files_are_priced_as_they_will_be() -> None:
    target = load_target("pixel-4")
    as_floats = Prices(model(), IMAGE, target, ("onnx",)).of(Recipe(sparsity=0.5))[0]
    as_integers = Prices(model(), IMAGE, target, ("onnx",), shipped=Shipped("int8-weights")).of(Recipe(sparsity=0.5))[0]
    assert as_integers.metrics["size"] < 0.6 * as_floats.metrics["size"]


def size_of(shipped: Shipped) -> float:
    prices = Prices(model(), IMAGE, load_target("pixel-4"), ("onnx",), shipped=shipped)
    return prices.of(Recipe(sparsity=0.8))[0].metrics["size"]


@pytest.fixture(scope="module")
def usual_size() -> float:
    return size_of(Shipped("int8-weights"))


@pytest.mark.wide
@pytest.mark.parametrize(
    "how", [{"keep_float": ("*",)}, {"encoding": "dense"}, {"options": {"onnx": {"encoding": "dense"}}}]
)
def test_what_quantize_and_export_are_told_is_priced(how: dict[str, Any], usual_size: float) -> None:
    assert size_of(Shipped("int8-weights", **how)) > 1.1 * usual_size


def test_how_many_values_a_weight_may_have_is_asked_of_what_is_priced() -> None:
    prices = Prices(model(), IMAGE, load_target("pixel-4"), ("onnx",), shipped=Shipped("fp16", values=16))
    with pytest.raises(UsageError, match="fp16 has no integers to restrict"):
        prices.of(Recipe(sparsity=0.8))


@pytest.mark.skipif(importlib.util.find_spec("ethosu") is None, reason="Vela is not installed")
def test_a_vendors_software_answers_in_the_same_words() -> None:
    options = {"tflite": {"encoding": "dense", "io": "int8"}}
    prices = Prices(model(), IMAGE, load_target("ethos-u55-128"), ("tflite",), shipped=Shipped("int8", options=options))
    cost = prices.of(Recipe(sparsity=0.8))[0]
    assert cost.latency_ms is not None
    assert min(cost.metrics["flash"], cost.metrics["sram"]) > 0
