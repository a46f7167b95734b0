"""Words of a configuration that a late stage of `run` would refuse are refused before the first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

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
