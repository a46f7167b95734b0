"""How often a command reads, compresses and traces: once each, however many devices and questions there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from idp_deploy import files
from idp_deploy.cli import main
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, Model, Recipe
from idp_deploy.formats.onnx.read.constants import Constants
from idp_deploy.pipeline import deploy
from idp_deploy.reading import read
from idp_deploy.shipping import export_and_verify
from idp_deploy.simulation import size
from tests.formats_here import HERE
from tests.tflite_files import adding
from tests.tiny_project.tiny import build, task

pytestmark = pytest.mark.anew
W = np.zeros((8, 8), np.float32)


def counter(monkeypatch: pytest.MonkeyPatch) -> tuple[Counter[str], Callable[[str, str], None]]:
    """Counts by name, and what has the calls of a function ("module.function") counted under one."""
    seen: Counter[str] = Counter()

    def count(target: str, name: str) -> None:
        module, _, leaf = target.rpartition(".")
        real = getattr(import_module(module), leaf)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            seen[name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(target, wrapper)

    return seen, count


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    seen, count = counter(monkeypatch)
    count("idp_deploy.formats.tflite.read.contents.read_tflite", "reads")
    count("zlib.compress", "compressions")  # gzip too goes through it
    files._compressed.cache_clear()
    size._estimate.cache_clear()
    return seen


def run(*words: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    assert left.value.code in (0, 1)


def test_simulate_on_two_targets_with_layers_reads_and_compresses_once(
    counted: Counter[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(adding(W + 1))
    run("simulate", str(path), "--target", "pixel-4", "--target", "raspberry-pi-4", "--layers")
    assert counted == {"reads": 1, "compressions": 1}


def test_check_with_transfer_budgets_on_three_targets_compresses_once_for_them(
    counted: Counter[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, limits = tmp_path / "m.tflite", tmp_path / "limits.toml"
    path.write_bytes(adding(W + 1))
    devices = ("pixel-4", "raspberry-pi-4", "pixel-6")
    limits.write_text("".join(f'[budgets.{d}.tflite]\ngzip = "1 MB"\nbrotli = "1 MB"\n' for d in devices))
    words = [word for device in devices for word in ("--target", device)]
    run("check", str(path), "--budgets", str(limits), *words)
    assert counted["reads"] == 1
    assert counted["compressions"] <= 2  # the table's estimate, and the exact number for the gate


@pytest.mark.parametrize("build", [lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())])
def test_three_formats_and_their_proofs_trace_a_model_four_times_at_most_and_ask_it_once(
    build: Callable[[], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with its own batch, once with a free one, and once in litert_torch itself."""
    pytest.importorskip("coremltools")
    traces: list[str] = []
    real = torch.export.export

    def export(*args: Any, **kwargs: Any) -> Any:
        traces.append("trace")
        return real(*args, **kwargs)

    monkeypatch.setattr("torch.export.export", export)
    seen, count = counter(monkeypatch)
    count("idp_deploy.verification._answers", "answers")
    count("idp_deploy.verification.proof.capture", "captures to prove")
    torch.manual_seed(0)
    module = build().eval()
    x = torch.randn(1, 3, 16, 16)
    _, parities = export_and_verify(CompressedModel(module, {}), (x,), tmp_path, "net", list(HERE))
    assert all(parity.passed for parity in parities.values())
    assert 2 <= len(traces) <= 4
    assert seen == {"answers": 1, "captures to prove": 1}


def test_run_with_three_formats_reads_each_file_once_and_opens_few_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("coremltools", "litert_torch"):
        pytest.importorskip(package)
    seen, count = counter(monkeypatch)
    for format, row in HERE.items():
        count(row.read.replace(":", "."), f"{format} read")
    count("torch.export.export", "traces")
    count("idp_deploy.formats.tflite.litert.open_isolated", "sessions")
    count("onnxruntime.InferenceSession", "sessions")
    recipe = Recipe(sparsity=0.5, epochs=1)
    done = deploy(
        Model(build().eval()), task(), recipe, folder=tmp_path, formats=list(HERE), targets=["pixel-4", "iphone-12"]
    )
    assert len(done.artifacts) == len(HERE)
    assert {name: seen[name] for name in seen if name.endswith("read")} == {f"{name} read": 1 for name in HERE}
    assert seen["traces"] <= 4
    assert 2 <= seen["sessions"] <= 5


@pytest.mark.parametrize("encoding", ["bitmask", "gaps8", "gaps5", "gaps4"])
def test_of_an_onnx_file_only_what_operators_read_is_evaluated(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    with torch.no_grad():
        for layer in (module[0], module[2]):
            layer.weight.view(-1)[::2] = 0
    export(CompressedModel(module.eval(), {}), "onnx", torch.zeros(1, 64), tmp_path / "m.onnx", encoding=encoding)
    evaluated: Counter[str] = Counter()
    real = Constants.value

    def value(self: Constants, name: str) -> np.ndarray:
        evaluated[name] += 1
        return real(self, name)

    monkeypatch.setattr(Constants, "value", value)
    contents = read(tmp_path / "m.onnx")
    assert [t.encoding for t in contents.tensors if len(t.shape) == 2] == [encoding] * 2
    assert set(evaluated) == {t.name for t in contents.tensors}  # and nothing on the way to them anew
    assert max(evaluated.values()) <= 2  # once more where they share one stream, for the part of it that each bears
