"""From model.pt to a gated .aimodel in one `run`; and what every command says where the extra is missing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from idp_deploy.cli.app import _run
from idp_deploy.formats import FORMATS, usual
from idp_deploy.ownership import is_ours
from tests.formats_here import HERE
from tests.test_packages import aimodel

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "formats.md").read_text()
CONFIGURATION = re.search(r"```toml\n(model = .*?)```", PAGE[PAGE.index("## Core AI") :], re.S)
missing = pytest.mark.skipif("coreai" in HERE, reason="the extra [coreai] is installed")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny project with the configuration of docs/formats.md."""
    assert CONFIGURATION is not None
    shutil.copy(ROOT / "tests" / "tiny_project" / "tiny.py", tmp_path)
    (tmp_path / "idp-deploy.toml").write_text(CONFIGURATION[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import tiny  # type: ignore[import-not-found]

    torch.manual_seed(0)
    torch.save(tiny.build().state_dict(), "model.pt")
    return tmp_path


@pytest.mark.skipif("coreai" not in HERE, reason="the extra [coreai] is not installed (make coreai)")
def test_one_run_makes_a_gated_package(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["run", "--json"], debug=False) == 0
    report = json.loads(capsys.readouterr().out)
    assert [check["verdict"] for check in report["checks"]] == ["pass", "pass"]
    assert {check["metric"] for check in report["checks"]} == {"size", "sparsity"}
    (place,) = (project / "build").glob("*.aimodel")
    assert is_ours(place)
    (project / "idp-deploy.toml").write_text((project / "idp-deploy.toml").read_text().replace("40 kB", "1 kB"))
    assert _run(["check", str(place)], debug=False) == 1


@missing
@pytest.mark.parametrize(
    "line",
    ["export model.pt --to coreai --inputs 1x3x16x16", "inspect m.aimodel", "verify m.aimodel", "check m.aimodel"],
)
def test_without_the_extra_a_command_says_the_line_that_installs_it(
    line: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aimodel(project / "m.aimodel")
    assert _run(line.split(), debug=False) == 4
    assert "pip install 'idp-deploy[coreai]'" in capsys.readouterr().err


def test_all_means_what_the_extra_all_brings() -> None:
    assert "coreai" in FORMATS
    assert "coreai" not in usual()


def test_doctor_names_the_extra(capsys: pytest.CaptureFixture[str]) -> None:
    _run(["doctor", "--json"], debug=False)
    out = capsys.readouterr().out
    assert "coreai" in HERE or "idp-deploy[coreai]" in out or "coreai-core" not in json.loads(out)["packages"]
