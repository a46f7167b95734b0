"""The journeys of the documentation: every command is one that exists, and runs in the project that `new` writes."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest
import yaml

from idp_deploy.cli.app import _command, _run
from idp_deploy.cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "journeys").glob("*.md"))
COMMAND = re.compile(r"^\$ (idp-deploy .*?)(?:  # exits (\d))?$", flags=re.M)
FENCES = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.S | re.M)


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in FENCES.findall(page.read_text()) if name == language]


def commands(page: Path) -> list[tuple[str, int]]:
    """Each line of a console as typed, and the exit code it says."""
    found = COMMAND.findall("\n".join(blocks(page, "console")))
    return [(line, int(code or 0)) for line, code in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_journey_is_one(page: Path) -> None:
    assert commands(page)
    for line, _ in commands(page):
        name, *arguments = shlex.split(line)[1:]
        assert name in COMMANDS, line
        with click.Context(click.Command("idp-deploy")):
            _command(name).make_context(name, arguments)  # parses all of it, runs none of it


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_and_configuration_of_a_journey_can_be_read(page: Path) -> None:
    for text in blocks(page, "python"):
        ast.parse(text)
    for text in blocks(page, "yaml"):
        assert yaml.safe_load(text)


def test_every_page_is_on_the_site_and_every_journey_on_its_front() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = set(re.findall(r"[\w/-]+\.md", str(site["nav"])))
    there = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert listed == there
    front = (ROOT / "docs" / "index.md").read_text()
    assert all(f"(journeys/{page.name})" in front for page in PAGES)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("journeys")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "idp_deploy", "new", "first"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "first"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_journey_can_be_walked(
    page: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    folder = tmp_path / "first"
    shutil.copytree(project, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for line, code in commands(page):
        assert _run(shlex.split(line)[1:], debug=False) == code, f"{line}\n{capsys.readouterr().err}"


class Loaded(HTMLParser):
    """What a page has a browser load by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.found.append(given.get("src") or "")
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.found.append(given.get("href") or "")


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("material")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        outside = [address for address in Loaded(page.read_text()).found if re.match(r"(https?:)?//", address)]
        assert not outside, f"{page.name} loads {outside}"
    assert "Pruner" in (tmp_path / "api.html").read_text()
