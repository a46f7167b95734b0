"""What is suggested for a red build has an effect that one would see, and the layer named is one that it is about."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from idp_deploy.exporting import export
from idp_deploy.flow import Budget, Check, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.gating import Evidence, gate
from idp_deploy.pruning import one_shot
from idp_deploy.reading import read
from idp_deploy.remedies import remedied
from idp_deploy.simulation import simulate
from idp_deploy.simulation.targets import load_target
from idp_deploy.trying import best


@pytest.mark.parametrize(("left", "helps"), [(9.999, False), (9.95, False), (9.5, True), (10.0, False), (11.0, False)])
def test_what_changes_nothing_is_not_suggested(left: float, helps: bool) -> None:
    check = Check(Budget("pixel-4", "onnx", "latency", 5.0, ""), Path("m.onnx"), 10.0, "fail")
    assert (best(check, iter([("change", "command", left)])) is not None) == helps


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.last = nn.Embedding(400, 32), nn.Linear(32, 48), nn.Linear(48, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(self.table(ids).mean(1))))


def written(format: str, target: str, folder: Path) -> Evidence:
    torch.manual_seed(0)
    example = (torch.arange(8)[None],)
    path = folder / f"m{FORMATS[format].suffix}"  # type: ignore[index]
    export(one_shot(Model(Words().eval()), Recipe(sparsity=0.5), example), format, example, path)
    contents = read(path)
    return Evidence(contents, simulate(contents, load_target(target)))


@pytest.fixture(scope="module")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return written("onnx", "pixel-4", tmp_path_factory.mktemp("trying"))


@pytest.mark.parametrize(
    ("metric", "limit", "layer"), [("sparsity", 0.9, "first"), ("size", 1.0, "table"), ("memory", 1.0, "table")]
)
def test_a_table_is_to_blame_for_bytes_and_never_for_zeros(
    metric: str, limit: float, layer: str, sentence: Evidence
) -> None:
    assert of(sentence, metric, limit).layer == layer


def test_where_only_what_a_call_costs_is_left_no_change_is_named(tmp_path: Path) -> None:
    evidence = written("coreml", "iphone-12", tmp_path)
    now = evidence.estimate.latency_ms
    assert now is not None
    check = of(evidence, "latency", now.middle / 2)
    assert check.remedy is None
    assert check.fix.startswith("neither int8 nor fewer channels make it faster by prediction")


def of(evidence: Evidence, metric: str, limit: float) -> Check:
    target, format = evidence.estimate.target, evidence.contents.format
    report = gate([Budget(target, format, metric, limit, "")], [evidence])
    return remedied(report, [evidence], [load_target(target)]).checks[0]
