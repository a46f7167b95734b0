"""Core ML packages that are broken, truncated or made to harm: each is refused with one message, none runs anything."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from idp_deploy.errors import FileError
from idp_deploy.formats.coreml.read.blob import Blob
from idp_deploy.reading import read
from tests import coreml_files as by_hand

MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
BLOB = Path("Data/com.apple.CoreML/weights/weight.bin")


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    return by_hand.linear_package(tmp_path / "linear.mlpackage")


def _linear(weight: str, rows: int) -> bytes:
    return by_hand.operation("linear", "fc", {"x": "x", "weight": weight}, outputs=[("y", "float32", (1, rows))])


def _decode_all(path: Path) -> None:
    for tensor in read(path).tensors:
        tensor.values()


def _refused(path: Path, reason: str) -> None:
    with pytest.raises(FileError, match=reason) as caught:
        _decode_all(path)
    assert str(path) in str(caught.value) or "weight.bin" in str(caught.value)


def test_a_file_is_not_a_package(tmp_path: Path) -> None:
    path = tmp_path / "m.mlpackage"
    path.write_bytes(b"PK\x03\x04")
    _refused(path, "is not a directory")


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"rootModelIdentifier": "a", "itemInfoEntries": {}}',
        "[" * 100_000,
        '{"itemInfoEntries": 1}',
    ],
)
def test_a_broken_manifest_is_refused(linear: Path, manifest: str) -> None:
    (linear / "Manifest.json").write_text(manifest)
    _refused(linear, "Manifest.json is missing or broken")


def test_a_manifest_cannot_point_outside(linear: Path) -> None:
    entries = {"a": {"path": "../../../../etc/passwd"}}
    (linear / "Manifest.json").write_text(json.dumps({"rootModelIdentifier": "a", "itemInfoEntries": entries}))
    _refused(linear, "outside the package")


def test_a_link_out_of_the_package_is_refused(linear: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    (linear / MODEL).unlink()
    (linear / MODEL).symlink_to(secret)
    _refused(linear, "outside the package")


def test_a_missing_part_is_refused(linear: Path) -> None:
    shutil.rmtree((linear / BLOB).parent)
    _refused(linear, "cannot read the weights")
    (linear / MODEL).unlink()
    _refused(linear, "cannot read")


def test_an_empty_model_is_refused(linear: Path) -> None:
    (linear / MODEL).write_bytes(b"")
    _refused(linear, "no ML program")


def test_every_truncation_of_the_program_is_refused_or_harmless(linear: Path) -> None:
    data = (linear / MODEL).read_bytes()
    refused = 0
    for length in range(0, len(data), 7):
        (linear / MODEL).write_bytes(data[:length])
        try:
            read(linear)
        except FileError:
            refused += 1
    assert refused == len(range(0, len(data), 7))


def test_no_flipped_byte_of_the_program_escapes_as_another_error(linear: Path) -> None:
    data = (linear / MODEL).read_bytes()
    for at in range(0, len(data), 3):
        for flip in (0x01, 0x80, 0xFF):
            broken = bytearray(data)
            broken[at] ^= flip
            (linear / MODEL).write_bytes(bytes(broken))
            with contextlib.suppress(FileError):
                _decode_all(linear)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (4, struct.pack("<I", 1), "version 1"),
        (64, b"\0\0\0\0", "no record"),
        (68, struct.pack("<I", 2), "float32"),
        (72, struct.pack("<Q", 6), "holds 6 bytes"),
        (72, struct.pack("<Q", 1 << 63), "outside the file"),
        (80, struct.pack("<Q", 1 << 40), "outside the file"),
        (80, struct.pack("<Q", 0), "outside the file"),
    ],
)
def test_a_broken_blob_is_refused(linear: Path, offset: int, value: bytes, reason: str) -> None:
    data = bytearray((linear / BLOB).read_bytes())
    data[offset : offset + len(value)] = value
    (linear / BLOB).write_bytes(bytes(data))
    _refused(linear, reason)


def test_a_short_blob_is_refused(linear: Path) -> None:
    data = (linear / BLOB).read_bytes()
    for length, reason in (
        (0, "cannot read the weights"),
        (32, "less than its header"),
        (64, "no record"),
        (130, "outside"),
    ):
        (linear / BLOB).write_bytes(data[:length])
        _refused(linear, reason)


def test_a_mask_that_disagrees_with_its_values_is_refused(tmp_path: Path) -> None:
    op = by_hand.operation(
        "constexpr_sparse_to_dense",
        "w",
        attributes={
            "nonzero_data": by_hand.number(np.array([1, 2, 3], np.float16)),
            "mask": by_hand.number(np.array([0b11], np.uint8)),
            "shape": by_hand.number(np.array([2, 2], np.uint32)),
        },
        outputs=[("w", "float16", (2, 2))],
    )
    _refused(by_hand.package(tmp_path / "m.mlpackage", [op, _linear("w", 2)]), "keeps 2 entries, 3 are stored")


def test_an_unknown_compression_is_refused(tmp_path: Path) -> None:
    op = by_hand.operation("constexpr_magic", "w", outputs=[("w", "float16", (2, 2))])
    _refused(by_hand.package(tmp_path / "m.mlpackage", [op, _linear("w", 2)]), "constexpr_magic")


def test_a_shape_that_promises_the_world_is_refused(tmp_path: Path) -> None:
    op = by_hand.const("w", by_hand.in_blob("float16", (1 << 40, 1 << 40), 64), "float16", (1 << 40, 1 << 40))
    _refused(by_hand.package(tmp_path / "m.mlpackage", [op], outputs=(), blob=by_hand.Blob()), "cannot be")


def test_constants_that_need_each_other_are_refused(tmp_path: Path) -> None:
    ops = [
        by_hand.operation(
            "constexpr_sparse_to_dense", a, {"nonzero_data": b, "mask": b}, outputs=[(a, "float16", (2, 2))]
        )
        for a, b in (("v", "w"), ("w", "v"))
    ]
    _refused(by_hand.package(tmp_path / "m.mlpackage", [*ops, _linear("w", 2)]), "made from something")


def test_blob_reads_check_the_size(linear: Path) -> None:
    blob = Blob.open(linear / BLOB)
    assert blob.read(64, "float16", 4).tolist() == [1, 2, -3, 0.5]
    assert blob.stored_bytes(64, "float16") == 128
    with pytest.raises(FileError, match="5 entries"):
        blob.read(64, "float16", 5)
