"""The emulator: what is counted for an instruction, what a core's profile holds, how counts are judged, and the whole
of it where `make emulator` has set it up."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from idp_deploy.errors import ConversionError, FileError, MissingDependencyError, UsageError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, Contents, EmulationCounts, FormatName
from idp_deploy.simulation import emulator
from idp_deploy.simulation.emulator import command, emulate, emulator_missing, environment, judge, parse_windows
from idp_deploy.simulation.emulator_profiles import IDENTITIES, identity, profile, write_root
from idp_deploy.simulation.targets import list_targets, load_cores, load_target
from idp_deploy.simulation.workload import workload
from sample_models.mobilenet_v1 import build
from tests.contents import TFLite, mobilenet_v1

SOURCES = Path(__file__).parents[1] / "emulator"
# word, MACs, bytes loaded, bytes stored, and what GNU binutils 2.40 assembled it from
WORDS = Path(__file__).with_name("aarch64_words.txt").read_text().splitlines()


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every word as the plugin counts it; compiled with all warnings as errors."""
    compiler = shutil.which("cc") or pytest.skip("the plugin needs a C compiler, and there is none")
    program = tmp_path_factory.mktemp("decode") / "self_test"
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined", "-fno-sanitize-recover"]
    subprocess.run([compiler, *flags, "-o", str(program), str(SOURCES / "self_test.c")], check=True)
    words = "\n".join(line.split()[0] for line in WORDS)
    done = subprocess.run([str(program)], input=words, capture_output=True, text=True, check=True)
    return {line.split()[0]: line for line in done.stdout.splitlines()}


@pytest.mark.wide
@pytest.mark.parametrize("line", WORDS, ids=lambda line: line.split(" ", 4)[4])
def test_an_instruction_counts_what_the_manual_says(line: str, decoded: dict[str, str]) -> None:
    word, counts = line.split()[0], " ".join(line.split()[:4])
    assert decoded[word] == counts


def test_the_plugin_compiles_without_a_warning(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or pytest.skip("the plugin needs a C compiler, and there is none")
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
    library = tmp_path / "count.so"
    subprocess.run([compiler, *flags, "-o", str(library), str(SOURCES / "count.c")], check=True)
    assert b"qemu_plugin_install" in library.read_bytes()


def test_locks_name_every_file_with_its_digest() -> None:
    packages = (SOURCES / "packages.lock").read_text().splitlines()
    assert all(re.fullmatch(r"(amd64|arm64) [a-z0-9.+-]+=\S+ [0-9a-f]{64}", line) for line in packages)
    assert {"amd64 qemu-user", "arm64 python3.11"} <= {line.split("=")[0] for line in packages}
    wheels = (SOURCES / "wheels.lock").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z-]+==[0-9.]+ --hash=sha256:[0-9a-f]{64}", line) for line in wheels)


def test_the_plugin_keeps_its_own_licence() -> None:
    assert "GNU GENERAL PUBLIC LICENSE" in (SOURCES / "LICENSE").read_text()
    for path in (*SOURCES.glob("*.c"), *SOURCES.glob("*.h")):
        assert path.read_text().startswith("/* SPDX-License-Identifier: GPL-2.0-or-later"), path


# ── profiles ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("core", sorted(IDENTITIES))
def test_a_profile_agrees_with_the_emulated_processor(core: str) -> None:
    about, known = identity(core, "any"), load_cores()[core]
    features = about.features.split()
    assert ("asimddp" in features) == (about.cpu not in ("cortex-a53", "cortex-a57", "cortex-a72"))
    assert not known.dot or "asimddp" in features
    assert not known.fp16 or "asimdhp" in features


def test_every_arm_target_can_be_emulated_and_others_say_why_not() -> None:
    for target in list_targets():
        chosen = target.runtime("tflite", None)
        if chosen is None:
            continue
        if not chosen.core:
            with pytest.raises(UsageError, match=f"'{target.name}' runs it on no core, "):
                identity(chosen.core, target.name)
            continue
        core = target.core(chosen)
        if core.name in IDENTITIES:
            text = profile(identity(core.name, target.name), core.ghz)["proc/cpuinfo"]
            assert f"{IDENTITIES[core.name].part:#05x}" in text
        else:
            with pytest.raises(UsageError, match=f"'{target.name}' runs it on '{core.name}'"):
                identity(core.name, target.name)


def test_parts_are_those_of_the_cores() -> None:
    keys = [(about.implementer, about.part) for core, about in IDENTITIES.items() if core != "a55-bare"]
    assert len(set(keys)) == len(keys)
    assert IDENTITIES["a55-bare"] == IDENTITIES["a55"]  # what surrounds it differs, not the core


def test_a_root_holds_the_guest_and_the_profile(tmp_path: Path) -> None:
    guest, root = tmp_path / "guest", tmp_path / "root"
    (guest / "usr/bin").mkdir(parents=True)
    (guest / "usr/bin/python3.11").touch()
    root.mkdir()
    write_root(root, guest, profile(IDENTITIES["a76"], 2.84))
    assert (root / "usr/bin/python3.11").exists()
    assert (root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").read_text() == "2840000\n"
    assert "CPU implementer\t: 0x41\n" in (root / "proc/cpuinfo").read_text()


# ── judging ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def executed(net: Contents) -> tuple[int, int]:
    """MACs with every weight, and without the zeros of the 1×1 convolutions."""
    work = workload(net)
    return work.macs, sum(round(op.macs * op.nonzero / op.weights) for op in work.ops if op.weights)


def test_a_sparse_path_is_told_by_its_macs() -> None:
    net = mobilenet_v1(zeros=0.87, classifier=0.87).contents()
    dense, sparse = executed(net)
    assert (dense, sparse) == (568_740_352, 98_489_056)
    found = judge(net, round(1.03 * sparse))
    assert (found.runs_sparse, found.predicted_sparse, found.dense_macs) == (True, True, dense)
    assert not found.notes


def test_a_silent_dense_fallback_names_the_rule() -> None:
    net = mobilenet_v1(0.75, 0.9).contents()
    found = judge(net, round(1.02 * executed(net)[0]))
    assert not found.runs_sparse
    assert not found.predicted_sparse
    assert len(found.notes) == 1
    assert re.match(r"ran dense: \d+_fully_connected: .* XNNPACK goes sparse above 0.667 — prune", found.notes[0])


@pytest.mark.parametrize(
    ("classifier", "macs", "words"),
    [(0.9, 1.02, "dense where the rules predict sparse"), (0.0, 0.2, "sparse where the rules predict dense")],
)
def test_a_broken_prediction_is_said(classifier: float, macs: float, words: str) -> None:
    net = mobilenet_v1(0.75, 0.9, classifier=classifier).contents()
    found = judge(net, round(macs * executed(net)[0]))
    assert found.runs_sparse != found.predicted_sparse
    assert words in found.notes[0]


@given(zeros=st.floats(0.7, 0.99), padding=st.floats(1.0, 1.15))
@settings(max_examples=30)
def test_rounding_up_to_vectors_never_changes_the_verdict(zeros: float, padding: float) -> None:
    net = mobilenet_v1(0.5, zeros, classifier=zeros).contents()
    dense, sparse = executed(net)
    assert judge(net, round(padding * sparse)).runs_sparse
    assert not judge(net, round(padding * dense)).runs_sparse


def test_without_zeros_nothing_is_claimed() -> None:
    net = mobilenet_v1(zeros=0.0).contents()
    found = judge(net, executed(net)[0])
    assert not found.runs_sparse
    assert found.notes == ("too few zeros in 1×1 convolutions to tell a sparse path from a dense one",)
    assert not judge(TFLite(8).mean().contents(), 0).runs_sparse


# ── the run ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that looks set up, with a loader that only says what `say` holds and exits with its first number."""
    folder = tmp_path / "tools, of mine"
    for name in ("amd64/usr/bin/qemu-aarch64", "arm64/usr/bin/python3.11", "count.so", "guest.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "site/ai_edge_litert").mkdir(parents=True)
    (folder / "site/ai_edge_litert-2.3.0.dist-info").mkdir()
    (folder / "site/onnxruntime").mkdir()
    loader = folder / "amd64/lib64/ld-linux-x86-64.so.2"
    loader.parent.mkdir()
    loader.write_text(f"#!/bin/sh\n. '{folder}/say'\n")
    loader.chmod(0o755)
    monkeypatch.setenv("IDP_DEPLOY_EMULATOR", str(folder))
    monkeypatch.setattr(emulator, "read", lambda path: mobilenet_v1(zeros=0.0).contents(path=path))
    monkeypatch.setattr(emulator.platform, "system", lambda: "Linux")
    monkeypatch.setattr(emulator.platform, "machine", lambda: "x86_64")
    return folder


def window(instructions: int) -> str:
    counts = f'"instructions": {instructions}, "macs": 579739840, "bytes_loaded": 8, "bytes_stored": 4'
    return f"echo 'IDP-DEPLOY {{{counts}}}' >&2\n"


def test_counts_of_a_run(tools: Path) -> None:
    (tools / "say").write_text("echo INFO: ready >&2\n" + window(1001) + window(1003) + window(1000))
    found = emulate("net.tflite", load_target("pixel-2"), repeats=3)
    assert (found.core, found.runtime, found.target) == ("a73", "ai-edge-litert 2.3.0", "pixel-2")
    assert (found.instructions, found.executed_macs, found.bytes_loaded, found.bytes_stored) == (1001, 579739840, 8, 4)
    assert (found.repeats, found.spread, found.as_predicted) == (3, pytest.approx(0.003), True)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "echo RuntimeError: no such op >&2; exit 1",
            r"does not run on an emulated a73 \(exit 1\): RuntimeError: no such",
        ),
        ("exit 132", r"\(exit 132\): no message"),
        ("kill -ILL $$", r"\(exit -4\): no message"),
        (":", "0 of 1 inferences were counted"),
    ],
)
def test_a_run_that_fails_says_what_the_runtime_said(tools: Path, said: str, message: str) -> None:
    (tools / "say").write_text(said)
    with pytest.raises(ConversionError, match=message):
        emulate("net.tflite", load_target("pixel-2"))


def test_a_run_that_does_not_end_is_stopped(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tools / "say").write_text("exec sleep 60")
    monkeypatch.setattr(emulator, "LIMIT_SECONDS", 0.2)
    with pytest.raises(ConversionError, match="was not done after"):
        emulate("net.tflite", load_target("pixel-2"))


def test_a_folder_with_commas_is_no_trap(tools: Path) -> None:
    words = command(tools / "root", "cortex-a72", Path("net.tflite"), 1)
    assert f"file={str(tools / 'count.so').replace(',', ',,')}" in words
    assert words[-1] == "1"
    assert set(environment()) & set(os.environ) <= {"PATH", "LC_ALL", "LD_LIBRARY_PATH"} | {
        name for name in environment() if name.startswith(("PYTHON", "OPENBLAS"))
    }


def test_what_cannot_be_emulated_is_refused(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixel = load_target("pixel-2")
    for repeats in (0, -1, 257):
        with pytest.raises(UsageError, match=f"repeats is {repeats} — from 1 to 256"):
            emulate("net.tflite", pixel, repeats=repeats)
    with pytest.raises(UsageError, match="the emulator does not know"):
        emulate("net.tflite", load_target("iphone-12"))
    monkeypatch.setattr(emulator, "read", lambda path: TFLite().contents(path=path, format="coreml"))
    for target in ("pixel-2", "iphone-12"):
        with pytest.raises(UsageError, match=r"emulate a file of \.onnx or \.tflite"):
            emulate("net.mlpackage", load_target(target))


def test_an_emulator_that_is_not_set_up_says_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IDP_DEPLOY_EMULATOR", str(tmp_path))
    monkeypatch.setattr(emulator, "read", lambda path: mobilenet_v1().contents(path=path))
    with pytest.raises(MissingDependencyError, match=r"QEMU user mode .* 'make emulator' in a clone"):
        emulate("net.tflite", load_target("pixel-2"))
    monkeypatch.undo()
    with pytest.raises(FileError):
        emulate(tmp_path / "absent.tflite", load_target("pixel-2"))


def test_missing_tools_are_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IDP_DEPLOY_EMULATOR", str(tmp_path))
    missing = emulator_missing()
    assert any(f"the counting plugin ({tmp_path / 'count.so'})" == line for line in missing)
    assert any("QEMU user mode" in line for line in missing)
    for name in ("amd64/usr/bin/qemu-aarch64", "amd64/lib64/ld-linux-x86-64.so.2", "arm64/usr/bin/python3.11"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert len(emulator_missing()) == len(missing) - 3
    monkeypatch.setenv("IDP_DEPLOY_EMULATOR", str(tmp_path / "nowhere"))
    assert emulator_missing()[-1] == f"everything: {tmp_path / 'nowhere'} is not there"


def test_windows_are_read_among_other_lines() -> None:
    text = 'INFO: ready\nIDP-DEPLOY {"instructions": 3, "macs": 1}\nqemu: x\nIDP-DEPLOY {"instructions": 4}\n'
    assert parse_windows(text) == [{"instructions": 3, "macs": 1}, {"instructions": 4}]
    assert parse_windows("") == []


# ── the real thing ──────────────────────────────────────────────────────────────────────────────────────────────────

set_up = pytest.mark.skipif(bool(emulator_missing()), reason="'make emulator' has not set it up")


def written(path: Path, width: float, zeros: float, classifier: float, format: FormatName = "tflite") -> Path:
    """A MobileNet-v1 for 224-pixel images with random zeros in its 1×1 convolutions and its classifier."""
    torch.manual_seed(0)
    model = build(width=width, classes=1000).eval()
    shares = {name: zeros for name, p in model.named_parameters() if p.ndim == 4 and p.shape[2:] == (1, 1)}
    masks = {}
    for name, share in {**shares, "classifier.weight": classifier}.items():
        weight = model.get_parameter(name)
        masks[name] = torch.rand(weight.shape) >= share
        weight.data *= masks[name]
    return export(CompressedModel(model, masks), format, (torch.zeros(1, 3, 224, 224),), path).path


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., EmulationCounts]:
    folder = tmp_path_factory.mktemp("emulated")

    @functools.cache
    def file(width: float, zeros: float, classifier: float) -> Path:
        return written(folder / f"{width}-{zeros}-{classifier}.tflite", width, zeros, classifier)

    def run(width: float, zeros: float, classifier: float, target: str = "pixel-2") -> EmulationCounts:
        return emulate(file(width, zeros, classifier), load_target(target))

    return run


@set_up
@pytest.mark.slow
def test_a_dense_mobilenet_runs_its_568_million_macs(counts: Callable[..., EmulationCounts]) -> None:
    found = counts(1.0, 0.0, 0.0)
    assert found.dense_macs == 568_740_352
    assert found.executed_macs == pytest.approx(580e6, rel=0.01)
    assert not found.runs_sparse


@set_up
@pytest.mark.slow
def test_87_percent_zeros_leave_at_most_105_million_macs(counts: Callable[..., EmulationCounts]) -> None:
    found = counts(1.0, 0.87, 0.87)
    assert found.executed_macs <= 105_000_000
    assert (found.runs_sparse, found.predicted_sparse) == (True, True)
    again = counts(1.0, 0.87, 0.87)
    assert again.instructions == pytest.approx(found.instructions, rel=1e-5)


@set_up
@pytest.mark.slow
def test_a_dense_classifier_makes_the_whole_network_run_dense(counts: Callable[..., EmulationCounts]) -> None:
    dense, sparse = counts(0.75, 0.9, 0.0), counts(0.75, 0.9, 0.9)
    assert (dense.runs_sparse, sparse.runs_sparse) == (False, True)
    assert dense.as_predicted
    assert sparse.as_predicted
    assert "first 'classifier.weight'" in dense.notes[0]
    assert dense.instructions > 2.5 * sparse.instructions


@set_up
@pytest.mark.slow
def test_every_core_runs_and_chooses_its_own_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "net.tflite", 0.25, 0.0, 0.0)
    pixel = load_target("pixel-2")
    instructions = {}
    for core in IDENTITIES:
        runtime = pixel.runtimes[0].model_copy(update={"core": core})
        found = emulate(path, pixel.model_copy(update={"runtimes": (runtime,)}))
        assert found.core == core
        assert found.executed_macs == pytest.approx(found.dense_macs, rel=0.15)
        instructions[core] = found.instructions
    assert instructions["a53"] > 1.3 * instructions["a73"]  # in order: kernels of half the width


@set_up
@pytest.mark.slow
def test_a_file_the_emulated_runtime_refuses(tmp_path: Path) -> None:
    node = helper.make_node("NoSuchOperator", ["x"], ["y"], "odd", domain="nowhere")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([node], "graph", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "odd.onnx")
    with pytest.raises(ConversionError, match=r"does not run on an emulated a73 .*NoSuchOperator"):
        emulate(tmp_path / "odd.onnx", load_target("pixel-2"))


@set_up
@pytest.mark.slow
def test_onnxruntime_runs_dense_there(tmp_path: Path) -> None:
    found = emulate(written(tmp_path / "net.onnx", 0.25, 0.9, 0.9, "onnx"), load_target("pixel-2"), repeats=3)
    assert found.runtime.startswith("onnxruntime ")
    assert (found.runs_sparse, found.predicted_sparse) == (False, False)
    assert found.spread < 0.01
