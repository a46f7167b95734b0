"""inspect --runtime NAME: each rule met by a file that has what it speaks of, and by no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from bench.compat_onnx import TOOLS, is_silent, table
from bench.compat_onnx_cases import NETWORKS
from idp_deploy.cli.app import app
from idp_deploy.errors import UsageError
from idp_deploy.exporting import export
from idp_deploy.formats.onnx.runtimes import VERDICTS, runtimes
from idp_deploy.formats.onnx.tools import lint
from idp_deploy.quantization import quantize
from tests.zoo import ZOO, pruned


class Smoothed(nn.Module):
    """Shrinks an image as torchvision does."""

    def forward(self, image: Tensor) -> Tensor:
        return F.interpolate(image, size=(3, 3), mode="bilinear", antialias=True)


ROOT = Path(__file__).parents[1]
CONVOLUTIONS = (
    "mobilenet_v1", "mobilenet_v2", "mobilenet_v3", "efficientnet_lite", "resnet18", "resnet50", "squeezenet",
    "shufflenet_v2", "densenet", "convnext", "unet", "upsampler", "segmenter", "detector", "super_resolution",
    "feature_pyramid", "decoder",
)  # fmt: skip
RESULTS = max((ROOT / "bench" / "results").glob("compat_onnx-*.json"))
COMPOSED_RESULTS = RESULTS.with_name("compat_onnx_composed-2026-12-01.json")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(network, encoding) → its file, exported once."""
    folder, done = tmp_path_factory.mktemp("runtimes"), {}

    def path(network: str, encoding: str) -> Path:
        if (network, encoding) not in done:
            model, inputs = pruned(NETWORKS[network]), NETWORKS[network].example_inputs()
            done[network, encoding] = export(
                model, "onnx", inputs, folder / f"{network}-{encoding}.onnx", encoding=encoding
            ).path
        return done[network, encoding]

    return path


def results() -> list[dict[str, Any]]:
    """The rows of the matrix: the zoo with one network a consumer, and the composed networks."""
    rows: list[dict[str, Any]] = []
    for path in (RESULTS, COMPOSED_RESULTS):
        rows += json.loads(path.read_text())["rows"]
    return rows


def measured() -> list[tuple[str, str, str, str]]:
    """Every float32 row of the matrix whose tool has rules: runtime, network, encoding, verdict."""
    rows = results()
    runners = {row["tool"]: TOOLS[row["tool"]].runner for row in rows}
    names = {
        title: name
        for title, runner in runners.items()
        for name in runtimes()
        if name in (runner, runner.removesuffix("-new"))
    }
    assert set(names.values()) == set(runtimes())
    return [
        (names[row["tool"]], row["network"], encoding, verdict)
        for row in rows
        for verdict, encodings in row["verdicts"].items()
        for encoding in encodings
        if row["tool"] in names and row["scheme"] == "float32" and row["network"] in ("mobilenet_v2", "gru", "conv")
    ]


def test_nothing_was_wrong_without_a_word() -> None:
    """Every network, scheme and encoding in every tool: a wrong result was told by its lint."""
    rows = results()
    assert {row["network"] for row in rows} == set(NETWORKS)
    assert [row for row in rows if is_silent(row)] == []


def test_networks_of_convolutions_are_right_in_the_tools_that_phones_and_servers_use() -> None:
    rows = results()
    wanted = {"OpenVINO 2026.4.1", "OpenCV 5.0 DNN, new engine", "onnxruntime-web 1.30.0, wasm"}
    for row in rows:
        if row["tool"] in wanted and row["network"] in CONVOLUTIONS and row["scheme"] == "float32":
            assert "auto" in row["verdicts"]["right"], row


@pytest.mark.wide
@pytest.mark.parametrize(("runtime", "network", "encoding", "verdict"), dict.fromkeys(measured()))
def test_a_file_of_ours_gets_the_verdict_of_the_matrix(
    runtime: str, network: str, encoding: str, verdict: str, exported: Any
) -> None:
    found = lint(exported(network, encoding), runtime)
    unopened = ("refuses", "crashes")  # a tool may do either with what it does not know, or more than it should
    assert found.verdict == verdict or (found.verdict in (*unopened, "wrong") and verdict in unopened)
    assert bool(found.findings) is (verdict != "right")


def test_an_int8_file_is_told_what_mnn_does_with_it(tmp_path: Path) -> None:
    entry = ZOO["keyword_spotter"]
    model = quantize(pruned(entry), "int8", example_inputs=entry.example_inputs())
    path = export(model, "onnx", entry.example_inputs(), tmp_path / "a.onnx", encoding="dense").path
    assert lint(path, "mnn").verdict == "wrong"  # refused, or worse
    assert lint(path, "openvino").verdict == "right"


def test_the_table_in_the_docs_is_that_of_the_results() -> None:
    assert table(json.loads(RESULTS.read_text())["rows"]) in (ROOT / "docs" / "elsewhere.md").read_text()


def foreign(path: Path, kind: str, *, of_input: bool = False) -> Path:
    """Another tool's file: `kind` of two uint8 vectors, behind it a product with the input; or of the input itself."""
    operands = [numpy_helper.from_array(np.array(v, np.uint8), n) for n, v in (("a", [6, 9, 8]), ("b", [1, 2, 1]))]
    options = {"direction": "RIGHT"} if kind == "BitShift" else {}
    nodes = [helper.make_node(kind, ["x" if of_input else "a", "b"], ["c"], **options)]
    nodes.append(helper.make_node("Cast", ["c"], ["y" if of_input else "w"], to=TensorProto.FLOAT))
    if not of_input:
        nodes.append(helper.make_node("Mul", ["x", "w"], ["y"]))
    kinds = (TensorProto.UINT8 if of_input else TensorProto.FLOAT, TensorProto.FLOAT)
    x, y = (helper.make_tensor_value_info(n, k, [3]) for n, k in zip("xy", kinds, strict=True))
    graph = helper.make_graph(nodes, "g", [x], [y], operands)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("kind", "of_input", "verdict"),
    [
        ("BitShift", False, "wrong"),
        ("BitShift", True, "right"),  # only weights are known to come out wrong
        ("Div", False, "wrong"),
        ("Div", True, "wrong"),
        ("Mul", False, "right"),
    ],
)
def test_operators_of_other_tools_are_found_where_they_matter(
    kind: str, of_input: bool, verdict: str, tmp_path: Path
) -> None:
    assert lint(foreign(tmp_path / "a.onnx", kind, of_input=of_input), "openvino").verdict == verdict


@pytest.mark.wide
@pytest.mark.parametrize(
    ("layer", "extent", "verdict"),
    [
        (nn.AvgPool2d(3, 2, 1, ceil_mode=True), 6, "wrong"),
        (nn.AvgPool2d(3, 2, 1, ceil_mode=True), 7, "right"),  # no window reaches beyond the border
        (nn.AvgPool2d(3, 3, 1, ceil_mode=True), 5, "right"),  # the last one would start in it and is left out
        (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), 6, "right"),
        (nn.AvgPool2d(3, 2, ceil_mode=True), 6, "right"),
        (nn.Upsample(3, mode="bilinear"), 6, "right"),
        (Smoothed(), 6, "wrong"),
    ],
)
def test_a_rule_asks_for_numbers_of_an_operator(layer: nn.Module, extent: int, verdict: str, tmp_path: Path) -> None:
    image = torch.randn(1, 1, extent, extent)
    torch.onnx.export(layer.eval(), (image,), tmp_path / "a.onnx", dynamo=True, opset_version=18, verbose=False)
    assert lint(tmp_path / "a.onnx", "openvino").verdict == verdict


@pytest.mark.parametrize(
    ("words", "extent", "verdict"),
    [
        ({"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 6, "wrong"),
        ({"kernel_shape": [2, 2]}, 7, "wrong"),
        ({"kernel_shape": [2, 2]}, 6, "right"),  # whole windows
        ({"kernel_shape": [2, 2], "count_include_pad": 0}, 7, "right"),
        ({"kernel_shape": [2, 2], "ceil_mode": 0}, 7, "right"),
    ],
)
@pytest.mark.parametrize("tool", ["iree", "ncnn"])
def test_means_over_what_lies_beyond_an_image_are_named(
    tool: str, words: dict[str, Any], extent: int, verdict: str, tmp_path: Path
) -> None:
    given = {"strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1} | words
    node = helper.make_node("AveragePool", ["x"], ["y"], **given)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, extent, extent])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 19)])
    onnx.save(model, tmp_path / "a.onnx")
    assert lint(tmp_path / "a.onnx", tool).verdict == verdict


def test_a_comparison_with_one_number_is_right_in_mnn(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])]
    ends += [helper.make_tensor_value_info("y", TensorProto.BOOL, [3, 4])]
    graph = helper.make_graph(
        [helper.make_node("Less", ["x", "k"], ["y"])], "g", ends[:1], ends[1:],
        [numpy_helper.from_array(np.float32(0), "k")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "net.onnx")
    assert lint(tmp_path / "net.onnx", "mnn").verdict == "right"


@pytest.mark.parametrize(
    ("operator", "attributes", "verdict"),
    [("LRN", {"size": 3}, "wrong"), ("LpNormalization", {"p": 1}, "wrong"), ("LpNormalization", {}, "right")],
)
def test_norms_that_the_reference_gets_wrong_are_named(
    operator: str, attributes: dict[str, int], verdict: str, tmp_path: Path
) -> None:
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 2, 2]) for name in "xy")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, tmp_path / "a.onnx")
    assert lint(tmp_path / "a.onnx", "reference").verdict == verdict


def test_rules_hold_in_a_file_whose_types_cannot_be_told(tmp_path: Path) -> None:
    model = onnx.load(foreign(tmp_path / "a.onnx", "BitShift"))
    model.graph.node.insert(0, helper.make_node("Add", ["a", "x"], ["odd"]))  # uint8 and float
    model.graph.node.append(helper.make_node("Unheard", ["odd"], ["of"], domain="elsewhere"))
    onnx.save(model, tmp_path / "a.onnx")
    assert lint(tmp_path / "a.onnx", "openvino").verdict == "wrong"


def test_the_worst_finding_is_the_verdict(exported: Any) -> None:
    found = lint(exported("mobilenet_v2", "auto"), "opencv-classic")
    ranks = [VERDICTS.index(finding.verdict) for finding in found.findings]
    assert ranks == sorted(ranks)
    assert found.verdict == found.findings[0].verdict


def test_every_rule_is_of_a_version_that_was_run() -> None:
    pinned = {tool.runner: (*tool.requirements, tool.npm.replace("@", "==")) for tool in TOOLS.values()}
    runners = {"opencv": "opencv-new"}
    for name, runtime in runtimes().items():
        assert any(f"=={runtime.version}" in r for r in pinned[runners.get(name, name)]), name
        assert (ROOT / runtime.source.partition(";")[0]).exists()
        assert all(rule.verdict in VERDICTS and rule.fix and rule.message for rule in runtime.rules)


def test_inspect_says_it_and_names_the_nearest_of_an_unknown_runtime(exported: Any, tmp_path: Path) -> None:
    path = str(exported("gru", "gaps8"))
    said = CliRunner().invoke(app, ["inspect", path, "--runtime", "openvino"])
    assert said.exit_code == 0
    assert "OpenVINO 2026.4.1: refuses" in said.output
    unknown = CliRunner().invoke(app, ["inspect", path, "--runtime", "openvno"])
    assert isinstance(unknown.exception, UsageError)
    assert "did you mean 'openvino'?" in str(unknown.exception)


# ── a tool as a target: its budgets fail where it does not run the file as it is meant ──────────────────────────────


def checked(path: Path, budgets: str, folder: Path) -> tuple[int, dict[str, Any]]:
    (folder / "budgets.toml").write_text(budgets)
    done = CliRunner().invoke(app, ["check", str(path), "--budgets", str(folder / "budgets.toml"), "--json"])
    return done.exit_code, json.loads(done.stdout)


@pytest.mark.wide
@pytest.mark.parametrize(
    ("tool", "network", "encoding", "code"),
    [
        ("openvino", "mobilenet_v2", "auto", 0),
        ("openvino", "mobilenet_v2", "sparse-initializer", 1),
        ("openvino", "gru", "gaps8", 1),
        ("openvino", "gru", "dense", 0),
        ("mnn", "mobilenet_v2", "bitmask", 1),
        ("mnn", "mobilenet_v2", "portable", 0),
        ("onnxruntime", "gru", "auto", 0),
    ],
)
def test_a_budget_for_a_tool_holds_only_where_it_runs_the_file(
    tool: str, network: str, encoding: str, code: int, exported: Any, tmp_path: Path
) -> None:
    path = exported(network, encoding)
    exit_code, said = checked(path, f'[budgets.{tool}.onnx]\nsize = "1 MB"\n', tmp_path)
    (check,) = said["checks"]
    assert exit_code == code
    assert check["verdict"] == ("fail" if code else "pass")
    assert check["value"] == path.stat().st_size
    if code:
        assert check["detail"].startswith(f"{runtimes()[tool].title} {runtimes()[tool].version}: ")
        assert check["fix"]


def test_a_silently_wrong_file_fails_its_budget(tmp_path: Path) -> None:
    code, said = checked(foreign(tmp_path / "a.onnx", "BitShift"), '[budgets.openvino.onnx]\nsize = "1 MB"', tmp_path)
    assert code == 1
    assert ": wrong: " in said["checks"][0]["detail"]


def test_a_tool_has_no_latency_and_says_so(exported: Any, tmp_path: Path) -> None:
    code, said = checked(exported("gru", "dense"), '[budgets.mnn.onnx]\nlatency = "1 ms"', tmp_path)
    assert code == 1
    assert said["checks"][0]["verdict"] == "not estimable"
    assert "runs on many devices" in said["checks"][0]["detail"]


def test_a_tool_can_be_looked_up_like_a_device(exported: Any) -> None:
    shown = CliRunner().invoke(app, ["targets", "openvino"])
    assert shown.exit_code == 0, shown.exception
    assert "OpenVINO 2026.4.1" in shown.output
    near = CliRunner().invoke(app, ["check", str(exported("gru", "dense")), "--target", "openvno"])
    assert isinstance(near.exception, UsageError)
    assert "openvino" in str(near.exception)
