"""A second run does what has changed and nothing else; a killed one goes on where it was."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch

from idp_deploy.cli.app import _run
from idp_deploy.history.fingerprints import GONE, Digests, code_of, versions, watching
from tests.forked import command
from tests.tiny_project.tiny import build

TINY = Path(__file__).parent / "tiny_project" / "tiny.py"
CONFIGURATION = """\
model = "net:build"
task = "data:task"
weights = "w.pt"
output = "out"
targets = ["pixel-4"]

[prune]
target = 0.5
epochs = 1

[quantize]
scheme = "fp16"

[export]
to = ["onnx"]

[budgets.pixel-4.onnx]
size = "1 MB"
"""
NET = "from layers import wide\nfrom tiny import build as tiny\n\n\ndef build():\n    assert wide\n    return tiny()\n"
DATA = """\
import importlib
import json
from pathlib import Path

import tiny


def task():
    importlib.import_module("more_" + "things")  # a name that no reading finds
    json.loads(Path("settings.json").read_text())
    return tiny.task()
"""
STAGES = ("prune", "quantize", "export onnx", "gate")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that ran once."""
    folder = tmp_path_factory.mktemp("ran")
    shutil.copy(TINY, folder / "tiny.py")
    texts = {"net.py": NET, "data.py": DATA, "layers.py": "wide = True\n", "more_things.py": "", "other.py": ""}
    texts |= {"idp-deploy.toml": CONFIGURATION, "settings.json": "{}"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    torch.manual_seed(0)
    torch.save(build().state_dict(), folder / "w.pt")
    assert go(folder)[0] == 0
    return folder


@pytest.fixture
def project(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    shutil.copytree(base, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path / "project")
    assert _run(["run"], debug=False) == 0  # the report names files by their place, and is made again
    capsys.readouterr()
    return tmp_path / "project"


def go(folder: Path, *arguments: str) -> tuple[int, list[str], str, str]:
    """(exit code, the stages that ran, stdout, stderr) of `run` in a process of its own."""
    done = command("run", *arguments, folder=folder)
    return done.returncode, re.findall(r"^\[\d+/\d+\] ([^:]+):", done.stderr, re.MULTILINE), done.stdout, done.stderr


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


def append(name: str, text: str = "\n# another\n") -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_text((folder / name).read_text() + text))


def void(_: object) -> None:
    """A statement within a lambda."""


def one_less(folder: Path) -> None:
    """A format that was written before is no longer asked for."""
    edit("idp-deploy.toml", '["onnx"]', '["onnx", "coreml"]')(folder)
    assert go(folder)[:2] == (0, ["export coreml", "gate"])
    edit("idp-deploy.toml", '["onnx", "coreml"]', '["onnx"]')(folder)


def retrain(folder: Path) -> None:
    state = torch.load(folder / "w.pt", weights_only=True)
    torch.save({name: x * 1.5 if x.is_floating_point() else x for name, x in state.items()}, folder / "w.pt")


def again(folder: Path) -> None:
    os.utime(folder / "w.pt", (1, 1))
    os.utime(folder / "net.py", (1, 1))


def flip(folder: Path) -> None:
    """One bit of the file's last weight."""
    path = folder / "out" / "w.pruned.fp16.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def spoil(folder: Path) -> None:
    (folder / "out" / "w.pruned.fp16.onnx").write_bytes(b"my notes")


def pretend(folder: Path, package: str) -> None:
    """The record says that another release wrote it."""
    path = folder / "out" / "w.run.json"
    record = json.loads(path.read_text())
    for stage in record["stages"].values():
        if package in stage["inputs"]:
            stage["inputs"][package] = "0.0.1"
    path.write_text(json.dumps(record))


ALL = STAGES
CODE = ("prune", "quantize", "export onnx", "gate")
CHANGES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "nothing": (lambda folder: None, ()),
    "times alone": (again, ()),
    "a comment in the configuration": (append("idp-deploy.toml"), ()),
    "a module that nothing imports": (append("other.py"), ()),
    "weights": (retrain, ALL),
    "the model's module": (append("net.py"), CODE),
    "the task's module": (append("data.py"), CODE),
    "a module that the model imports": (append("layers.py"), CODE),
    "a module that is imported by a computed name": (append("more_things.py"), CODE),
    "a file that the task reads": (append("settings.json", "\n"), CODE),
    "prune.target": (edit("idp-deploy.toml", "target = 0.5", "target = 0.6"), ALL),
    "prune.seed": (edit("idp-deploy.toml", "epochs = 1", "epochs = 1\nseed = 3"), ALL),
    "quantize.scheme": (edit("idp-deploy.toml", '"fp16"', '"int8-weights"'), STAGES[1:]),
    "export.encoding": (edit("idp-deploy.toml", '["onnx"]', '["onnx"]\nencoding = "dense"'), STAGES[2:]),
    "a format more": (edit("idp-deploy.toml", '["onnx"]', '["onnx", "coreml"]'), ("export coreml", "gate")),
    "a format less": (one_less, ("gate",)),
    "a budget": (edit("idp-deploy.toml", '"1 MB"', '"2 MB"'), STAGES[3:]),
    "a target": (edit("idp-deploy.toml", '["pixel-4"]', '["pixel-4", "raspberry-pi-4"]'), STAGES[3:]),
    "torch": (lambda folder: pretend(folder, "torch"), STAGES[:3] + STAGES[3:]),
    "onnx": (lambda folder: pretend(folder, "onnx"), STAGES[2:]),
    "accelerate": (lambda folder: pretend(folder, "accelerate"), ALL),
    "idp-deploy": (lambda folder: pretend(folder, "idp-deploy"), ALL),
    "the pruned checkpoint deleted": (lambda folder: (folder / "out" / "w.pruned.pt").unlink(), ALL),
    "the quantized checkpoint deleted": (lambda folder: (folder / "out" / "w.pruned.fp16.pt").unlink(), STAGES[1:]),
    "the artifact deleted": (lambda folder: (folder / "out" / "w.pruned.fp16.onnx").unlink(), STAGES[2:]),
    "the artifact edited": (flip, STAGES[2:]),
    "the artifact replaced by something else": (spoil, STAGES[2:]),
    "the record deleted": (lambda folder: (folder / "out" / "w.run.json").unlink(), ALL),
    "the record damaged": (lambda folder: pretend(folder, "no such package"), ()),
}


@pytest.mark.wide
@pytest.mark.parametrize("change", CHANGES)
def test_what_depends_on_a_change_would_run_again_and_nothing_else(
    change: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, expected = CHANGES[change]
    make(project)
    assert foretold(capsys) == list(expected)


@pytest.mark.parametrize(
    "change",
    [
        "the artifact replaced by something else",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("weights", "quantize.scheme", "a budget")),
    ],
)
def test_what_is_foretold_is_done(change: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, expected = CHANGES[change]
    make(project)
    code, ran, _, errors = go(project)
    assert (code, ran) == (0, list(expected)), errors
    assert foretold(capsys) == []


def foretold(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The stages that `--dry-run` says would run."""
    assert _run(["run", "--dry-run", "--json"], debug=False) == 0
    return [stage["name"] for stage in json.loads(capsys.readouterr().out)["stages"] if stage["runs"]]


@pytest.mark.anew
def test_force_does_everything_again_and_makes_the_same_bytes(project: Path) -> None:
    before = {path.name: path.read_bytes() for path in (project / "out").glob("w.pruned*")}
    assert go(project, "--force")[1] == list(STAGES)
    assert {path.name: path.read_bytes() for path in (project / "out").glob("w.pruned*")} == before


def test_what_was_edited_is_kept_beside(project: Path) -> None:
    spoil(project)
    go(project)
    assert (project / "out" / "w.pruned.fp16.onnx.edited").read_bytes() == b"my notes"


def test_a_skipped_run_reports_the_same(project: Path) -> None:
    first, second = go(project, "--force", "--json"), go(project, "--json")
    assert second[1] == []
    assert json.loads(first[2]) == json.loads(second[2])


def test_a_run_with_nothing_to_do_takes_under_two_seconds_and_loads_no_torch(project: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (project / "out").rglob("*")}
    code = "import sys; from idp_deploy.cli.app import _run; sys.exit(_run(['run'], False) or 'torch' in sys.modules)"
    took = []
    for _ in range(3):
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], cwd=project, check=True, capture_output=True)
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime)
    assert min(took) < 1.5  # of the processor, since others may be at work here
    assert {path: path.stat().st_mtime_ns for path in (project / "out").rglob("*")} == before


@pytest.mark.wide
@pytest.mark.parametrize("budget", ["", '[budgets.pixel-4.tflite]\nsize = "1 MB"\n'])
def test_a_format_that_is_refused_leaves_the_others_and_is_tried_again(budget: str, project: Path) -> None:
    configuration = project / "idp-deploy.toml"
    text = configuration.read_text().replace('["onnx"]', '["onnx", "tflite"]').replace('"fp16"', '"lut4"') + budget
    configuration.write_text(text)
    code, ran, out, errors = go(project, "--json")
    report, reason = json.loads(out), "the scheme 'lut4' has no TFLite equivalent"
    assert ran == ["quantize", "export onnx", "export tflite", "gate"]
    assert (project / "out" / "w.pruned.lut4.onnx").is_file()
    assert [one["format"] for one in report["parities"]] == ["onnx"]
    assert report["refused"]["tflite"].startswith(reason)
    assert not report["passed"]
    assert f"tflite is refused: {reason}" in errors
    verdicts = {check["format"]: (check["verdict"], check["detail"]) for check in report["checks"]}
    assert verdicts["onnx"][0] == "pass"
    if budget:
        assert code == 1
        assert verdicts["tflite"] == ("not estimable", f"the file was refused: {reason}")
    else:
        assert code == 3
        assert errors.splitlines()[-1].startswith(f"error: {reason}") or reason in errors.splitlines()[-1]
    code, ran, out, _ = go(project, "--json")
    assert (code, ran) == (1 if budget else 3, ["export tflite", "gate"])
    assert json.loads(out) == report
    configuration.write_text(text.replace('"lut4"', '"int8-weights"'))
    assert go(project)[:2] == (0, ["quantize", "export onnx", "export tflite", "gate"])


def test_all_formats_refused_and_the_only_one(project: Path) -> None:
    configuration = project / "idp-deploy.toml"
    text = configuration.read_text().replace('"fp16"', '"lut4"').replace("onnx]", "tflite]")
    configuration.write_text(text.replace('["onnx"]', '["tflite"]'))
    code, ran, out, errors = go(project)
    assert (code, ran, out) == (3, ["quantize", "export tflite"], "")
    assert "the scheme 'lut4' has no TFLite equivalent" in errors


def test_a_killed_run_goes_on_where_it_was(project: Path) -> None:
    expected = {path.name: path.read_bytes() for path in (project / "out").glob("w.pruned*")}
    shutil.rmtree(project / "out")
    line = [sys.executable, "-m", "idp_deploy", "run"]
    process = subprocess.Popen(line, cwd=project, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for text in process.stderr:
        if text.startswith("[2/4]"):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert go(project)[1] == list(STAGES[1:])
    assert {path.name: path.read_bytes() for path in (project / "out").glob("w.pruned*")} == expected


@pytest.mark.slow
def test_training_that_was_killed_goes_on_from_its_last_epoch(project: Path) -> None:
    edit("idp-deploy.toml", "epochs = 1", "epochs = 3")(project)
    assert go(project)[0] == 0
    expected = (project / "out" / "w.pruned.pt").read_bytes()
    shutil.rmtree(project / "out")
    process = subprocess.Popen(
        [sys.executable, "-m", "idp_deploy", "run"], cwd=project, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for text in process.stderr:
        if text.startswith("epoch   2/3"):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    _, ran, _, errors = go(project)
    assert ran == list(STAGES)
    assert "epoch   1/3" not in errors
    assert (project / "out" / "w.pruned.pt").read_bytes() == expected


def test_a_dry_run_before_the_first_tells_time_and_size_and_writes_nothing(project: Path) -> None:
    shutil.rmtree(project / "out")
    before = sorted(project.rglob("*"))
    code, ran, out, _ = go(project, "--dry-run", "--json")
    stages = {stage["name"]: stage for stage in json.loads(out)["stages"]}
    assert (code, ran) == (0, [])
    assert [path for path in sorted(project.rglob("*")) if "__pycache__" not in path.parts] == before
    assert stages["prune"]["seconds"] > 0
    assert "w.pt" in " ".join(stages["prune"]["inputs"])
    assert 500 < stages["export onnx"]["size_bytes"] < 20_000


def test_a_file_that_disagrees_is_no_finished_stage(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from idp_deploy.flow import OutputParity

    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    with monkeypatch.context() as patch:
        patch.setattr(OutputParity, "passed", property(lambda _: False))
        assert _run(["run", "--force"], debug=False) == 1
    assert go(project)[1] == list(STAGES[2:])


# ── what a stage depends on ─────────────────────────────────────────────────────────────────────────────────────────


def test_code_is_followed_through_every_form_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "pkg/__init__.py": "from .first import x\n",
        "pkg/first.py": "from . import second\nx = 1\n",
        "pkg/second.py": "def late():\n    import deep.down.below\n",
        "pkg/apart.py": "raise SystemExit('reading runs nothing')\nimport pydantic, json\nfrom .broken import y\n"
        "import inner.one\n",
        "src/inner/one.py": "",
        "pkg/broken.py": "def (:\n",
        "pkg/unused.py": "",
        "conf/sizes.py": "import numpy\n",
        "deep/down/below.py": "",
        "deep/__init__.py": "",
        ".venv/lib/python3.11/site-packages/theirs.py": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / ".venv/lib/python3.11/site-packages"))
    found = code_of(["pkg.apart:build(width=2, sizes=conf.sizes.Sizes(wide=3), text='os.path')", "theirs:task"])
    assert [str(path.relative_to(tmp_path)) for path in found.files] == [
        "conf/sizes.py",
        "deep/__init__.py",
        "deep/down/below.py",
        "pkg/__init__.py",
        "pkg/apart.py",
        "pkg/broken.py",
        "pkg/first.py",
        "pkg/second.py",
        "src/inner/one.py",
    ]
    assert set(found.packages) == {"numpy", "pydantic", "theirs"}


def test_files_that_are_written_are_no_inputs(tmp_path: Path) -> None:
    for name in ("read.txt", "own/result.txt", ".hidden/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    with watching([tmp_path], without=[tmp_path / "own"]) as seen:
        (tmp_path / "log.txt").write_text("")
        for name in ("read.txt", "log.txt", "own/result.txt", ".hidden/x"):
            (tmp_path / name).read_text()
    assert seen == {tmp_path / "read.txt"}


def test_what_has_no_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    assert [Digests().of(tmp_path / name) for name in ("pipe", "endless")] == [GONE, GONE]


def test_versions_are_those_installed() -> None:
    assert versions(["typer"]) == {"typer": metadata.version("typer")}
