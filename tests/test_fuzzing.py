"""A slice of the fuzz campaign (`make fuzz`): damaged files of every kind end in an answer, never in anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzzing.campaign import KINDS, campaign

CASES = 100


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the good files, which several kinds share."""
    return tmp_path_factory.mktemp("good")


@pytest.mark.parametrize("kind", KINDS)
def test_no_damaged_file_brings_it_down_or_passes_for_the_good_one(kind: str, good: Path) -> None:
    counts, bad = campaign([kind], CASES, seed=20, folder=good)
    assert not bad, "\n".join(bad)
    assert sum(counts.values()) == CASES
    answers = ("equal",) if kind == "manifest" else ("refused", "differs")  # no number is taken from a manifest
    assert sum(counts[kind, answer] for answer in answers) > CASES // 4
