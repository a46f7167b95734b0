"""Anchors: what one measurement says of another situation, and devices of several, this host among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from idp_deploy.cli.options import anchors_of
from idp_deploy.errors import UsageError
from idp_deploy.flow import Measurement
from idp_deploy.simulation import simulate
from idp_deploy.simulation.anchoring import anchors_on, parse_model
from idp_deploy.simulation.cost_model import effects_of, load_coefficients
from idp_deploy.simulation.creating import new_target
from idp_deploy.simulation.targets import folder, load_cores, load_target
from idp_deploy.simulation.uncertainty import covariance, together
from tests.contents import latency, mobilenet_v1, on_disk

BOARD = load_target("raspberry-pi-5")
MODEL = load_coefficients(folder() / "coefficients.json")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work.toml").write_text('architecture = "mobilenet_v2_1.0_224"\n')
    return tmp_path / "work.toml"


def usual(path: Path, threads: int = 1) -> float:
    return latency(simulate(path, BOARD, threads=threads)).middle


@pytest.mark.parametrize("asked", [1, 2, 4])
@pytest.mark.parametrize("measured", [1, 4])
def test_a_slow_device_is_slow_whatever_number_of_threads_was_measured(asked: int, measured: int, work: Path) -> None:
    name = f"mobilenet_v2_1.0_224@{measured}"
    found = simulate(work, BOARD, threads=asked, anchor={name: 2 * usual(work, measured)})
    assert 1.25 < latency(found).middle / usual(work, asked) < 2.2
    free = latency(simulate(work, BOARD, threads=asked))
    assert latency(found).high / latency(found).low < free.high / free.low


def test_an_anchor_of_the_very_situation_is_met_and_others_less_closely(work: Path) -> None:
    slow = 2 * usual(work)
    here = latency(simulate(work, BOARD, anchor={"mobilenet_v2_1.0_224": slow}))
    other = latency(simulate(work, BOARD, anchor={"mobilenet_v2_1.0_224@int8": slow}))
    assert here.middle == pytest.approx(slow, rel=0.06)
    assert here.high / here.low < other.high / other.low


def test_doubt_that_two_situations_share_is_one_doubt() -> None:
    core = load_cores()["a76"]
    one = effects_of("single", "ncnn", core, "", "", "float32", 1)
    four = effects_of("cpu", "ncnn", core, "", "", "float32", 4)
    terms = len(MODEL.prior)
    joint = together([one, four], MODEL.levels, MODEL.known)
    assert joint[:terms, :terms] == pytest.approx(covariance(one, MODEL.levels["single"], MODEL.known))
    assert joint == pytest.approx(joint.T)
    assert np.linalg.eigvalsh(joint).min() > -1e-9
    assert joint[0, terms] > 0
    gpu = effects_of("accelerator", "tflite-gpu", load_cores()["adreno-640"], "", "", "float32", 1)
    assert not together([one, gpu], MODEL.levels, MODEL.known)[:terms, terms:].any()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("resnet50", ("resnet50", "", 0)), ("resnet50@4", ("resnet50", "", 4)),
        ("resnet50@int8@4", ("resnet50", "int8", 4)), ("resnet50@2@float16", ("resnet50", "float16", 2)),
    ],
)  # fmt: skip
def test_an_anchor_says_its_arithmetic_and_threads(text: str, wanted: tuple[str, str, int]) -> None:
    assert parse_model(text) == wanted


def test_a_device_of_several_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Path) -> None:
    monkeypatch.chdir(tmp_path)
    measured = {"mobilenet_v1_1.0_224": 60.0, "mobilenet_v1_1.0_224@4": 25.0, "resnet50@int8@4": 90.0}
    target = new_target("my-board", measured, like="raspberry-pi-5")
    assert [(m.precision, m.threads) for m in target.measurements] == [("float32", 1), ("float32", 4), ("int8", 4)]
    for threads, name in ((1, "mobilenet_v1_1.0_224"), (4, "mobilenet_v1_1.0_224@4")):
        (tmp_path / "v1.toml").write_text('architecture = "mobilenet_v1_1.0_224"\n')
        found = simulate(tmp_path / "v1.toml", target, threads=threads)
        assert latency(found).middle == pytest.approx(measured[name], rel=0.15)
        assert any(note.startswith("without the anchor") for note in found.notes)
    with pytest.raises(UsageError, match="has no arithmetic 'int9'"):
        new_target("other", {"resnet50@int9": 4.0})


def test_this_host_answers_once_it_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    host = load_target("x86-64-host")
    contents = on_disk(mobilenet_v1(0.5), tmp_path)
    refused = simulate(contents, host)
    assert refused.latency_ms is None
    assert "--measure FILE" in refused.reason
    path = tmp_path / "half.toml"
    path.write_text('architecture = "mobilenet_v2_1.0_224"\nformat = "tflite"\n')
    timed = Measurement(Path("mobilenet_v1_1.0_224"), "LiteRT", "Linux x86_64", 1, 9.0, 8.9, 9.1, 30)
    with pytest.raises(UsageError, match="runs no"):
        new_target("my-pc", {}, like="x86-64-host", measured_here=[timed])
    target = new_target("my-pc", {"mobilenet_v1_1.0_224": 9.0}, like="x86-64-host")
    found = simulate(path, target)
    assert found.basis is not None
    assert found.basis.origin == "anchored"
    assert found.basis.expected_error is None
    assert any("no publication speaks of x86-64" in note for note in found.notes)
    assert 3 < latency(found).middle < 9
    assert latency(found).high / latency(found).low > 3


def test_what_an_anchor_moved_is_told_in_the_unit_of_a_small_estimate(tmp_path: Path) -> None:
    torch.onnx.export(torch.nn.Linear(96, 64).eval(), (torch.zeros(1, 96),), tmp_path / "m.onnx", external_data=False)
    device = load_target("pixel-4")
    notes = simulate(tmp_path / "m.onnx", device, runtime="onnxruntime", anchor={"mobilenet_v2_1.0_224": 80.0}).notes
    assert any(" µs (" in note for note in notes if note.startswith("without the anchor"))


@pytest.mark.parametrize("anchors", [["a=12", "a=60"], ["a=12 ms", "a=0.02 s"], ["a"], ["a=0"], ["a=12,5"], ["a=nan"]])
def test_anchors_that_cannot_be_are_refused(anchors: list[str]) -> None:
    with pytest.raises(UsageError, match=r"two latencies, 12 and|cannot read the anchor"):
        anchors_of(anchors)


@pytest.mark.parametrize("text", ["a=12", "a=12ms", "a = 12 ms", "a=0.012 s", "a=12000us", "a=1.2e1"])
def test_an_anchor_may_have_a_unit(text: str) -> None:
    assert anchors_of([text]) == {"a": pytest.approx(12.0)}


def test_two_latencies_in_one_situation_make_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="two latencies in one situation, 12 and 60 ms"):
        new_target("board", {"mobilenet_v2_1.0_224": 12.0, "mobilenet_v2_1.0_224@float32@1": 60.0})
    with pytest.raises(UsageError, match="the word that makes a target"):
        new_target("new", {})
    assert not (tmp_path / "targets").exists()


def test_a_measured_file_ran_in_a_runtime_that_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.onnx.export(torch.nn.Linear(96, 64).eval(), (torch.zeros(1, 96),), tmp_path / "m.onnx", external_data=False)
    target = new_target("board", {"m.onnx": 0.5, "mobilenet_v2_1.0_224": 12.0}, like="pixel-4")
    assert [m.runtime for m in target.measurements] == ["onnxruntime", "litert-xnnpack"]
    (anchor,) = anchors_on(load_target("pixel-4"), target.runtimes[0], 1, {"m.onnx": 0.4})
    assert anchor.runtime.name == "onnxruntime"
    with pytest.raises(UsageError, match=r"target 'cortex-m' runs no \.onnx files"):
        new_target("chip", {"m.onnx": 0.5}, like="cortex-m", runtime="tflite-micro")


def test_an_anchor_in_another_unit_is_doubted(work: Path) -> None:
    said = simulate(work, BOARD, anchor={"mobilenet_v2_1.0_224": 1000 * usual(work)}).notes
    assert any("no device is that far off, is it in milliseconds?" in note for note in said)
