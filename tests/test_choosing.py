"""Which zeros a device rewards: of the ways that meet its budgets the one that keeps the most of the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from idp_deploy.errors import UsageError
from idp_deploy.flow import Budget, Model, Recipe
from idp_deploy.planning.choosing import Choice, choose, ways_for
from idp_deploy.simulation.targets import load_target
from tests.test_ethos_u import call, needs_vela, own_project
from tests.test_storing_again import IMAGE, Net, build

ALL = ("unstructured", "2:4", "1:4", "channel")
SRAM_ONLY = """device = "a U85 with everything in SRAM"
soc = "Ethos-U85"
confidence = "specification"
sources = ["Arm Vela 5.2.0, ethosu/config_files/Arm/vela.ini"]
[[runtimes]]
name = "vela"
format = "tflite"
family = "vela"
source = "https://gitlab.arm.com/artificial-intelligence/ethos-u/ethos-u-vela"
[runtimes.compiler]
accelerator = "ethos-u85-256"
system = "Ethos_U85_SYS_DRAM_Mid"
memory = "Sram_Only"
"""


def chosen(limit: float, patterns: tuple[str, ...], said: list[str] | None = None) -> Choice:
    budgets = [Budget("pixel-4", "onnx", "size", limit, "here")]
    announce = said.append if said is not None else lambda _: None
    target = load_target("pixel-4")
    return choose(Model(build(Net).module), IMAGE, Recipe(), target, budgets, patterns, announce=announce)


def test_what_keeps_the_most_is_taken_and_the_others_are_told() -> None:
    said: list[str] = []
    choice = chosen(14_000, ALL, said)
    assert not choice.way.missed
    assert choice.way.figures["onnx", "size"] <= 14_000
    meeting = [way for way in choice.others if not way.missed]
    assert all(way.kept <= choice.way.kept for way in meeting)
    assert {way.recipe.pattern for way in (choice.way, *choice.others)} == set(ALL)
    assert sum("keeps" in line or "misses" in line for line in said) == len(ALL)
    assert choice.said_by == "the estimate"


def test_scattered_zeros_keep_more_than_groups_or_channels_of_as_many() -> None:
    choice = chosen(1e9, ALL)
    kept = {way.recipe.pattern: way.kept for way in (choice.way, *choice.others)}
    assert kept["unstructured"] > kept["2:4"] > kept["1:4"]  # 50 %, 50 %, 75 %


def test_where_nothing_meets_the_budget_every_way_is_told() -> None:
    with pytest.raises(UsageError, match=r"no way to prune meets the budgets of pixel-4: scattered.*2:4.*misses size"):
        chosen(100, ("unstructured", "2:4"))


def test_a_device_asks_for_its_own_ways_and_a_method_for_those_it_can() -> None:
    u85, phone = load_target("ethos-u85-256"), load_target("pixel-4")
    assert ways_for(u85, Recipe()) == ALL
    assert ways_for(u85, Recipe(method="sr-ste")) == ("2:4", "1:4")
    assert ways_for(phone, Recipe(pattern="block:1x4")) == ("block:1x4",)


@needs_vela
@pytest.mark.parametrize(
    ("budget", "patterns"), [('latency = "{:.5f} ms"', {"2:4", "1:4"}), ('flash = "{:.0f} B"', {"unstructured"})]
)
def test_vela_chooses_groups_where_cycles_count_and_scattered_zeros_where_bytes_do(
    budget: str,
    patterns: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same U85, the same network: with all weights in SRAM scattered zeros buy no time, but the most bytes."""
    import torch

    from tests.deep_net import Wide

    own_project(tmp_path, monkeypatch, 'model = "tests.deep_net:Wide"\ninputs = ["1x16x16x16"]\n')
    torch.manual_seed(0)
    torch.save(Wide().state_dict(), "model.pt")
    Path("targets").mkdir()
    Path("targets/u85.toml").write_text(SRAM_ONLY)
    capsys.readouterr()
    dense = dense_figures(tmp_path)
    metric = budget.partition(" ")[0]
    limit = budget.format(dense[f"tflite {metric}"] * (0.7 if metric == "latency" else 0.45))
    Path("idp-deploy.toml").write_text(
        f'model = "tests.deep_net:Wide"\ninputs = ["1x16x16x16"]\n[budgets.u85.tflite]\n{limit}\n'
    )
    capsys.readouterr()
    assert call("prune", "model.pt", "--target", "u85", "--one-shot", "--json") == 0
    out = capsys.readouterr()
    choice = json.loads(out.out)["choice"]
    assert choice["pattern"] in patterns, out.err
    assert choice["said_by"].startswith("Vela")
    assert choice["reached"] == pytest.approx(choice["expected"], rel=0.02)
    assert "for u85, by Vela" in out.err


def dense_figures(folder: Path) -> dict[str, float]:
    from idp_deploy.flow import CompressedModel
    from idp_deploy.loading import load_model
    from idp_deploy.planning.choosing import figures, prices_on
    from tests.deep_net import Wide, inputs

    model = load_model(folder / "model.pt", Wide)
    prices = prices_on(model, inputs(), load_target("u85"), ["tflite"])
    budgets = [Budget("u85", "tflite", "flash", 1e9, "here")]
    found = figures(prices.report_of(CompressedModel(model.module, {}), budgets))
    return {" ".join(key): value for key, value in found.items()}
