"""Every command × everything that can stand where it writes: what happens, and that nothing of the user's is lost."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import AF_UNIX
from socket import socket as Socket
from tempfile import TemporaryDirectory

import pytest
import torch

from idp_deploy.cli.app import COMMANDS, _run
from idp_deploy.flow import Parity
from tests.formats_here import HERE

TINY = Path(__file__).parent / "tiny_project" / "tiny.py"
CONFIGURATION = """
model = "tiny:build"
task = "tiny:task"
weights = "model.pt"
output = "out"
targets = ["pixel-4"]

[prune]
target = 0.5
epochs = 1

[export]
to = ["onnx"]
"""


@dataclass(frozen=True)
class Row:
    """A command line, and the place it writes to."""

    arguments: str
    place: str
    named: bool = True  # by the user, so that any file there may be replaced
    package: bool = False
    folder: bool = False  # that is written as a whole, where there is none

    @property
    def command(self) -> str:
        return self.arguments.split()[0]

    @property
    def is_heavy(self) -> bool:
        """Whether it trains or converts."""
        return self.command in ("run", "compare", "harden", "export") or self.arguments in TRAINING


def unnamed(arguments: str, place: str, package: bool = False) -> Row:
    return Row(arguments, place, named=False, package=package)


TRAINING = ("prune model.pt --soft", "prune model.pt -o new.pt")


COMPARE = "compare model.pt --methods gmp,magnitude --seeds 2 --epochs 1"
ROWS = (
    Row("prune model.pt --one-shot -o new.pt", "new.pt"),
    unnamed("prune model.pt --one-shot", "model.pruned.pt"),
    unnamed("prune model.pt --soft", "model.soft.pt"),
    unnamed("prune model.pt -o new.pt", "new.resume/training_state.pt"),
    Row("harden model.soft.pt -o new.pt", "new.pt"),
    unnamed("harden model.soft.pt", "model.pruned.pt"),
    Row("shrink model.channels.pt -o new.pt", "new.pt"),
    unnamed("shrink model.channels.pt", "model.channels.small.pt"),
    Row("quantize net.pt --scheme fp16 -o new.pt", "new.pt"),
    unnamed("quantize net.pt --scheme fp16", "net.fp16.pt"),
    unnamed("export net.pt --to onnx -o out", "out/net.onnx"),
    unnamed("export net.pt --to onnx -o out --no-verify", "out/net.onnx"),
    unnamed("export net.pt --to tflite", "net.tflite"),
    unnamed("export net.pt --to coreml", "net.mlpackage", package=True),
    unnamed("export net.pt --to coreml --no-verify -o app.mlpackage", "app.mlpackage", package=True),
    *([unnamed("export net.pt --to coreai", "net.aimodel", package=True)] if "coreai" in HERE else []),
    Row("restore dense/net.onnx -o new.onnx", "new.onnx"),
    unnamed("restore dense/net.onnx", "dense/net.sparse.onnx"),
    Row("verify net.onnx net.pt -o report", "report"),
    Row("inspect net.onnx -o report", "report"),
    Row("simulate net.onnx -o report", "report"),
    Row("diff dense/net.onnx net.onnx -o report", "report"),
    Row("check net.onnx -o report", "report"),
    Row("run -o report", "report"),
    unnamed("run", "out/model.pruned.pt"),
    unnamed("run", "out/model.pruned.onnx"),
    unnamed("run", "out/model.run.json"),
    Row(f"{COMPARE} -o report", "report"),
    unnamed(COMPARE, "model.compare.json"),
    Row("targets -o report", "report"),
    Row("targets new my-board --force", "targets/my-board.toml"),
    Row("init my.toml --force", "my.toml"),
    Row("schema report -o new.json", "new.json"),
    Row("new demo", "demo", folder=True),
    Row("doctor -o report", "report"),
)

Thing = Callable[[Path, Path], None]
OURS = {".aimodel": "net.aimodel"}


def ours(base: Path, place: Path) -> None:
    """A file that an earlier run of the same command left."""
    made = {".pt": "net.pt", ".onnx": "net.onnx", ".tflite": "net.tflite", ".json": "ours.compare.json"}
    shutil.copy(base / made.get(place.suffix, "net.pt"), place)


def package(place: Path, debugging: bool = False) -> None:
    data = place / "Data" / "com.apple.CoreML"
    (data / "weights").mkdir(parents=True)
    (data / "weights" / "weight.bin").write_bytes(b"weights")
    (data / "model.mlmodel").write_bytes(b"model")
    items = {name: {"path": f"com.apple.CoreML/{name}", "name": name} for name in ("model.mlmodel", "weights")}
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": "model.mlmodel"}
    (place / "Manifest.json").write_text(json.dumps(manifest))
    if debugging:
        (place / "executorch_debug_handle_mapping.json").write_text("{}")


def aimodel(place: Path) -> None:
    place.mkdir(parents=True)
    (place / "main.mlirb").write_bytes(b"ML\xefR")
    (place / "metadata.json").write_text('{"assetVersion": "2.0"}')


def foreign_package(base: Path, place: Path) -> None:
    aimodel(place) if place.suffix == ".aimodel" else package(place, debugging=True)


def noted_package(base: Path, place: Path) -> None:
    foreign_package(base, place)
    (place / "notes.txt").write_text("mine")
    if place.suffix != ".aimodel":
        (place / "notes.txt").rename(place / "Data" / "notes.txt")


def full(base: Path, place: Path) -> None:
    (place / "inside").mkdir(parents=True)
    (place / "inside" / "thesis.tex").write_text("mine")


def linked(thing: Thing) -> Thing:
    def made(base: Path, place: Path) -> None:
        target = place.parent / f"elsewhere{place.suffix}"
        thing(base, target)
        place.symlink_to(target.name)

    return made


THINGS: dict[str, Thing] = {
    "nothing": lambda base, place: None,
    "file of ours": ours,
    "other file": lambda base, place: void(place.write_text("mine")),
    "empty folder": lambda base, place: place.mkdir(),
    "full folder": full,
    "our package": lambda base, place: void(shutil.copytree(base / OURS.get(place.suffix, "net.mlpackage"), place)),
    "foreign package": foreign_package,
    "package with a note in it": noted_package,
}
THINGS |= {f"link to {name}": linked(thing) for name, thing in THINGS.items()}
THINGS |= {
    "pipe": lambda base, place: os.mkfifo(place),
    "link to itself": lambda base, place: place.symlink_to(place.name),
    "link to a device": lambda base, place: place.symlink_to("/dev/null"),
    "link into a file": lambda base, place: place.symlink_to(base / "model.pt" / "inside"),
    "socket": lambda base, place: socket(place),
}
CODES = {"link into a file": 3}  # of what is refused; else 2


def socket(place: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, Socket(AF_UNIX) as made:
        patch.chdir(place.parent)  # the whole path may be longer than the system takes
        made.bind(place.name)


def void(_: object) -> None:
    """A statement within a lambda."""


def is_written(row: Row, thing: str) -> bool:
    """What the table says: whether the command writes; else it refuses."""
    thing = thing.removeprefix("link to ")
    if row.folder:
        return thing in ("nothing", "empty folder")
    if row.package:
        return thing in ("nothing", "our package", "foreign package")
    return thing in ("nothing", "file of ours") or (row.named and thing == "other file")


def cases() -> Iterator[object]:
    """The whole table; what takes long and differs from its neighbour in a link alone is left to `make test-slow`."""
    for row in ROWS:
        for thing in THINGS:
            repeats = is_written(row, thing) and thing not in ("nothing", "our package")
            marks = [pytest.mark.slow] if row.is_heavy and repeats else []
            yield pytest.param(row, thing, marks=marks, id=f"{row.arguments} → {row.place}: {thing}")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with one of everything that a command reads."""
    pytest.importorskip("coremltools")
    pytest.importorskip("litert_torch")
    folder = tmp_path_factory.mktemp("base")
    shutil.copy(TINY, folder / "tiny.py")
    (folder / "idp-deploy.toml").write_text(CONFIGURATION)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        import tiny  # type: ignore[import-not-found]

        torch.manual_seed(0)
        torch.save(tiny.build().state_dict(), "model.pt")
        for line in (
            "prune model.pt --one-shot -o net.pt",
            "prune model.pt --soft",
            "prune model.pt --one-shot --pattern channel -o model.channels.pt",
            "export net.pt --to all",
            "export net.pt --to onnx --encoding dense -o dense",
            *(["export net.pt --to coreai"] if "coreai" in HERE else []),
        ):
            assert _run(line.split(), debug=False) == 0
        (folder / "ours.compare.json").write_text(json.dumps({"kind": "idp-deploy comparison, version 1"}))
        shutil.rmtree(".idp-deploy")
        shutil.rmtree("__pycache__", ignore_errors=True)
        yield folder


@pytest.fixture
def project(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copied(base, tmp_path / "project", monkeypatch)


def copied(base: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(base, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "tiny", raising=False)  # a command begins without the tiny.py of another folder
    return folder


def tree(folder: Path) -> dict[str, str | bytes]:
    """Everything there is by name: a link's target, a file's bytes, or what else it is."""
    found: dict[str, str | bytes] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            value: str | bytes = f"link to {os.readlink(path)}"
        elif path.is_file():
            value = path.read_bytes()
        else:
            value = "folder" if path.is_dir() else "pipe"
        found[str(path.relative_to(folder))] = value
    return found


def test_every_command_has_a_row() -> None:
    assert {row.command for row in ROWS} == set(COMMANDS)


@pytest.mark.wide
@pytest.mark.parametrize(("row", "thing"), list(cases()))
def test_what_stands_at_the_output_is_kept_unless_it_may_be_replaced(
    row: Row, thing: str, project: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = project / row.place
    if place.exists():
        (shutil.rmtree if place.is_dir() else os.unlink)(place)
    place.parent.mkdir(exist_ok=True)
    THINGS[thing](base, place)
    before = tree(project)
    code = _run(row.arguments.split(), debug=False)
    after = tree(project)
    if not is_written(row, thing):
        assert code == CODES.get(thing, 2)
        assert row.place in capsys.readouterr().err
        assert after == before
        return
    assert code == 0
    assert place.is_symlink() == thing.startswith("link")
    written = place.resolve().relative_to(project.resolve())
    lost = {name for name, value in before.items() if after.get(name) != value}
    assert all(Path(name).is_relative_to(written) for name in lost)
    if row.place not in ("model.compare.json", "new.resume/training_state.pt"):  # gone once the work is done
        assert (
            after[str(written)] != before.get(str(written))
            or row.package
            or row.folder
            or thing.endswith("file of ours")
        )
    assert not [name for name in after if ".idp-deploy-" in name or ".tmp" in name]


@pytest.mark.wide
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.arguments} → {row.place}")
def test_a_folder_without_permission_is_said_before_the_work(
    row: Row, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with TemporaryDirectory() as outer:  # pytest's own folders are closed to other users
        os.chmod(outer, 0o755)
        folder = copied(base, Path(outer) / "project", monkeypatch)
        before = tree(folder)
        with locked(folder), nobody():
            code = _run(row.arguments.split(), debug=False)
        assert tree(folder) == before
        monkeypatch.chdir("/")
    assert code == 3
    said = capsys.readouterr().err
    assert "takes no new files" in said
    none = row.arguments.split()[0] in ("compare", "init", "new", "run", "targets")  # their -o is the report's
    assert ("with -o" in said) == (not none or "-o" in row.arguments)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    mode = stat.S_IMODE(folder.stat().st_mode)
    folder.chmod(0o555)
    yield
    folder.chmod(mode)


@contextmanager
def nobody() -> Iterator[None]:
    """As another user where this one is root, whom no permission stops."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)
    yield
    os.setresuid(0, 0, 0)


@pytest.mark.parametrize("arguments", ["check net.onnx --budgets b.toml", "restore dense/net.onnx", "targets"])
def test_no_report_and_no_file_takes_the_place_of_a_configuration(arguments: str, project: Path) -> None:
    (project / "b.toml").write_text(limits := '[budgets.pixel-4.onnx]\nsize = "1 MB"\n')
    assert _run([*arguments.split(), "-o", "b.toml"], debug=False) == 2
    assert (project / "b.toml").read_text() == limits


@pytest.mark.wide
@pytest.mark.parametrize(
    ("thing", "home"),
    [
        ("nothing", "rejected"),
        ("full folder", "rejected-2"),
        ("other file", "rejected-2"),
        ("link to full folder", "rejected-2"),
    ],
)
def test_what_failed_never_goes_into_a_folder_of_the_users(
    thing: str, home: str, project: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parity, "passed", property(lambda _: False))
    THINGS[thing](base, project / "rejected")
    before = tree(project)
    for _ in range(2):  # the second time it is ours
        assert _run(["export", "net.pt", "--to", "onnx"], debug=False) == 3
    after = tree(project)
    assert before.items() <= after.items()
    assert (project / home / "net.onnx").is_file()
    assert {name.split("/")[0] for name in after} - {name.split("/")[0] for name in before} == {home, ".idp-deploy"}
