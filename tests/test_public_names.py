"""The names that other people's code holds on to, with the words they had. A change here is a major version."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import idp_deploy
from idp_deploy.errors import GateError, UsageError
from idp_deploy.flow import Interval
from idp_deploy.rendering import RENDERERS
from tests.reports import report

# name → parameters, in order; * stands for "by name from here"
WORDS = {
    "check": "artifacts * targets budgets baseline allow_missing",
    "compare": "model task recipe * methods sparsities seeds options",
    "deploy": "model task recipe * to output stem targets budgets scheme values keep_float encoding one_shot inputs "
    "announce recipe_fields",
    "diff": "before after targets",
    "export": "model format example_inputs path * encoding options",
    "gate": "budgets evidence * strict",
    "harden": "masked task",
    "inspect": "path",
    "load_checkpoint": "path factory",
    "load_target": "name",
    "load_task": "spec",
    "one_shot": "model recipe * example_inputs recipe_fields",
    "prune": "model task recipe * progress checkpoint_dir resume recipe_fields",
    "quantize": "model scheme * task example_inputs options",
    "read": "path",
    "render": "result format",
    "restore": "source path * encoding",
    "save_checkpoint": "model path",
    "shrink": "model example_inputs",
    "simulate": "artifact target options",
    "targets": "",
    "verify": "artifact model example_inputs * task options",
}
NOUNS = {
    "Artifact", "Budget", "CompressedModel", "Contents", "Estimate", "MaskedModel", "Model", "Parity", "Pruner",
    "Recipe", "Report", "Task",
}  # fmt: skip
COMMANDS = {
    "prune", "quantize", "export", "verify", "simulate", "inspect", "check", "compare", "diff", "restore", "harden",
    "shrink", "targets",
}  # fmt: skip


def words(function: object) -> str:
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    said: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in said:
            said.append("*")
        said.append(parameter.name)
    return " ".join(said)


def test_the_public_names_are_these() -> None:
    assert set(idp_deploy.__all__) == set(WORDS) | NOUNS | {"load_model"}
    assert set(dir(idp_deploy)) >= set(idp_deploy.__all__)
    assert all(getattr(idp_deploy, name).__doc__ for name in idp_deploy.__all__)


@pytest.mark.parametrize("name", WORDS)
def test_a_verb_takes_the_words_it_took(name: str) -> None:
    assert words(getattr(idp_deploy, name)) == WORDS[name]


@pytest.mark.parametrize("name", sorted(WORDS))
def test_annotations_take_what_the_verb_takes_and_name_what_it_returns(name: str) -> None:
    """Whoever checks a script with mypy may give an artifact for a path, and one tensor for the inputs."""
    signature = inspect.signature(getattr(idp_deploy, name))
    assert signature.return_annotation not in ("Any", "object", signature.empty)
    for parameter in signature.parameters.values():
        assert "Path | str" not in parameter.annotation
        assert "tuple[Any, ...]" not in parameter.annotation or "Tensor" in parameter.annotation


def test_every_stage_of_the_command_line_is_a_verb() -> None:
    from idp_deploy.cli.app import COMMANDS as CLI

    assert set(CLI) >= COMMANDS
    assert set(WORDS) >= COMMANDS


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(str(idp_deploy.__file__)).parent / "py.typed").exists()
    for name in WORDS:
        signature = inspect.signature(getattr(idp_deploy, name))
        empty = inspect.Parameter.empty
        assert signature.return_annotation is not empty, name
        assert all(parameter.annotation is not empty for parameter in signature.parameters.values()), name


def test_what_asks_about_files_alone_imports_no_torch() -> None:
    code = "import idp_deploy as i, sys; i.check, i.simulate, i.diff; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10)).eval()
    sparse = idp_deploy.one_shot(net, sparsity=0.8)
    path = tmp_path_factory.mktemp("file") / "net.onnx"
    idp_deploy.export(sparse, "onnx", (torch.zeros(1, 3, 8, 8),), str(path))
    return path


def test_a_plain_module_goes_through_with_its_zeros_as_they_stand(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8)).eval()
    with torch.no_grad():
        net[1].weight[::2] = 0  # type: ignore[index,union-attr]
    example = (torch.zeros(1, 16),)
    artifact = idp_deploy.export(net, "onnx", example, tmp_path / "a.onnx")
    parity = idp_deploy.verify(artifact.path, net, example)
    assert parity.passed
    assert parity.weights[0].zeros == 64


def test_deploy_goes_from_a_plain_module_to_a_gated_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    done = idp_deploy.deploy(
        net,
        sparsity=0.8,
        one_shot=True,
        inputs=(torch.zeros(1, 64),),
        output=tmp_path,
        stem="net",
        budgets={"pixel-4": {"onnx": {"size": "100 kB", "sparsity": "80 %"}}},
    )
    assert done.report.passed
    assert [artifact.path for artifact in done.artifacts] == [tmp_path / "net.pruned.onnx"]
    assert "Run: " in str(done._repr_html_())
    assert idp_deploy.check(done.artifacts[0].path, targets=["pixel-4"]).files[0].sparsity >= 0.8


def test_verbs_take_text_for_paths_and_devices(file: Path) -> None:
    assert idp_deploy.simulate(str(file), "pixel-4").latency_ms
    verdict = idp_deploy.check(str(file), budgets={"pixel-4": {"onnx": {"size": "1 B"}}})
    assert not verdict.passed
    assert verdict.checks[0].value == file.stat().st_size
    assert idp_deploy.check([file], targets=["pixel-4"]).passed
    assert not idp_deploy.diff(str(file), file, ["pixel-4"]).changed
    assert "pixel-4" in {target.name for target in idp_deploy.targets()}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda file: idp_deploy.check(file), "no target"),
        (lambda file: idp_deploy.check(file, budgets={"pixel-4": {"onxx": {"size": "1 B"}}}), "unknown format 'onxx'"),
        (lambda file: idp_deploy.simulate(file, "no-such"), "unknown target"),
        (lambda file: idp_deploy.one_shot(nn.Linear(2, 2), sparsty=0.5), "no 'sparsty'"),
        (lambda file: idp_deploy.render(3), "no report of an int"),
    ],
)
def test_what_cannot_be_is_said_as_on_the_command_line(call: object, says: str, file: Path) -> None:
    with pytest.raises(UsageError, match=says):
        call(file)  # type: ignore[operator]


@pytest.mark.parametrize("format", RENDERERS)
def test_every_report_can_be_had_from_what_a_verb_returned(format: str, file: Path) -> None:
    written = idp_deploy.render(idp_deploy.check(file, targets=["pixel-4"]), format)
    assert written
    if format == "json":
        assert json.loads(str(written))["estimates"][0]["target"] == "pixel-4"


def test_a_notebook_shows_results_as_pages_that_leave_the_notebook_alone(file: Path) -> None:
    estimate = idp_deploy.simulate(file, "pixel-4")
    results = [
        report(),
        estimate,
        replace(estimate, latency_ms=Interval(1, 2, 3)),
        idp_deploy.inspect(file),
        idp_deploy.verify(file),
        idp_deploy.diff(file, file),
    ]
    for result in results:
        page = result._repr_html_()
        assert page is not None
        assert "<h1>" in page
        assert "<body" not in page
        style = page.partition("<style>")[2].partition("</style>")[0]
        rules = [rule for rule in style.splitlines() if rule.startswith(("body", "h1", "table", "*", ":root"))]
        assert not rules


def test_a_baseline_that_holds_nothing_back_fails_in_python_too(tmp_path: Path) -> None:
    file, baseline = tmp_path / "m.tflite", tmp_path / "earlier.json"
    pytest.importorskip("ai_edge_litert", reason="writes a TFLite file")
    from tests.tflite_files import adding

    file.write_bytes(adding(np.zeros((8, 8), np.float32)))
    baseline.write_text('{"checks": []}')
    budgets = {"pixel-4": {"tflite": {"size": "1 MB"}}}
    with pytest.raises(GateError, match="holds no checks"):
        idp_deploy.check(file, budgets=budgets, baseline=baseline)
    assert idp_deploy.check(file, budgets=budgets, baseline=baseline, allow_missing=True).passed
