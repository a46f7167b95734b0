"""Errors of outputs, the tolerance that a stage declares, and outputs that hardly move."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from idp_deploy.distance import error_of
from idp_deploy.flow import GraphOp, Quantization, Value
from idp_deploy.verification.calls import seeded_calls
from idp_deploy.verification.comparing import between_runtimes, with_model
from idp_deploy.verification.liveness import dead_activations, output_notes, tolerance_for
from idp_deploy.verification.tolerance import declared
from tests.verification_fixtures import contents, stored


@pytest.mark.parametrize(
    ("expected", "given", "error"),
    [
        ([2.0, -4.0], [2.0, -4.0], 0.0),
        ([2.0, -4.0], [2.0, -4.4], 0.1),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [0.0, 1e-9], math.inf),
        ([1.0, -math.inf], [1.0, -math.inf], 0.0),
        ([1.0, -math.inf], [1.0, -65504.0], math.inf),
        ([1.0, 1.0], [1.0, math.nan], math.nan),
        ([math.nan, 1.0], [math.nan, 1.0], math.nan),
        ([2.0, -1e9], [2.5, -1e9], 0.25),  # masks: what is not hidden counts
        ([2.0, -3.4e38, -1e4], [3.0, -3.4e38, -1e4], 0.5),
        ([2.0, -1e4], [2.0, -1.2e4], 0.2),
        ([2.0, 1e9, 5e8], [2.5, 1e9, 5e8], 5e-10),  # large numbers of many sizes are no masks
        ([0.0, -1e9], [0.0, -1e9 + 64], 6.4e-8),
    ],
)
def test_the_error_is_relative_to_the_largest_output(expected: list[float], given: list[float], error: float) -> None:
    assert error_of([np.array(expected)], [np.array(given)]) == pytest.approx(error, nan_ok=True)


def test_an_output_of_another_shape_or_none_is_infinitely_wrong() -> None:
    assert error_of([np.ones(3)], [np.ones(4)]) == math.inf
    assert error_of([np.ones(3)], [None]) == math.inf


def test_root_mean_square_errors() -> None:
    assert error_of([np.array([3.0, 4.0])], [np.array([3.0, 4.5])], "rms") == pytest.approx(0.1)


def test_what_float16_has_not_of_a_mask_is_said_and_an_overflow_is_none() -> None:
    expected = [(np.array([1.0, -1e9]),), (np.array([2.0, -1e9]),)]
    runtime = "coreml-interpreter-float16"
    for fill, passed in ((-3e4, True), (-math.inf, False), (3e4, False), (-3.0, False)):
        given = {runtime: [(np.array([1.0, fill]),), (np.array([2.0, fill]),)]}
        parities, notes = with_model(contents(), expected, given, None)
        assert [parity.passed for parity in parities] == [passed]
        said = f"{runtime} gives 'y' -30000 for -1e+09, which float16 has not: --precision float32 keeps it"
        assert (said in notes) == passed
    assert not any("hardly depends" in note for note in notes)
    overflown = with_model(contents(), [(np.array([1.0, 1e5]),)], {runtime: [(np.array([1.0, math.inf]),)]}, None)
    assert not overflown[0][0].passed


def test_nan_fails_and_so_do_missing_outputs() -> None:
    expected = [(np.array([1.0, 2.0]), np.array([1]))]
    parities, notes = with_model(contents(), expected, {"a": [(np.array([1.0, math.nan]),)]}, None)
    assert [p.passed for p in parities] == [False, False]
    assert notes[0] == "a gives 1 outputs where the model gives 2"


@pytest.mark.parametrize(
    ("dtype", "runtime", "limit"),
    [
        ("float32", "onnxruntime", 1e-4),
        ("int8", "onnxruntime", 1e-4),
        ("float16", "onnxruntime", 2e-2),
        ("float32", "coreml-interpreter-float16", 2e-2),
    ],
)
def test_the_stage_that_loses_precision_declares_the_tolerance(dtype: str, runtime: str, limit: float) -> None:
    found = declared(contents(stored("w", np.ones((2, 2), dtype))), runtime)
    assert (found.limit, found.measure) == (limit, "max")


@pytest.mark.parametrize(("count", "limit"), [(1, 10 ** (-30 / 20)), (10, 10 ** (-20 / 20)), (1000, 10 ** (-10 / 20))])
def test_integer_activations_are_measured_by_noise(count: int, limit: float) -> None:
    names = tuple(f"v{i}" for i in range(count))
    ops = (GraphOp("q", "QuantizeLinear", (), names),)
    found = declared(contents(ops=ops, values={n: Value(n, (1, 4), "int8") for n in names}), "onnxruntime")
    assert (found.limit, found.measure) == (pytest.approx(limit), "rms")


def test_a_layer_that_quantize_found_noisy_widens_the_tolerance() -> None:
    ops = (GraphOp("q", "QuantizeLinear", (), ("v",)),)
    found = contents(ops=ops, values={"v": Value("v", (1, 4), "int8")})
    noisy = Quantization("int8", activation_db={"a": 23.0, "b": 12.0}, kept_float={"b": "12 dB"})
    assert declared(found, "onnxruntime", noisy).limit == pytest.approx(0.1)


def test_runtimes_are_compared_with_each_other_without_a_model() -> None:
    results = {"a": [(np.array([1.0, 2.0]),)], "b": [(np.array([1.0, 2.2]),)]}
    parities, notes = between_runtimes(contents(), results, None)
    assert [(p.runtime, p.output, p.passed) for p in parities] == [("a", "y", True), ("b", "y", False)]
    assert "without a model" in notes[0]
    alone, notes = between_runtimes(contents(), {"a": [(np.array([math.nan]),)]}, None)
    assert not alone[0].passed
    assert "nothing to compare with" in notes[0]


def test_an_output_that_hardly_moves_is_named_and_judged_more_strictly() -> None:
    still = [(np.array([1.0, 1.0 + 1e-5 * i]),) for i in range(4)]
    assert "'y' hardly depends on the input" in output_notes(["y"], still, 1e-4)[0]
    assert not output_notes(["y"], [(np.array([1.0, float(i)]),) for i in range(4)], 1e-4)
    wrong = {"a": [(call[0] + 5e-5,) for call in still]}
    parities, notes = with_model(contents(), still, wrong, None)
    assert not parities[0].passed
    assert any("hardly depends" in note for note in notes)
    assert tolerance_for(1.0, 1e-4) == 1e-4


class Deadened(nn.Module):
    """A net whose second layer lets nothing through."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Embedding(3, 4)
        self.first, self.relu, self.last = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
        nn.init.constant_(self.first.bias, -1e4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.relu(self.first(x + self.position(torch.arange(1)))))


def test_the_layer_where_the_signal_ends_is_named() -> None:
    calls = seeded_calls((torch.ones(1, 4),), seeds=3)
    assert dead_activations(Deadened(), calls) == (
        "the signal ends at relu: errors before that are invisible in the output",
    )
    alive = Deadened()
    nn.init.zeros_(alive.first.bias)
    assert dead_activations(alive, calls) == ()
    assert not any(module._forward_hooks for module in alive.modules())
