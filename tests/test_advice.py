"""What-if questions to the cost model: a change that is advised really has a lower estimate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from idp_deploy.rendering.estimates import advice_table
from idp_deploy.simulation import simulate
from idp_deploy.simulation.advice import Advice, advise, halved
from idp_deploy.simulation.architectures import architecture
from idp_deploy.simulation.targets import load_target


@pytest.fixture
def description(tmp_path: Path) -> Path:
    path = tmp_path / "net.toml"
    path.write_text('architecture = "mobilenet_v1_1.0_224"\n')
    return path


def test_what_pays_comes_first_and_is_cheaper(description: Path) -> None:
    target = load_target("pixel-4")
    estimate = simulate(description, target)
    assert estimate.latency_ms is not None
    found = advise(description, target, estimate)
    assert [a.latency_ms for a in found] == sorted(a.latency_ms for a in found)
    assert all(0.02 <= a.saved < 1 and a.latency_ms < estimate.latency_ms.middle for a in found)
    assert any("int8" in a.change for a in found), "a Cortex-A76 has dot products"
    assert any("half the channels" in a.change for a in found)


def test_nothing_is_advised_where_nothing_is_estimated(description: Path) -> None:
    estimate = simulate(description, load_target("pixel-4"))
    assert advise(description, load_target("pixel-4"), replace(estimate, latency_ms=None)) == ()


def test_half_the_channels_are_half_the_work_of_the_layer_and_of_its_readers() -> None:
    work = architecture("mobilenet_v1_1.0_224")
    index, layer = next((i, op) for i, op in enumerate(work.ops) if op.op_class == "conv1x1")
    changed = halved(work, layer.name).ops
    assert changed[index].macs == layer.macs // 2
    assert changed[index + 1].op_class == "depthwise"
    assert changed[index + 1].macs == work.ops[index + 1].macs // 2
    assert changed[index + 2].macs == work.ops[index + 2].macs // 2
    assert changed[index + 2].output_bytes == work.ops[index + 2].output_bytes
    assert changed[index + 3] == work.ops[index + 3]


def test_what_would_pay_is_in_the_unit_of_its_latencies():
    table = advice_table({"a": [Advice("int8", 0.0156, 0.5), Advice("half", 0.023, 0.1)]})
    assert [row[1] for row in table.rows] == ["15.6 µs, −50 %", "23.0 µs, −10 %"]
