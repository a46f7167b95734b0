"""Budgets: each metric passes on one side of its limit and fails on the other; the unmeasurable fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from idp_deploy.files import transfer_bytes
from idp_deploy.flow import (
    MANIFEST_KEY,
    Artifact,
    Budget,
    Contents,
    Estimate,
    FormatName,
    GraphOp,
    Interval,
    OpEstimate,
    OutputParity,
    Parity,
    StoredTensor,
    Value,
)  # fmt: skip
from idp_deploy.gating import Evidence, gate, missing
from idp_deploy.rendering import render
from idp_deploy.rendering.verdicts import report_document
from idp_deploy.simulation import simulate
from idp_deploy.simulation.targets import load_target
from tests.contents import mobilenet_v1, on_disk

PATH = Path("m.tflite")
LATENCY = Interval(2, 3, 4)


def evidence(latency: Interval | None = LATENCY, target: str = "pixel-4") -> Evidence:
    values = np.zeros((10, 10), np.float32)
    values[0] = 1
    tensor = StoredTensor("w", (10, 10), "float32", "dense", 400, 90, lambda: values)
    read = GraphOp("fc", "FULLY_CONNECTED", ("x",), ("y",), weights={"weight": "w"})
    contents = Contents(PATH, "tflite", 600, (tensor,), (read,), {}, (), ())
    op = OpEstimate("conv", "conv1x1", 100, 100, 400, 50, 3.0)
    estimate = Estimate(
        PATH, "tflite", target, "litert", latency, "" if latency else "int8 on an NPU", 600, 300, 250, 400, 100,
        100, 100, (op,),
    )  # fmt: skip
    parity = Parity(Artifact(PATH, "tflite", 600), (OutputParity("litert", "0", 1e-6, 1e-4),), ())
    return Evidence(contents, estimate, parity)


def budget(metric: str, limit: float, target: str = "pixel-4") -> Budget:
    return Budget(target, "tflite", metric, limit, "test")


@pytest.mark.parametrize(
    ("metric", "value"),
    [("size", 600), ("latency", 3), ("memory", 500), ("error", 1e-6)],
)
def test_a_ceiling_holds_at_the_value_and_breaks_below_it(metric: str, value: float) -> None:
    assert gate([budget(metric, value)], [evidence()]).passed
    failed = gate([budget(metric, value * 0.99)], [evidence()])
    assert not failed.passed
    assert failed.checks[0].value == value
    assert failed.checks[0].fix


def test_a_share_of_no_weights_is_not_known() -> None:
    item = evidence()
    item = replace(item, contents=replace(item.contents, ops=()))  # a weight that nothing in the graph multiplies by
    report = gate([budget("sparsity", 0.5)], [item])
    assert not report.passed
    assert (report.checks[0].value, report.checks[0].verdict) == (None, "not estimable")


@pytest.mark.parametrize(("metric", "which"), [("gzip", 0), ("brotli", 1)])
def test_transfer_is_compressed_for_the_gate_and_not_estimated(metric: str, which: int, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(bytes(range(256)) * 20)
    item = evidence()
    item = replace(item, contents=replace(item.contents, path=path))
    exact = transfer_bytes(path)[which]
    assert gate([budget(metric, exact)], [item]).passed
    assert not gate([budget(metric, exact - 1)], [item]).passed


def test_sparsity_is_a_floor() -> None:
    assert gate([budget("sparsity", 0.9)], [evidence()]).passed
    assert not gate([budget("sparsity", 0.91)], [evidence()]).passed
    assert gate([budget("sparsity", 0.904)], [evidence()]).passed, "90 is what 0.904 of 100 rounds to"


def test_what_cannot_be_estimated_fails_with_the_reason() -> None:
    report = gate([budget("latency", 100)], [evidence(latency=None)])
    assert not report.passed
    assert (report.checks[0].verdict, report.checks[0].detail) == ("not estimable", "int8 on an NPU")
    assert not gate([budget("error", 1)], [replace(evidence(), parity=None)]).passed


@pytest.mark.parametrize(
    ("format", "manifest", "fix"),
    [
        ("onnx", {"scheme": "int8"}, "quantize --scheme int8-weights"),
        ("coreml", {"scheme": "int8", "options": {}}, "export --to coreml --precision float32"),
        ("coreml", {"options": {"precision": "float32"}}, "nothing finer is written: raise the budget"),
        ("onnx", {"scheme": "int8-weights"}, "nothing finer is written: raise the budget"),
    ],
)
def test_an_error_over_its_limit_names_the_command_that_computes_more_finely(
    format: FormatName, manifest: dict[str, object], fix: str
) -> None:
    item = evidence()
    metadata = {MANIFEST_KEY: manifest}
    item = replace(item, contents=replace(item.contents, format=format, metadata=metadata))
    item = replace(item, estimate=replace(item.estimate, format=format))
    (check,) = gate([replace(budget("error", 1e-7), format=format)], [item]).checks
    assert check.verdict == "fail"
    assert fix in check.fix
    assert check.detail == "output 0 in litert"


def test_an_interval_across_the_limit_is_said() -> None:
    assert "reaches over" in gate([budget("latency", 3.5)], [evidence()]).checks[0].detail
    assert gate([budget("latency", 5)], [evidence()]).checks[0].detail == ""


def test_only_the_budgets_of_the_artifact_are_checked() -> None:
    other = budget("size", 1, target="iphone-12")
    report = gate([other], [evidence()])
    assert report.passed
    assert missing([other], [evidence()]) == (other,)
    strict = gate([other], [evidence()], strict=True)
    assert not strict.passed
    assert strict.checks[0].verdict == "not estimable"


def test_a_violation_names_metric_value_limit_excess_source_and_fix() -> None:
    text = render(report_document(gate([budget("size", 300)], [evidence()])), "github")
    for word in (
        "size 600 B",
        "≤ 300 B",
        "over by 100.0 %25",
        "limit from test",
        "largest weight w",
        "--encoding auto",
    ):
        assert word in text


@pytest.mark.parametrize(("shape", "is_known"), [((-1, 224, 224, 3), True), ((1, -1, -1, 3), False)])
def test_inputs_without_a_size_give_no_latency_and_no_memory(
    shape: tuple[int, ...], is_known: bool, tmp_path: Path
) -> None:
    contents = on_disk(mobilenet_v1(0.5), tmp_path)
    contents = replace(contents, values={**contents.values, "input": Value("input", shape, "float32")})
    estimate = simulate(contents, load_target("pixel-4"))
    checks = gate([budget("latency", 1e6), budget("memory", 1e12)], [Evidence(contents, estimate)]).checks
    assert [check.verdict for check in checks] == ["pass" if is_known else "not estimable"] * 2
    assert is_known or all("export it with the sizes it will run at" in check.detail for check in checks)
