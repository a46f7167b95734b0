"""What is typed on the command line otherwise than its help says it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli_project import call


@pytest.mark.wide
@pytest.mark.parametrize(
    ("line", "suffixes"),
    [
        ("export model.pt --to onnx,tflite -o out", {".onnx", ".tflite"}),
        ("export model.pt --to ONNX -o out", {".onnx"}),
        ("quantize model.pt --scheme FP16 -o out/net.pt", {".pt"}),
    ],
)
def test_words_are_taken_as_people_write_them(line: str, suffixes: set[str], project: Path) -> None:
    assert call(*line.split()) == 0
    assert {path.suffix for path in (project / "out").iterdir()} == suffixes


def test_several_devices_in_one_word(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("export", "model.pt", "--to", "onnx") == 0
    capsys.readouterr()
    assert call("simulate", "model.onnx", "--target", "pixel-4, iphone-12", "--json") == 0
    assert {row["target"] for row in json.loads(capsys.readouterr().out)["estimates"]} == {"pixel-4", "iphone-12"}


def test_a_file_and_its_weights_the_other_way_round_are_named(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("export", "model.pt", "--to", "onnx") == 0
    capsys.readouterr()
    assert call("verify", "model.pt", "model.onnx") == 2
    assert "the file comes first: idp-deploy verify model.onnx model.pt" in capsys.readouterr().err
    assert call("inspect", "model.pt") == 3
    assert "'idp-deploy export model.pt --to onnx' makes one of weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (
            "check m.onnx --budgets m.onnx",
            2,
            "m.onnx is no configuration: it holds bytes that are no text — name a file",
        ),
        (
            "check m.onnx --target pixel-4 --baseline m.onnx",
            3,
            "not a report of 'check --json': it holds bytes that are",
        ),
        ("check m.onnx --budgets none.toml", 2, "no such configuration file: none.toml — run 'idp-deploy init'"),
        (
            "export model.pt --to onxx",
            2,
            "unknown format 'onxx' — did you mean 'onnx'? --to takes onnx, coreml, tflite",
        ),
        ("export model.pt --to xyz", 2, "unknown format 'xyz' — --to takes onnx, coreml, tflite"),
        ("prune model.pt --one-shot --target 0,9", 2, "--target 0,9 is neither a share nor a device — write 0.9"),
        ("prune model.pt --one-shot --target 90,5%", 2, "is neither a share nor a device — write 90.5%"),
        ("prune model.pt --one-shot --target 0.5 --pattern channels", 2, "did you mean 'channel'? known are"),
        ("prune model.pt --one-shot --target 0.5 --method magnitud", 2, "did you mean 'magnitude'? known are"),
    ],
)
def test_a_slip_is_told_with_what_was_meant(
    line: str, code: int, said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "m.onnx").write_bytes(b"\x08\x08\xb6\xff")
    assert call(*line.split()) == code
    assert said in capsys.readouterr().err
