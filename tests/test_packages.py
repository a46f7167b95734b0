"""Model packages are folders: which may make way for another, told by content, with no library of their makers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from idp_deploy import files, packages
from idp_deploy.errors import FileError, UsageError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel
from idp_deploy.ownership import claim, is_ours
from idp_deploy.reading import read
from idp_deploy.verification import verify


def aimodel(place: Path, program: bytes = b"ML\xefR rest", **metadata: object) -> Path:
    place.mkdir()
    (place / "main.mlirb").write_bytes(program)
    (place / "main.hash").write_bytes(b"0" * 32)
    (place / "metadata.json").write_text(json.dumps({"assetVersion": "2.0", **metadata}))
    return place


def write(place: Path) -> None:
    with files.replacing(place, package=True) as temporary:
        aimodel(temporary, producer="new")


def with_note(place: Path) -> None:
    aimodel(place)
    (place / "notes.txt").write_text("mine")


def with_folder(place: Path) -> None:
    aimodel(place)
    (place / "compiled").mkdir()


def with_link(place: Path) -> None:
    aimodel(place)
    (place / "main.hash").unlink()
    (place / "main.hash").symlink_to("/etc/hostname")


KEPT: dict[str, Callable[[Path], object]] = {
    "empty": Path.mkdir,
    "note": with_note,
    "folder inside": with_folder,
    "link inside": with_link,
    "no bytecode": lambda place: aimodel(place, b"text"),
    "no version": lambda place: aimodel(place, assetVersion=None),
}


@pytest.mark.parametrize("what", KEPT)
def test_a_folder_that_is_no_core_ai_package_alone_is_never_replaced(tmp_path: Path, what: str) -> None:
    place = tmp_path / "m.aimodel"
    KEPT[what](place)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    for attempt in (write, claim):
        with pytest.raises(UsageError, match="Core AI package"):
            attempt(place)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    assert not is_ours(place)


def test_a_package_of_any_maker_makes_way_for_one_of_its_kind(tmp_path: Path) -> None:
    place = aimodel(tmp_path / "m.aimodel", producer="old")
    assert claim(place) == place
    write(place)
    assert json.loads((place / "metadata.json").read_text())["producer"] == "new"


def test_packages_of_two_kinds_make_no_way_for_each_other(tmp_path: Path) -> None:
    place = aimodel(tmp_path / "m.mlpackage")
    with pytest.raises(UsageError, match="no Core ML package"):
        write(place)
    assert (place / "main.mlirb").exists()


def test_what_lies_in_a_package_and_is_no_part_of_it_is_said_and_bounded(tmp_path: Path) -> None:
    place = aimodel(tmp_path / "m.aimodel")
    assert packages.strays(place) == ()
    (place / "notes.txt").write_text("mine")
    assert packages.strays(place) == ("holds notes.txt (4 B), which is no part of a Core AI package",)
    (place / "huge.bin").touch()
    os.truncate(place / "huge.bin", 20_000_000_000)
    with pytest.raises(FileError, match=r"m.aimodel: holds huge.bin \(20.0 GB\), .* — move it out of the package"):
        packages.strays(place)


def test_a_core_ml_package_with_somebody_elses_file_is_read_with_a_note(tmp_path: Path) -> None:
    model, place = CompressedModel(torch.nn.Linear(8, 4).eval(), {}), tmp_path / "m.mlpackage"
    export(model, "coreml", (torch.zeros(1, 8),), place)
    (place / "Data" / "com.apple.CoreML" / "more.bin").write_bytes(b"more")
    said = "holds Data/com.apple.CoreML/more.bin (4 B), which is no part of a Core ML package"
    assert said in read(place).warnings
    assert said in verify(place, model, (torch.zeros(1, 8),)).notes


def test_of_many_files_that_are_no_part_the_largest_are_named_and_the_others_counted(tmp_path: Path) -> None:
    place = aimodel(tmp_path / "m.aimodel")
    for number in range(300):
        (place / f"{number}.txt").write_bytes(bytes(100 + number))
    said = packages.strays(place)
    assert said[0] == "holds 295.txt (395 B), which is no part of a Core AI package"
    assert said[-1] == "holds 295 more (72.9 kB) that are no part of a Core AI package"
    assert len(said) == 6
    for number in range(300):
        os.truncate(place / f"{number}.txt", 1 << 17)
    with pytest.raises(FileError, match=r"holds 0.txt .*; holds 295 more \(38.7 MB\) .* — move them out of"):
        packages.strays(place)
