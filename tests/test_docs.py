"""Documentation is checked by what it documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from idp_deploy.cli.app import COMMANDS
from idp_deploy.cli.reference import reference
from idp_deploy.configuration import load
from idp_deploy.errors import ExitCode
from idp_deploy.simulation import simulate
from idp_deploy.simulation.targets import load_target
from idp_deploy.units import METRICS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_cli_reference_is_what_help_prints() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), "run 'make docs'"


def test_the_readme_names_every_command_and_exit_code() -> None:
    for name in COMMANDS:
        assert re.search(rf"`(idp-deploy )?{name}\b", README), name
    for code in ExitCode:
        assert f"| {code.value} |" in README


def test_the_readme_names_every_budget_metric() -> None:
    for metric in METRICS:
        assert f"`{metric}`" in README


@pytest.mark.parametrize("page", ["README.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))])
def test_links_between_pages_hold(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_the_options_in_the_readme_exist() -> None:
    known = reference()
    for option in set(re.findall(r"`?idp-deploy [^`\n]*?(--[a-z-]+)", README)):
        assert option in known, option


def test_the_workload_description_of_the_docs_can_be_simulated(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "simulation.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", text, flags=re.S)
    path = tmp_path / "description.toml"
    path.write_text(block)
    assert simulate(path, load_target("pixel-4")).latency_ms is not None


def test_the_configuration_of_the_readme_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", README, flags=re.S)
    path = tmp_path / "pyproject.toml"
    path.write_text(block)
    assert {budget.metric for budget in load(path, environment={}).budget_list()} == {"size", "latency"}
