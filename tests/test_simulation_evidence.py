"""No number without rows behind it: every target, runtime, arithmetic and thread count is walked and looked up."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from idp_deploy.flow import Budget, Estimate
from idp_deploy.gating import Evidence, gate
from idp_deploy.simulation import simulate
from idp_deploy.simulation.cost_model import ACCELERATOR_FAMILIES, FAMILIES, Core, precision_of
from idp_deploy.simulation.targets import Target, folder, list_targets, load_cores, load_target
from tests.contents import mobilenet_v1

OWN = {*ACCELERATOR_FAMILIES, "coreml-cpu"}


@dataclass(frozen=True)
class Published:
    """One row of the table, read here and not by the simulator."""

    family: str
    core: str
    precision: str
    threaded: bool
    device: str


@pytest.fixture(scope="module")
def published() -> list[Published]:
    cores = load_cores()
    with (folder() / "measurements" / "published.csv").open(newline="") as handle:
        return [
            Published(
                line["family"], cores[line["core"]].calibrated_as, precision_of(line["precision"], cores[line["core"]]),
                int(line["threads"]) > 1, line["device"],
            )
            for line in csv.DictReader(handle)
            if line["sparsity"] == "0"
        ]  # fmt: skip


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("works")
    shapes = "input = [7, 7, 64]\noutput = [7, 7, 64]\n"
    for dtype in ("float32", "float16", "int8"):
        (directory / f"{dtype}.toml").write_text(f'dtype = "{dtype}"\n[[ops]]\nclass = "conv"\n{shapes}')
    return {dtype: directory / f"{dtype}.toml" for dtype in ("float32", "float16", "int8")}


def rows_for(published: list[Published], family: str, core: Core, precision: str, threaded: bool) -> list[Published]:
    """The published rows that say something: of the runtime, or on a CPU of any portable runtime."""
    alike = [row for row in published if (row.precision, row.threaded) == (precision, threaded)]
    own = [row for row in alike if row.family == family]
    if family in ACCELERATOR_FAMILIES:
        return [row for row in own if row.core == core.calibrated_as]
    return own if own or family in OWN else [row for row in alike if row.family not in OWN]


def combinations(target: Target) -> Iterator[tuple[str, str, int]]:
    """Runtime, arithmetic, threads: its own runtimes and every family there is, up to all its cores."""
    most = sum(group.count for group in target.cores)
    for runtime in [*(r.name for r in target.runtimes), *sorted(FAMILIES)]:
        for dtype in ("float32", "float16", "int8"):
            for threads in sorted({1, 2, most // 2, most - 1, most} - {0}):
                yield runtime, dtype, min(threads, most)


@pytest.mark.wide
@pytest.mark.parametrize("target", [t for t in list_targets() if t.cores], ids=lambda target: target.name)
def test_every_number_has_published_rows_behind_it(
    target: Target, published: list[Published], works: dict[str, Path]
) -> None:
    answered = 0
    for runtime, dtype, threads in combinations(target):
        where = f"{target.name} {runtime} {dtype} {threads}"
        estimate = simulate(works[dtype], target, runtime=runtime, threads=threads)
        chosen = target.runtime("tflite", runtime)
        if estimate.latency_ms is None:
            assert estimate.reason, where
            assert estimate.basis is None, where
            continue
        answered += 1
        assert chosen is not None, where
        core = target.core(chosen)
        threaded = min(threads, target.alike(core)) > 1 and chosen.family not in OWN
        found = rows_for(published, chosen.family, core, precision_of(dtype, core), threaded)
        assert found, where
        assert estimate.basis is not None, where
        if estimate.basis.origin == "measured":
            found = [row for row in found if (row.device, row.core) == (target.measured_as, core.calibrated_as)]
        assert (estimate.basis.rows, estimate.basis.devices) == (
            len(found), len({row.device for row in found}),
        ), where  # fmt: skip
        assert estimate.basis.expected_error is None or estimate.basis.expected_error > 0
    assert answered or target.name == "x86-64-host"


@pytest.mark.wide
@pytest.mark.parametrize("target", [t for t in list_targets() if t.cores], ids=lambda target: target.name)
def test_more_threads_than_alike_cores_change_nothing_without_a_note(target: Target, works: dict[str, Path]) -> None:
    most = sum(group.count for group in target.cores)
    for runtime in target.runtimes:
        before: Estimate | None = None
        for threads in range(1, most + 1):
            now = simulate(works["float32"], target, runtime=runtime.name, threads=threads)
            alike = target.alike(target.core(runtime))
            if now.latency_ms is not None and threads > 1 and runtime.family in OWN:
                assert any("change nothing" in note for note in now.notes)
            elif now.latency_ms is not None and threads > alike:
                assert before is not None
                assert before.latency_ms is not None
                assert any(f"{threads} threads count as {alike}" in note for note in now.notes)
                assert now.latency_ms.middle == before.latency_ms.middle
            before = now


@pytest.mark.parametrize(
    ("target", "runtime", "dtype", "reason"),
    [
        ("galaxy-s24", "coreml-ane", "float32", "has no coreml-ane: it runs litert-xnnpack, onnxruntime"),
        ("pixel-4", "coreml-cpu", "float32", "has no coreml-cpu"),
        ("iphone-13", "coreml-ane", "float16", r"never measured on ane-a15 \(only on ane-a13, ane-a14\).*--anchor"),
        ("iphone-13", "coreml-gpu", "float16", "never measured on gpu-a15.*--anchor"),
        ("iphone-13", "coreml-cpu", "int8", "coreml-cpu was never measured in int8 arithmetic"),
        ("galaxy-s24", "paddle-lite-armv7", "float32", "a 32-bit build does not run on x4"),
    ],
)  # fmt: skip
def test_where_nothing_was_measured_the_reason_says_what_would_help(
    target: str, runtime: str, dtype: str, reason: str, works: dict[str, Path]
) -> None:
    estimate = simulate(works[dtype], load_target(target), runtime=runtime)
    assert estimate.latency_ms is None
    assert re.search(reason, estimate.reason), estimate.reason


def test_an_anchor_brings_the_number_that_no_publication_does(works: dict[str, Path]) -> None:
    target = load_target("iphone-13")
    assert simulate(works["float16"], target, runtime="coreml-ane").latency_ms is None
    anchored = simulate(works["float16"], target, runtime="coreml-ane", anchor={"mobilenet_v2_1.0_224": 0.6})
    assert anchored.latency_ms is not None
    assert anchored.basis is not None
    assert anchored.basis.origin == "anchored"


def test_a_budget_on_a_number_that_does_not_exist_fails_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "net.mlpackage").mkdir()
    contents = replace(mobilenet_v1(size=32).contents(path=tmp_path / "net.mlpackage"), format="coreml")
    (tmp_path / "work.toml").write_text('architecture = "mobilenet_v2_1.0_224"\nformat = "coreml"\n')
    estimate = simulate(tmp_path / "work.toml", load_target("iphone-13"))
    report = gate([Budget("iphone-13", "coreml", "latency", 100.0, "pyproject.toml")], [Evidence(contents, estimate)])
    assert not report.passed
    assert report.checks[0].verdict == "not estimable"
    assert "never measured on ane-a15" in report.checks[0].detail
