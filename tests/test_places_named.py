"""Places for files that callers name, and what they are told of those that cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from idp_deploy import files
from idp_deploy.errors import UsageError
from idp_deploy.flow import FormatName
from idp_deploy.ownership import claim, destination
from idp_deploy.shipping import claim_artifacts


def test_python_is_told_of_no_flag(tmp_path: Path) -> None:
    place = tmp_path / "net.mlpackage"
    place.write_text("somebody's")
    with pytest.raises(UsageError, match=r"name another place$"):
        files.landing(place, package=True)
    place = tmp_path / "net.onnx"
    place.write_text("somebody's")
    with pytest.raises(UsageError, match=r"name another place$"):
        claim(place)


@pytest.mark.parametrize(
    ("named", "formats", "way_out"),
    [
        (".onnx", ["onnx"], "name it 'net.onnx', or a folder, such as '.'"),
        ("app/.tflite", ["tflite"], "name it 'app/net.tflite', or a folder, such as 'app'"),
        ("app/a.onnx", ["coreml"], "name it 'app/a.mlpackage', or a folder, such as 'app'"),
        (".ONNX", ["onnx", "tflite"], "name a folder, such as '.', or one format with --to"),
    ],
)
def test_no_folder_is_made_that_is_called_like_a_file(
    named: str, formats: list[FormatName], way_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        claim_artifacts(*destination(Path(named), "net", formats), formats)
    assert caught.value.way_out == way_out
    Path(named).mkdir(parents=True)  # unless there is one already
    assert destination(Path(named), "net", formats) == (Path(named), "net")
