"""compare on the command line: it goes on where it was, says what is left, and does without a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli_project import call


def test_compare_goes_on_where_it_was_interrupted(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", "model.pt", "--methods", "idp,gmp", "--target", "0.5", "--seeds", "2", "--epochs", "1"]
    from idp_deploy.pruning import comparing

    real, left = comparing.score, iter(range(2))

    def tired(*arguments: object) -> object:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(comparing, "score", tired)
    assert call(*command) == 130
    monkeypatch.setattr(comparing, "score", real)
    capsys.readouterr()
    assert call(*command, "--resume", "--json") == 0
    captured = capsys.readouterr()
    assert "2 runs are in model.compare.json" in captured.err
    assert captured.err.count(", seed ") == 2
    resumed = json.loads(captured.out)
    assert call(*command, "--json") == 0
    assert json.loads(capsys.readouterr().out) == resumed
    assert not (project / "model.compare.json").exists()


def test_compare_says_what_was_chosen_from_how_many_settings(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "model.pt", "--methods", "idp,gmp", "--target", "0.5", "--seeds", "2", "--epochs", "1"]
    assert call(*command, "--tune", "2") == 0
    captured = capsys.readouterr()
    assert "settings, chosen on other seeds" in captured.out
    assert captured.err.count("seed 100000") == 8
    assert captured.err.count(", seed ") == 12


def test_compare_does_without_a_file_to_go_on_from(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from idp_deploy.pruning import resuming

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resuming, "write_bytes", full)
    assert call("compare", "model.pt", "--methods", "idp,gmp", "--target", "0.5", "--seeds", "2", "--epochs", "1") == 0
    assert "model.compare.json cannot be written (No space left on device)" in capsys.readouterr().err


def test_a_comparison_says_what_is_left_of_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compare", "model.pt", "--methods", "gmp,idp", "--seeds", "2", "--epochs", "1") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if " at 0.5, seed " in line]
    assert ["left" in line for line in lines] == [True, True, True, False]
