"""CONTRIBUTING.md and docs/architecture.md name files and tables that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
KINDS = {
    "format", "scheme", "encoding", "pattern", "method", "device", "budget metric", "command", "report", "backend",
}  # fmt: skip
RECIPES = dict(re.findall(r"^### (.+)\n\n((?:\d\. .*\n)+)", PAGE, flags=re.M))
_PATH = r"`([\w.-]+(?:/[\w.-]+)*/?)`"


def paths(text: str) -> list[str]:
    """What stands in backticks and is a file or folder by its look."""
    return [path for path in re.findall(_PATH, text) if "/" in path or path.endswith((".py", ".md", ".toml", ".txt"))]


def test_there_is_a_recipe_of_five_lines_for_everything() -> None:
    assert set(RECIPES) == KINDS
    for kind, recipe in RECIPES.items():
        assert re.findall(r"^(\d)\.", recipe, flags=re.M) == list("12345"), kind


@pytest.mark.parametrize("kind", sorted(RECIPES))
def test_a_recipe_names_files_that_are_there_and_tables_that_are_in_them(kind: str) -> None:
    for path in paths(RECIPES[kind]):
        assert (ROOT / path).exists(), path
    found = re.findall(rf"`(\w+)`,? in {_PATH}", RECIPES[kind])
    assert found or kind == "device"
    for symbol, path in found:
        text = (ROOT / path).read_text()
        assert re.search(rf"^(class |def |    def )?{symbol}\b", text, flags=re.M), (symbol, path)


def test_the_targets_of_make_exist() -> None:
    known = re.findall(r"^([a-z-]+)(?:%)?:", (ROOT / "Makefile").read_text(), flags=re.M)
    for target in re.findall(r"`make ([a-z-]+)", PAGE):
        assert target in known, target


@pytest.mark.parametrize(
    "page", ["CONTRIBUTING.md", "docs/architecture.md", "docs/threat-model.md", "docs/manifest.md"]
)
def test_a_page_names_files_that_are_there(page: str) -> None:
    for path in paths((ROOT / page).read_text()):
        if re.match(r"(idp_deploy|tests|docs|targets|emulator)/", path):
            assert (ROOT / path).exists(), path


def test_a_format_touches_five_files_outside_its_folder_and_the_page_says_which() -> None:
    (outside,) = re.findall(r"<!-- outside -->\n(.*?)<!-- end -->", (ROOT / "docs/architecture.md").read_text(), re.S)
    listed = [path for line in outside.splitlines() for path in paths(line)[:1]]
    assert len(listed) <= 5
    recipe = {path for path in paths(RECIPES["format"]) if not path.startswith("tests/")}
    given = {f"idp_deploy/{name}.py" for name in ("exporting/__init__", "formats/writing")}
    given |= {f"idp_deploy/formats/{name}.py" for name in ("sessions", "operators")}
    assert recipe - given == set(listed)


def test_every_attack_names_tests_that_exist() -> None:
    (section,) = re.findall(r"^## Attacks .*?(?=^## |\Z)", (ROOT / "docs/threat-model.md").read_text(), re.S | re.M)
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    for row in rows:
        held = re.findall(r"`(tests/\w+\.py)::(\w+)`", row)
        assert held, row
        for path, test in held:
            assert re.search(rf"^def {test}\(", (ROOT / path).read_text(), flags=re.M), (path, test)


def test_every_hostile_test_is_on_the_list() -> None:
    page = (ROOT / "docs/threat-model.md").read_text()
    for path in ROOT.glob("tests/test_*hostile.py"):
        assert f"tests/{path.name}::" in page, path.name
