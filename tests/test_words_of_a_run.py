"""Words of a configuration that a late stage of `run` would refuse are refused before the first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from idp_deploy.errors import UsageError
from idp_deploy.formats import FORMATS
from tests.cli_project import call

CONFIGURATION = """
model = "torch.nn:Linear(8, 4)"
weights = "w.pt"
inputs = ["1x8"]
output = "build"
[prune]
target = 0.5
one-shot = true
[quantize]
scheme = "int8-weights"
[export]
to = ["onnx"]
"""
WRONG = {  # what is written → what is written instead, and said
    '"int8-weights"': ('"int-8"', "unknown scheme 'int-8' — did you mean 'int8'?"),
    "scheme =": ('values = 15\nscheme = "fp16"\nfloat = ["no"] #', "fp16 has no integers to restrict"),
    '["1x8"]': ('["1x8x"]', "cannot read the input '1x8x'"),
    '"1x8"': ('"1x8:int46"', "unknown dtype 'int46' in the input '1x8:int46'"),
    'to = ["onnx"]': ('to = ["onnx"]\nencoding = "atuo"', ":13: ONNX has no encoding 'atuo' — did you mean 'auto'?"),
    '["onnx"]': ('["onnx", "coreml"]\nencoding = "gaps8"', "Core ML has no encoding 'gaps8'"),
    "[export]": ('[export]\nprecision = "flota16"', "unknown precision 'flota16' — did you mean 'float16'"),
    "target = 0.5": ('target = "pixl-4"', ":7: unknown target 'pixl-4'"),
    "one-shot = true": ('one-shot = true\nmethod = "ipd"', ":9: unknown method 'ipd' — did you mean 'idp'?"),
    "0.5": ('0.5\npattern = "2;4"', "unknown pattern '2;4'"),
    "[quantize]": ('[prune.rules]\n"a.*" = "4:2"\n[quantize]', ":10: pattern '4:2' keeps 4 of every 2"),
    "[prune]": ("[prune.options]\nkapa = 4\n[prune]", ":7: option 'kapa' is unknown to method idp"),
    'output = "build"': ('output = "build"\ntargets = ["pixl-4"]', ":6: unknown target 'pixl-4'"),
}


@pytest.mark.parametrize("right", WRONG)
@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_a_word_that_a_late_stage_refuses_is_refused_first(
    arguments: tuple[str, ...],
    right: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Linear(8, 4).state_dict(), "w.pt")
    wrong, said = WRONG[right]
    Path("idp-deploy.toml").write_text(CONFIGURATION.replace(right, wrong, 1))
    assert call("run", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pruned*"))


@pytest.mark.parametrize("command", [("run", "--dry-run"), ("export", "w.pt", "--to", "onnx")])
@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("torch.nn:Linaer(8, 4)", "model 'torch.nn:Linaer(8, 4)' does not name a callable with keyword arguments"),
        ("torch.nn:Linaer", "model torch.nn:Linaer: module 'torch.nn' has no attribute 'Linaer' — did you mean"),
        ("torch.nn.Linear", "model 'torch.nn.Linear' does not name a callable"),
        ("there_is_none:build", "model there_is_none:build: there is no module 'there_is_none'"),
    ],
)
def test_a_model_that_configuration_names_wrong_is_told_by_its_line(
    named: str,
    said: str,
    command: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Linear(8, 4).state_dict(), "w.pt")
    text = CONFIGURATION.replace("torch.nn:Linear(8, 4)", named)
    Path("idp-deploy.toml").write_text(text)
    assert call(*command) == 2
    assert f"idp-deploy.toml:2: {said}" in capsys.readouterr().err
    Path("idp-deploy.toml").write_text(text.replace("model =", "task ="))
    assert call("export", "w.pt", "--to", "onnx", "--model", named) == 2
    assert f"error: --{said}" in capsys.readouterr().err
    monkeypatch.setenv("IDP_DEPLOY_MODEL", named)
    assert call("export", "w.pt", "--to", "onnx") == 2
    assert f"error: IDP_DEPLOY_MODEL: {said}" in capsys.readouterr().err


def test_every_misspelt_word_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Linear(8, 4).state_dict(), "w.pt")
    text = CONFIGURATION.replace("[prune]", '[prune]\nmodus = "auto"\nallocation = "erc"').replace(
        "-weights", "-weight"
    )
    Path("idp-deploy.toml").write_text(text + 'io = "int9"\n[budgets.pixl-4.onnx]\nsize = "1 MBB"\n')
    assert call("run") == 2
    said = [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    places = [line.partition(": ")[0].rpartition(":")[2] for line in said]
    assert places == ["7", "8", "12", "15", "16", "17"]
    assert not list(tmp_path.rglob("*.pruned*"))


def test_the_table_of_formats_names_the_encodings_that_their_writers_take() -> None:
    from idp_deploy.formats.coreml.write.export import ENCODINGS as COREML
    from idp_deploy.formats.onnx.write.storing import ENCODINGS as ONNX
    from idp_deploy.formats.tflite.write.storing import plan

    assert (FORMATS["onnx"].encodings, FORMATS["coreml"].encodings) == (ONNX, COREML)
    for name in FORMATS["tflite"].encodings:
        plan(name.replace("N", "16"), None, ())
        FORMATS["tflite"].refuse_encoding(name.replace("N", "16"))
    with pytest.raises(UsageError, match="has no encoding 'block:4x1' — did you mean 'block:1xN'"):
        FORMATS["tflite"].refuse_encoding("block:4x1")


def test_a_run_that_cannot_write_names_the_key_of_its_folder(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from idp_deploy.cli.app import _explain
    from idp_deploy.errors import ELSEWHERE, FileError

    error = FileError("build/w.pruned.pt cannot be written: No space left on device", way_out=ELSEWHERE)
    ends = {
        ("run",): "place as 'output' in configuration",
        ("run", "-o", "r.html"): "place with -o",
        ("prune",): "with -o",
    }
    for arguments, end in ends.items():
        assert _explain(error, arguments) == 3
        assert capsys.readouterr().err.strip().endswith(end)
