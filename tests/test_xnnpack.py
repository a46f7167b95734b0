"""Every rule of XNNPACK's sparse execution, one break at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from idp_deploy.flow import Value
from idp_deploy.formats.linting import lint
from tests.contents import TFLite, mobilenet_v1


def test_a_pruned_mobilenet_runs_sparse() -> None:
    found = lint(mobilenet_v1(zeros=0.9).contents())
    assert found.runs_sparse
    assert len(found.sparse_ops) == 13
    assert not found.findings


@pytest.mark.parametrize(("width", "share", "runs"), [(0.75, 0.627, False), (1.0, 0.679, True), (1.4, 0.730, True)])
def test_a_dense_classifier_counts_in_the_two_thirds(width: float, share: float, runs: bool) -> None:
    found = lint(mobilenet_v1(width, 0.9).contents())
    assert found.zero_share == pytest.approx(share, abs=0.01)
    assert found.runs_sparse is runs
    if not runs:
        assert found.findings[0].rule == "two thirds of the cluster"
        assert found.findings[0].op.endswith("fully_connected")
        assert "XNNPACK goes sparse above 0.667" in found.findings[0].message
        assert lint(mobilenet_v1(width, 0.9, classifier=0.9).contents()).runs_sparse


def small(change: Callable[[TFLite], TFLite]) -> TFLite:
    return change(TFLite(32).pad(1).conv(16, 3, 2)).conv(32, zeros=0.9).mean().linear(4, 0.9)


BREAKS: dict[str, tuple[TFLite, str]] = {
    "5×5 stem": (TFLite(32).pad(2).conv(16, 5, 2).conv(32, zeros=0.9).mean(), "stem"),
    "stride-1 stem": (TFLite(32).pad(1).conv(16, 3, 1).conv(32, zeros=0.9).mean(), "stem"),
    "grey stem": (TFLite(32, 1).pad(1).conv(16, 3, 2).conv(32, zeros=0.9).mean(), "stem"),
    "SAME stem": (TFLite(32).conv(16, 3, 2, padding="SAME").conv(32, zeros=0.9).mean(), "stem"),
    "unpadded stem": (TFLite(32).conv(16, 3, 2).conv(32, zeros=0.9).mean(), "stem"),
    "3×3 inside": (small(lambda n: n.conv(16, 3)), "1×1"),
    "strided 1×1": (small(lambda n: n.conv(16, 1, 2)), "1×1"),
    "depthwise 7×7": (small(lambda n: n.depthwise(kernel=7)), "depthwise"),
    "depth multiplier": (small(lambda n: n.depthwise(multiplier=2)), "depthwise"),
    "SAME with stride": (small(lambda n: n.depthwise(2, padding="SAME")), "depthwise"),
    "unpadded depthwise": (small(lambda n: n.depthwise(padding="none")), "depthwise"),
    "softmax inside": (small(lambda n: n.op("SOFTMAX", n.shape)), "operator"),
    "transpose inside": (small(lambda n: n.op("TRANSPOSE", n.shape)), "operator"),
    "max pool inside": (small(lambda n: n.op("MAX_POOL_2D", n.shape)), "operator"),
    "mean over a channel": (TFLite(32).pad(1).conv(16, 3, 2).conv(32, zeros=0.9).mean((1, 3)), "end"),
    "no mean": (TFLite(32).pad(1).conv(16, 3, 2).conv(32, zeros=0.9), "end"),
    "reads the image": (small(lambda n: n.op("ADD", n.shape, "input")), "outside input"),
    "too few zeros": (
        TFLite(32).pad(1).conv(16, 3, 2).conv(32, zeros=0.66).mean().linear(4),
        "two thirds of the cluster",
    ),
    "no 1×1": (TFLite(32).pad(1).conv(16, 3, 2).depthwise().mean().linear(4, 0.9), "no 1×1 convolution"),
}


@pytest.mark.wide
@pytest.mark.parametrize("case", BREAKS)
def test_each_broken_rule_is_named_and_runs_dense(case: str) -> None:
    net, rule = BREAKS[case]
    found = lint(net.contents())
    assert not found.runs_sparse
    assert found.sparse_ops == ()
    assert rule in {finding.rule for finding in found.findings}
    assert all(finding.message and finding.fix for finding in found.findings)


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n.depthwise(),
        lambda n: n.depthwise(2, kernel=5),
        lambda n: n.depthwise(1, padding="SAME"),
        lambda n: n.op("ADD", n.shape, n.current),
        lambda n: n.op("HARD_SWISH", n.shape),
    ],
)
def test_what_the_rules_allow(change: Callable[[TFLite], TFLite]) -> None:
    assert lint(small(change).contents()).runs_sparse


def test_zeros_stored_dense_run_dense() -> None:
    contents = mobilenet_v1(classifier=0.9).contents()
    tensors = tuple(replace(tensor, encoding="dense") for tensor in contents.tensors)
    found = lint(replace(contents, tensors=tensors))
    assert not found.runs_sparse
    assert [finding.rule for finding in found.findings] == ["stored sparse"]


def test_a_value_of_the_cluster_read_after_its_end() -> None:
    net = TFLite(32).pad(1).conv(16, 3, 2).conv(32, zeros=0.9)
    inside = net.current
    net.mean().op("MUL", (1, 32), inside).linear(4, 0.9)
    assert {f.rule for f in lint(net.contents()).findings} == {"outside use"}


def test_a_cluster_value_as_graph_output() -> None:
    net = TFLite(32).pad(1).conv(16, 3, 2).conv(32, zeros=0.9)
    inside = net.current
    contents = net.mean().contents()
    found = lint(replace(contents, outputs=(inside, *contents.outputs)))
    assert "graph output" in {f.rule for f in found.findings}


def test_integer_arithmetic_has_no_sparse_kernels() -> None:
    contents = mobilenet_v1(classifier=0.9).contents()
    values = {name: Value(v.name, v.shape, "int8") for name, v in contents.values.items()}
    found = lint(replace(contents, values=values))
    assert not found.runs_sparse
    assert {f.rule for f in found.findings} == {"float"}


def test_other_formats_and_an_empty_file() -> None:
    contents = mobilenet_v1().contents()
    other = lint(replace(contents, format="onnx", path=Path("net.onnx")))
    assert other.findings[0].rule == "format"
    empty = lint(replace(contents, ops=(), tensors=()))
    assert not empty.runs_sparse
    assert empty.findings[0].rule == "stem"


def test_an_activation_without_a_shape_is_no_match_for_a_1x1() -> None:
    """As a damaged file has it."""
    contents = small(lambda net: net).contents()
    conv = [op for op in contents.ops if op.kind == "CONV_2D"][-1]
    values = {**contents.values, conv.inputs[0]: replace(contents.values[conv.inputs[0]], shape=())}
    assert "a grouped 1×1 convolution" in {f.message for f in lint(replace(contents, values=values)).findings}
