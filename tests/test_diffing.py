"""diff: two files layer by layer, across formats and tools; two reports budget by budget."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from idp_deploy.cli.app import _run
from idp_deploy.diffing import MetricChange, diff, diff_reports
from idp_deploy.errors import FileError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, Model, Recipe
from idp_deploy.pruning import one_shot
from idp_deploy.rendering.differences import difference_document
from idp_deploy.rendering.document import Chart
from idp_deploy.simulation.targets import load_target

EXAMPLE = (torch.zeros(1, 3, 12, 12),)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 1), nn.Flatten(), nn.Linear(6400, 10)).eval()


def written(path: Path, sparsity: float = 0.0, encoding: str = "auto", module: nn.Module | None = None) -> Path:
    model = Model(module or network())
    pruned = one_shot(model, Recipe(sparsity=sparsity)) if sparsity else CompressedModel(model.module, {})
    export(pruned, path.suffix[1:].replace("mlpackage", "coreml"), EXAMPLE, path, encoding=encoding)
    return path


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("files") / "a.onnx")


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("files") / "b.onnx", 0.9)


def test_the_same_file_has_nothing_to_say(pruned: Path) -> None:
    found = diff(pruned, pruned, [load_target("pixel-4")])
    assert [layer.kind for layer in found.layers] == ["same"] * 3
    assert not found.changed


def test_a_pruned_model_differs_in_the_weights_of_every_layer(dense: Path, pruned: Path) -> None:
    found = diff(dense, pruned, [load_target("pixel-4")])
    assert {layer.kind for layer in found.layers} == {"weights"}
    assert [layer.name for layer in found.layers] == ["0", "2", "4"]
    assert found.after.facts.sparsity == pytest.approx(0.9, abs=0.01)
    assert found.after.facts.size_bytes < found.before.facts.size_bytes
    times = [side.estimates[0].latency_ms for side in (found.before, found.after)]
    assert all(times)
    document = difference_document(found)
    assert next(row for row in document.tables[0].rows if row[0] == "zeros of prunable")[-1] == "+90.0 points"
    sizes = document.pictures[0]
    assert isinstance(sizes, Chart)
    assert (sizes.title, sizes.rows[0]) == ("Size", "on disk")
    (on_disk, *_) = sizes.series["after"]
    assert (on_disk.beside, on_disk.value) == (found.before.facts.size_bytes, found.after.facts.size_bytes)
    zeros = next(one for one in document.pictures if isinstance(one, Chart) and one.title == "Zeros of each layer")
    assert zeros.end == 1.0  # a share is one of the whole


def test_only_the_layer_that_was_trained_on_has_changed_weights(dense: Path, tmp_path: Path) -> None:
    module = network()
    with torch.no_grad():
        module[2].weight += 0.01  # type: ignore[operator]
    found = diff(dense, written(tmp_path / "b.onnx", module=module))
    assert {layer.name: layer.kind for layer in found.layers} == {"0": "same", "2": "weights", "4": "same"}


@pytest.mark.wide
@pytest.mark.parametrize("suffix", ["tflite", "mlpackage"])
def test_formats_of_one_model_differ_in_how_they_store_it_alone(suffix: str, pruned: Path, tmp_path: Path) -> None:
    pytest.importorskip({"tflite": "litert_torch", "mlpackage": "coremltools"}[suffix])
    found = diff(pruned, written(tmp_path / f"b.{suffix}", 0.9))
    assert len(found.layers) == 3
    assert {layer.kind for layer in found.layers} <= {"stored", "same"}


def test_layers_without_names_are_matched_by_their_entries_in_order(dense: Path, tmp_path: Path) -> None:
    model = onnx.load(dense)
    names = {initializer.name: f"onnx::{i}" for i, initializer in enumerate(model.graph.initializer)}
    for initializer in model.graph.initializer:
        initializer.name = names[initializer.name]
    for i, node in enumerate(model.graph.node):
        node.name = f"op{i}"
        for j, name in enumerate(node.input):
            node.input[j] = names.get(name, name)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "b.onnx")
    found = diff(dense, tmp_path / "b.onnx")
    assert [layer.kind for layer in found.layers] == ["same"] * 3
    assert [layer.name for layer in found.layers] == ["0", "2", "4"]


def test_another_architecture_is_told_by_what_was_added_and_removed(dense: Path, tmp_path: Path) -> None:
    other = nn.Sequential(*list(network())[:3], nn.Flatten(), nn.Linear(6400, 20), nn.Linear(20, 10)).eval()
    found = diff(dense, written(tmp_path / "b.onnx", module=other))
    assert {layer.name: layer.kind for layer in found.layers} == {"0": "same", "2": "same", "4": "shape", "5": "added"}


def test_a_weight_that_is_not_a_number_is_a_change(dense: Path, tmp_path: Path) -> None:
    model = onnx.load(dense)
    weight = next(i for i in model.graph.initializer if len(i.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "b.onnx")
    assert diff(dense, tmp_path / "b.onnx").changed


def report(path: Path, **values: float | None) -> Path:
    rows = [{"target": "pixel-4", "format": "onnx", "metric": name, "value": value} for name, value in values.items()]
    path.write_text(json.dumps({"checks": rows}))
    return path


def test_reports_are_held_against_each_other_budget_by_budget(tmp_path: Path) -> None:
    old = report(tmp_path / "a.json", size=100, latency=2.0, sparsity=0.9, error=None)
    new = report(tmp_path / "b.json", size=80, latency=3.0, sparsity=0.8, memory=5)
    kinds = {change.metric: change.kind for change in diff_reports(old, new)}
    assert kinds == {"size": "better", "latency": "worse", "sparsity": "worse", "error": "same", "memory": "added"}
    assert MetricChange("t", "f", "size", 0.0, 5.0).ratio is None


@pytest.mark.parametrize("text", ["[]", "{}", '{"checks": [{"metric": "size"}]}', '{"checks": 3}', "x"])
def test_what_is_no_report_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(FileError, match=r"a\.json is not a report") as raised:
        diff_reports(tmp_path / "a.json", tmp_path / "a.json")
    assert "Error(" not in str(raised.value)


def test_the_command_line_tells_files_from_reports(
    dense: Path, pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (dense, pruned):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    old, new = report(tmp_path / "a.json", size=100), report(tmp_path / "b.json", size=120)
    assert _run(["diff", "a.onnx", "b.onnx", "--target", "pixel-4"], debug=False) == 0
    said = capsys.readouterr().out
    assert "layers that changed: 3 of 3" in said
    assert "latency on pixel-4" in said
    assert _run(["diff", old.name, new.name], debug=False) == 0
    assert "+20.0 %" in capsys.readouterr().out
    assert _run(["diff", "a.onnx", "b.json"], debug=False) == 2
    assert _run(["diff", "a.onnx", "c.onnx"], debug=False) == 3
    assert _run(["diff", "a.onnx", "b.onnx", "--json"], debug=False) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert [layer["kind"] for layer in layers] == ["weights"] * 3
