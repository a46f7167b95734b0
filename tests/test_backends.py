"""Who is asked about a file on a device: one table, one protocol."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from idp_deploy.cli import main
from idp_deploy.rendering import estimates
from idp_deploy.rendering.document import Table
from idp_deploy.simulation.backends import BACKENDS, Backend, ask
from idp_deploy.simulation.question import Question, load
from idp_deploy.simulation.targets import load_target
from tests.tflite_files import adding


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.tflite"
    path.write_bytes(adding(np.ones((4, 4), np.float32)))
    return path


@dataclass(frozen=True)
class Price:
    """What a row of a test says of a file on a device."""

    artifact: Path
    target: str
    cents: int
    notes: tuple[str, ...] = ()


def prices(question: Question) -> list[Price]:
    return [Price(file.path, device.name, file.work.macs, ("a guess",)) for file, device in question.pairs]


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Backend("prices", "tests.test_backends:prices")
    monkeypatch.setitem(BACKENDS, "prices", row)
    monkeypatch.setitem(
        estimates.TABLES, "prices", lambda found: Table("prices", ("cents",), [(str(p.cents),) for p in found])
    )


def test_a_row_is_asked_and_shown_without_touching_anything_else(
    priced: None, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["simulate", str(file), "--target", "pixel-4", "--target", "pixel-6"]
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as left:
            main([*words, *more])
        assert left.value.code == 0
        out = capsys.readouterr().out
    found = json.loads(out)
    assert [(p["target"], p["artifact"]) for p in found["prices"]] == [("pixel-4", str(file)), ("pixel-6", str(file))]
    assert len(found["estimates"]) == 2


def test_what_a_flag_asks_is_not_asked_without_it(file: Path) -> None:
    question = Question([load(file)], [load_target("pixel-4")])
    assert ask(question).keys() == {name for name, row in BACKENDS.items() if not row.flag}
    found = ask(question, ["measure"])
    assert [m.runtime for m in found["measurements"]] == ["litert-xnnpack"]


def test_every_row_has_a_table_and_an_option_or_is_always_asked() -> None:
    from inspect import signature

    from idp_deploy.cli.simulating import simulate

    options = signature(simulate).parameters
    for row in BACKENDS.values():
        assert row.name in estimates.TABLES
        assert not row.flag or row.flag in options
        assert isinstance(row.lacks(), tuple)
