"""Every device file, and what a broken one is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from idp_deploy.errors import UsageError
from idp_deploy.formats import FORMATS
from idp_deploy.simulation.cost_model import FAMILIES
from idp_deploy.simulation.targets import VENDORS, folder, list_targets, load_cores, load_target, parse, read_targets

NAMES = sorted(path.stem for path in folder().glob("*.toml") if path.name != "cores.toml")
WANTED = [
    *(f"pixel-{n}" for n in (2, 3, 4, 6, 7, 8)), "galaxy-s23", "galaxy-s24", "iphone-7", "iphone-8", "iphone-xs",
    "iphone-11-pro", "iphone-12", "iphone-13", "iphone-14-pro", "iphone-15-pro", "apple-watch-s9",
    "raspberry-pi-zero-2-w", "raspberry-pi-3b-plus", "raspberry-pi-4", "raspberry-pi-5", "rk3399", "rk3588", "custom",
]  # fmt: skip


def test_the_devices_people_ask_for_are_there() -> None:
    assert set(WANTED) <= set(NAMES)
    assert len(NAMES) >= 25
    assert [target.name for target in list_targets()] == NAMES


@pytest.mark.wide
@pytest.mark.parametrize("name", NAMES)
def test_every_device_names_its_sources_and_runtimes(name: str) -> None:
    target = load_target(name)
    assert all(target.sources)
    ours = [runtime for runtime in target.runtimes if runtime.family not in VENDORS]
    assert {"tflite", "onnx"} <= {runtime.format for runtime in target.runtimes} or not ours
    assert {runtime.format for runtime in target.runtimes} <= set(FORMATS)
    assert {runtime.family for runtime in target.runtimes} <= FAMILIES | VENDORS
    assert (target.confidence == "measured") == bool(target.measured_as)
    assert f"[tool.idp-deploy.budgets.{name}." in (folder() / f"{name}.toml").read_text()
    for runtime in ours:
        assert target.core(runtime).macs_per_ms > 0


def test_measured_devices_have_measurements() -> None:
    text = (folder() / "measurements" / "published.csv").read_text()
    for target in list_targets():
        if target.measured_as:
            assert f"\n{target.measured_as}," in text, target.name


def test_every_published_row_names_its_source() -> None:
    import csv

    with (folder() / "measurements" / "published.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) > 1000
    for row in rows:
        assert row["source"]
        assert row["core"] in load_cores()
        assert float(row["latency_ms"]) > 0
        assert not any(word in row["notes"] for word in ("NOISY", "OUTLIER", "DOUBTFUL", "do not calibrate"))


def test_an_unknown_target_lists_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown target 'pixel4' — nearest: pixel-4"):
        load_target("pixel4")
    with pytest.raises(UsageError, match="raspberry-pi-4"):
        load_target("Raspberry Pi 4")


def test_the_users_own_targets_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (folder() / "pixel-4.toml").read_text()
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "pixel-4.toml").write_text(text.replace("Google Pixel 4", "My Pixel 4"))
    (tmp_path / "targets" / "mine.toml").write_text(text.replace("Google Pixel 4", "Mine"))
    monkeypatch.chdir(tmp_path)
    assert load_target("pixel-4").device == "My Pixel 4"
    assert load_target("mine").device == "Mine"
    assert "mine" in [target.name for target in list_targets()]


def test_a_file_that_is_no_device_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "linker.toml").write_text('[build]\ntarget = "aarch64"\n')
    (tmp_path / "targets" / "folder.toml").mkdir()
    (tmp_path / "targets" / "pixel-4.toml").write_text("soc = 3\n")
    monkeypatch.chdir(tmp_path)
    usable, unusable = read_targets()
    assert [target.name for target in usable] == [name for name in NAMES if name != "pixel-4"]
    assert len(unusable) == 3
    assert all(any(f"{name}.toml" in str(error) for error in unusable) for name in ("linker", "folder", "pixel-4"))
    for name, wrong in (
        ("linker", "linker.toml: 'device'"),
        ("folder", "cannot be read"),
        ("pixel-4", "pixel-4.toml: 'device'"),
    ):
        with pytest.raises(UsageError, match=wrong):
            load_target(name)


MEASURED = '[[measurements]]\nmodel = "mobilenet_v2"\nruntime = "{}"\nlatency_ms = {}\n#'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("ram_gb =", "ran_gb ="), "'ran_gb'"),
        (("a76", "a67"), "unknown core 'a67' — nearest: a"),
        (('"xnnpack"', '"xnpack"'), "unknown runtime family 'xnpack' — nearest: xnnpack"),
        (("ghz = 2.84", 'ghz = "fast"'), "cores.0.ghz"),
        (("[[runtimes]]", "[[runtimes"), "not TOML"),
        (("ghz = 2.84", "ghz = -1"), "greater than 0"),
        (("# Budgets", "\n" + MEASURED.format("lite", 12)), "unknown runtime 'lite' — nearest: litert-"),
        (("# Budgets", "\n" + MEASURED.format("zzz", 12)), "unknown runtime 'zzz' — one of litert-gpu, litert-xnnpack"),
        (
            ("# Budgets", "\n" + MEASURED.format("litert-gpu", 12) + "\n" + MEASURED.format("litert-gpu", 60)),
            "two latencies in one",
        ),
    ],
)
def test_a_broken_device_file_says_what_is_wrong(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text((folder() / "pixel-4.toml").read_text().replace(*change))
    with pytest.raises(UsageError, match=r"broken\.toml") as caught:
        parse(path)
    assert message in str(caught.value)


def test_a_runtime_by_name_or_family() -> None:
    target = load_target("pixel-4")
    assert target.runtime("tflite").name == "litert-xnnpack"  # type: ignore[union-attr]
    assert target.runtime("coreml") is None
    assert target.runtime("tflite", "ncnn").family == "ncnn"  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"no runtime 'xnpack' — nearest: .*xnnpack"):
        target.runtime("tflite", "xnpack")


def test_simulation_starts_without_torch_scipy_or_sklearn() -> None:
    code = (
        "import sys; from pathlib import Path; from idp_deploy.simulation import simulate;"
        "from idp_deploy.simulation.targets import load_target; load_target('pixel-4');"
        "sys.exit(bool({'torch', 'scipy', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
