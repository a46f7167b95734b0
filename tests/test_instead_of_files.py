"""What lies in place of a file of a model, told by its content: pages, pointers, archives, files of another kind."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from idp_deploy.errors import FileError
from idp_deploy.reading import read
from tests.forked import command

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ROWS = {
    "a pointer of Git LFS": (LFS, "a pointer of Git LFS, not the file itself", "git lfs pull"),
    "a pointer of git-annex": (b"/annex/objects/MD5E-s123--abc\n", "a pointer of git-annex", "git annex get"),
    "a page": (b"<!DOCTYPE html>\n<html></html>", "a web page", "fetch it again"),
    "a page behind a mark and a line": (b"\xef\xbb\xbf\n <HTML>", "a web page", "fetch it again"),
    "an error of a server": (b'<?xml version="1.0"?><Error>', "an XML document", "fetch it again"),
    "an answer in JSON": (b'{"error": "not found"}', "a JSON document", "fetch it again"),
    "a compressed file": (gzip.compress(b"model"), "compressed with gzip", "unpack it first"),
    "an archive": (b"PK\3\4 and so on", "a zip archive", "unpack it first"),
    "a pickle": (b"\x80\2}.", "a pickle", "export"),
    "a model of onnxruntime": (b"\0\0\0\0ORTM", "onnxruntime's own form", "the .onnx that it was made from"),
    "nothing": (b"", "is empty", "fetch or write it again"),
}


@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".pte"])
@pytest.mark.parametrize("what", ROWS)
def test_it_is_named_with_the_way_out(what: str, suffix: str, tmp_path: Path) -> None:
    content, said, way_out = ROWS[what]
    path = tmp_path / f"m{suffix}"
    path.write_bytes(content)
    with pytest.raises(FileError, match=said) as caught:
        read(path)
    assert way_out in caught.value.way_out
    assert path.read_bytes() == content


def test_a_model_under_the_suffix_of_another_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x1c\0\0\0TFL3 and so on")
    with pytest.raises(FileError, match=r"a TFLite model by its content — give it the suffix \.tflite"):
        read(tmp_path / "m.onnx")


def test_a_truncated_model_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    with pytest.raises(FileError, match="truncated"):
        read(tmp_path / "m.tflite")


def test_a_package_whose_weights_were_not_fetched_names_them(tmp_path: Path) -> None:
    weights = tmp_path / "m.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(LFS)
    (tmp_path / "m.mlpackage/Manifest.json").write_text("{}")
    with pytest.raises(FileError, match=r"no whole package: 'weight.bin' is a pointer of Git LFS"):
        read(tmp_path / "m.mlpackage")


@pytest.mark.parametrize("words", [("inspect", "m.onnx"), ("restore", "m.onnx", "-o", "out.onnx")])
def test_commands_end_with_it_and_write_nothing(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(LFS)
    ended = command(*words, folder=tmp_path)
    assert (ended.returncode, [path.name for path in tmp_path.iterdir()]) == (3, ["m.onnx"])
    assert ended.stderr == "error: m.onnx is a pointer of Git LFS, not the file itself — fetch it: git lfs pull\n"
