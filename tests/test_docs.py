"""Documentation is checked by what it documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from idp_deploy.cli.app import COMMANDS
from idp_deploy.cli.reference import reference
from idp_deploy.configuration import load
from idp_deploy.errors import ExitCode
from idp_deploy.pruning import ALLOCATIONS, METHODS, auto_schedule, paper_schedule
from idp_deploy.pruning.allocation import LAMP_FROM
from idp_deploy.pruning.options import MODES, known_options
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


PRUNING = (ROOT / "docs" / "pruning.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The table under a heading of docs/pruning.md, without its head."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PRUNING, flags=re.S | re.M)
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.replace("\\|", "∣").strip("|").split("|")] for line in lines]


def test_every_method_has_its_row_in_order_with_the_source_of_its_docstring() -> None:
    table = {row[0].strip("`"): row for row in rows("Methods")}
    assert list(table) == list(METHODS)
    for name, row in table.items():
        for paper in re.findall(r"\d{4}\.\d{5}", row[2]):
            assert paper in str(METHODS[name].__doc__), name


def test_every_option_has_its_row_with_its_default() -> None:
    documented: dict[str, list[str]] = {}
    for names, defaults, _ in rows("Options"):
        options = re.findall(r"`(\w+)`", names)
        values = re.sub(r" ?\(.*?\)", "", defaults).split(", ")
        assert len(options) == len(values), names
        for option, value in zip(options, values, strict=True):
            documented.setdefault(option, []).append(value.replace("−", "-"))
    known = [known_options(method, mode) for method in METHODS for mode in MODES]
    assert set(documented) == {name for options in known for name in options}
    for name, default in known_options("idp").items():
        if isinstance(default, bool):
            assert documented[name] == [str(default).lower()]
        elif isinstance(default, int | float):
            assert default in map(float, documented[name]), name
    for method in METHODS:
        for name, default in METHODS[method].options.items():
            if isinstance(default, str):
                assert default in documented[name], name


@pytest.mark.parametrize("name", [*ALLOCATIONS, *(f"--{flag}" for flag in ("rule", "option", "skip", "method"))])
def test_the_pruning_page_names_every_allocation_and_flag(name: str) -> None:
    assert re.search(rf"`{name}\b", PRUNING), name


def test_the_two_modes_of_the_page_are_those_of_the_code() -> None:
    modes = {row[0]: row[1:] for row in rows("Two modes")}
    paper, auto = paper_schedule(100, 1), auto_schedule(100)
    in_auto = f"ERK below {LAMP_FROM:.0%} zeros, LAMP from there; whole channels evenly".replace("%", " %")
    assert modes["allocation"] == ["one global sort of magnitudes", in_auto]
    assert f"{paper.ratio(paper.dense_until):g} an epoch from epoch {paper.dense_until} of 100" in modes["ramp"][0]
    assert (paper.phase(99), auto.phase(69), auto.phase(70)) == ("ramp", "ramp", "frozen")
    assert modes["frozen finish"] == ["none", "the last 30 % of the steps"]


def test_the_licences_are_those_of_the_installed_packages() -> None:
    from bench.licences import licence, requirements

    rows = [line.strip("| ").split(" | ") for line in (ROOT / "docs" / "licences.md").read_text().splitlines()[7:]]
    listed = {package: (group, terms) for package, group, terms in rows}
    assert {package: group for package, (group, _) in listed.items()} == requirements()
    for package, (_, terms) in listed.items():
        assert terms != "not installed"
        assert licence(package) in (terms, "not installed"), package
