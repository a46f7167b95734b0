"""What a command prints under "Next:" is typed as it stands, and the command there, until nothing is left to type."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import torch

from idp_deploy.cli.app import _run

PROJECT = Path(__file__).parent / "tiny_project" / "tiny.py"
FLAGS = ["--model", "tiny:build", "--task", "tiny:task"]


@pytest.fixture(params=["flags", "configuration", "a named configuration"])
def told(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A working folder with a user's code and weights, and the flags that tell of them what no file there says."""
    shutil.copy(PROJECT, tmp_path / "tiny.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import tiny  # type: ignore[import-not-found]

    torch.manual_seed(0)
    torch.save(tiny.build().state_dict(), "my net.pt")
    if request.param == "flags":
        return FLAGS
    name = "idp-deploy.toml" if request.param == "configuration" else "of another name.toml"
    Path(name).write_text('model = "tiny:build"\ntask = "tiny:task"\n')
    return [] if request.param == "configuration" else ["--config", name]


@pytest.mark.wide
@pytest.mark.parametrize(
    ("first", "verbs"),
    [
        (["prune", "my net.pt", "--target", "0.5", "--one-shot"], ["export", "simulate"]),
        (["prune", "my net.pt", "--target", "0.5", "--epochs", "1", "--soft"], ["harden", "export", "simulate"]),
        (["prune", "my net.pt", "--pattern", "channel", "--epochs", "1"], ["shrink", "export", "simulate"]),
        (["quantize", "my net.pt", "--scheme", "int8-weights"], ["export", "simulate"]),
    ],
    ids=lambda words: words[0] if len(words) < 4 else "-".join(words[2:]),
)
def test_the_command_that_comes_next_is_typed_as_it_stands(
    first: list[str], verbs: list[str], told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run([*first, *told], debug=False) == 0
    for verb in verbs:
        words = _next(capsys.readouterr().out)
        assert words[:2] == ["idp-deploy", verb]
        assert _run(["onnx" if word == "all" else word for word in words[1:]], debug=False) == 0


@pytest.mark.wide
@pytest.mark.parametrize("format", ["onnx", "coreml", "tflite"])
@pytest.mark.parametrize("told", ["flags"], indirect=True)
def test_a_file_is_simulated_on_a_device_that_runs_it(
    format: str, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["export", "my net.pt", "--to", format, *told], debug=False) == 0
    assert _run(_next(capsys.readouterr().out)[1:], debug=False) == 0
    assert "not estimable" not in capsys.readouterr().out


def test_shapes_that_were_told_are_told_again(told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prune", "my net.pt", "--target", "0.5", "--one-shot", *told, "--inputs", "2x3x16x16"]
    assert _run(command, debug=False) == 0
    words = _next(capsys.readouterr().out)
    assert words[words.index("--inputs") + 1] == "2x3x16x16"


@pytest.mark.parametrize("told", ["configuration"], indirect=True)
@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", ["export", "my net.pruned.pt", "--to", "all"]),
        ('[export]\nto = ["onnx"]\n', ["export", "my net.pruned.pt"]),
        ('[quantize]\nscheme = "int8-weights"\n', ["quantize", "my net.pruned.pt"]),
    ],
    ids=["nothing more", "formats", "a scheme"],
)
def test_what_is_configured_comes_next(
    table: str, words: list[str], told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("idp-deploy.toml").open("a") as file:
        file.write(table)
    assert _run(["prune", "my net.pt", "--target", "0.5", "--one-shot", *told], debug=False) == 0
    assert _next(capsys.readouterr().out) == ["idp-deploy", *words]


def _next(printed: str) -> list[str]:
    """The words of the command under "Next:", which a narrow terminal may break."""
    return shlex.split(printed[printed.index("Next: ") + len("Next: ") :].replace("\n", " "))
