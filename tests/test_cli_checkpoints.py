"""Checkpoints of other tools on the command line: `--weights-key` everywhere, averages said, files left intact."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrizations, prune

from idp_deploy.cli.app import _run
from idp_deploy.errors import ExitCode
from idp_deploy.reading import read

PROJECT = Path(__file__).parent / "tiny_project" / "tiny.py"


def call(*arguments: str) -> int:
    return _run(list(arguments), debug=False)


@pytest.fixture
def states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Tensor]]:
    """A working folder with a user's code and configuration; raw weights and an average of them."""
    shutil.copy(PROJECT, tmp_path / "tiny.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import tiny  # type: ignore[import-not-found]

    Path("idp-deploy.toml").write_text('model = "tiny:build"\ntask = "tiny:task"\n[export]\nto = ["onnx"]\n')
    raw = tiny.build().state_dict()
    return {"raw": raw, "ema": {name: value + 1 if value.is_floating_point() else value for name, value in raw.items()}}


def stored(path: str) -> list[Tensor]:
    return [torch.from_numpy(t.values().copy()) for t in read(Path(path)).tensors if len(t.shape) > 1]


def test_raw_weights_beside_an_average_are_taken_and_said(
    states: dict[str, dict[str, Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": states["raw"], "state_dict_ema": states["ema"]}, "m.pt")
    torch.save(states["raw"], "raw.pt")
    torch.save(states["ema"], "averaged.pt")
    for name in ("m", "raw", "averaged"):
        assert call("export", f"{name}.pt") == 0
    said = capsys.readouterr().err
    assert "averaged ones (EMA) that differ stand under 'state_dict_ema': --weights-key state_dict_ema takes" in said
    assert all(torch.equal(a, b) for a, b in zip(stored("m.onnx"), stored("raw.onnx"), strict=True))
    assert call("export", "m.pt", "--weights-key", "state_dict_ema") == 0
    assert all(torch.equal(a, b) for a, b in zip(stored("m.onnx"), stored("averaged.onnx"), strict=True))
    assert "--weights-key" not in capsys.readouterr().err
    assert call("verify", "m.onnx", "m.pt", "--weights-key", "state_dict_ema") == 0
    assert call("verify", "m.onnx", "m.pt") == ExitCode.GATE


COMMANDS: dict[str, tuple[str, ...]] = {
    "prune": ("prune", "m.pt", "--one-shot", "--target", "0.5", "-o", "p.pt"),
    "quantize": ("quantize", "m.pt", "--scheme", "fp16", "-o", "q.pt"),
    "export": ("export", "m.pt", "-o", "out"),
}


@pytest.mark.wide
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_two_that_fit_are_named_and_the_key_or_configuration_chooses(
    command: tuple[str, ...], states: dict[str, dict[str, Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"student": states["raw"], "teacher": states["ema"]}, "m.pt")
    before = Path("m.pt").read_bytes()
    assert call(*command) == ExitCode.USAGE
    assert "under 'student', under 'teacher' — choose one: --weights-key student" in capsys.readouterr().err
    assert call(*command, "--weights-key", "studnt") == ExitCode.USAGE
    assert "did you mean 'student'" in capsys.readouterr().err
    assert call(*command, "--weights-key", "student") == 0
    Path("idp-deploy.toml").write_text('weights-key = "student"\n' + Path("idp-deploy.toml").read_text())
    assert call(*command) == 0
    assert Path("m.pt").read_bytes() == before


def test_a_configured_key_is_no_obstacle_for_our_own_checkpoints(states: dict[str, dict[str, Tensor]]) -> None:
    torch.save({"student": states["raw"], "teacher": states["ema"]}, "m.pt")
    Path("idp-deploy.toml").write_text('weights-key = "student"\n' + Path("idp-deploy.toml").read_text())
    assert call("prune", "m.pt", "--one-shot", "--target", "0.5") == 0
    assert call("export") == 0
    assert call("export", "--weights-key", "teacher") == ExitCode.USAGE


def test_the_working_folder_can_be_the_checkpoint(states: dict[str, dict[str, Tensor]]) -> None:
    torch.save(states["raw"], "pytorch_model.bin")
    assert call("prune", ".", "--one-shot", "--target", "0.5", "-o", "p.pt") == 0
    assert call("export", ".", "-o", "out") == 0


def test_masks_of_torch_prune_and_weight_norm_ship(states: dict[str, dict[str, Tensor]]) -> None:
    import tiny

    net = tiny.build()
    layers = [m for m in net.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    for layer in layers:
        prune.l1_unstructured(layer, "weight", 0.75)
    torch.save(net.state_dict(), "masked.pt")
    assert call("export", "masked.pt") == 0
    shares = [float((t == 0).float().mean()) for t in stored("masked.onnx")]
    assert shares
    assert min(shares) > 0.7
    normed = tiny.build()
    for layer in normed.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            parametrizations.weight_norm(layer)
    torch.save(normed.state_dict(), "normed.pt")
    assert call("prune", "normed.pt", "--one-shot", "--target", "0.5") == 0
    assert call("export") == 0
