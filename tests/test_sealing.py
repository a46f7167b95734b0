"""A file that was changed after export: what its seal tells, and what verify finds behind a broken one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.sealing import BLANK, intact, key_of, seal
from idp_deploy.verification import verify
from tests.fuzzing import changes
from tests.fuzzing.seeds import INPUTS, SCHEMES, Seed, make
from tests.lazily import Made

CASES = [(format, scheme) for format, schemes in SCHEMES.items() for scheme in schemes]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Seed]:
    folder = tmp_path_factory.mktemp("seeds")
    return Made(lambda case: make(folder, frozenset({case[0]}), (case[1],))[0])


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Path], Path]:
    def copied(path: Path) -> Path:
        target = tmp_path / path.name
        return Path(shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target))

    return copied


@pytest.mark.wide
@pytest.mark.parametrize(("format", "scheme"), CASES)
def test_an_exported_file_is_sealed_and_one_bit_breaks_it(
    format: FormatName, scheme: str, seeds: dict[tuple[str, str], Seed], copy: Callable[[Path], Path]
) -> None:
    path = copy(seeds[format, scheme].path)
    assert intact(path) is True
    holder = next(p for p in [path, *path.rglob("*")] if p.is_file() and p.name != "Manifest.json")
    data = bytearray(holder.read_bytes())
    data[len(data) // 2] ^= 1
    holder.write_bytes(data)
    assert intact(path) is False
    assert not {"", BLANK} & set(seal(path, b"key").values())


@pytest.mark.parametrize("thing", ["pipe", "endless"])
def test_what_bears_the_name_of_our_weights_is_not_read(
    thing: str, seeds: dict[tuple[str, str], Seed], copy: Callable[[Path], Path]
) -> None:
    path = copy(seeds["onnx", ""].path)
    beside = path.with_name(f"{path.name}.0123456789ab.data")
    os.mkfifo(beside) if thing == "pipe" else beside.symlink_to("/dev/zero")
    assert intact(path) is True


@pytest.mark.wide
@pytest.mark.parametrize(("format", "scheme"), CASES)
def test_no_changed_constant_that_moves_an_output_is_accepted(
    format: FormatName, scheme: str, seeds: dict[tuple[str, str], Seed], tmp_path: Path
) -> None:
    """A slice of `make verify-changes`: bits and values, the seal broken, blank, gone with the manifest, forged."""
    counts, bad = changes.row(seeds[format, scheme], 3 * len(changes.SEALS), 20, tmp_path)
    assert not bad
    assert counts["refused"] > 0


def test_a_changed_description_is_told_and_passes(
    seeds: dict[tuple[str, str], Seed], copy: Callable[[Path], Path]
) -> None:
    good = seeds["onnx", "int8"]
    path = copy(good.path)
    proto = onnx.load(path)
    proto.doc_string = "ours, with a note"
    onnx.save(proto, path)
    parity = verify(path, good.model(), INPUTS)
    assert parity.passed
    assert any("what it holds is what a fresh export holds" in note for note in parity.notes)


@pytest.mark.parametrize("format", SCHEMES)
def test_a_seal_made_anew_is_no_seal_of_the_checkpoint(
    format: FormatName, seeds: dict[tuple[str, str], Seed], copy: Callable[[Path], Path]
) -> None:
    good = seeds[format, "int8"]
    path, model = copy(good.path), good.model()
    assert intact(path, key_of(model)) is True
    seal(path, b"not the key")
    assert intact(path) is True
    assert intact(path, key_of(model)) is False
    assert intact(path, key_of(seeds[format, ""].model())) is False


def test_an_int8_bias_that_moves_outputs_within_the_rms_tolerance_is_found(
    seeds: dict[tuple[str, str], Seed], copy: Callable[[Path], Path]
) -> None:
    good = seeds["onnx", "int8"]
    path = copy(good.path)
    proto = onnx.load(path)
    bias = next(t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.INT32 and len(t.dims) == 1)
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += max(1, int(abs(values).max() // 20))
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(proto, path)
    parity = verify(path, good.model(), INPUTS)
    assert not parity.passed
    assert bias.name in {w.tensor for w in parity.weights if not w.passed}


def test_more_outputs_than_the_model_has_fail(seeds: dict[tuple[str, str], Seed], copy: Callable[[Path], Path]) -> None:
    good = seeds["onnx", ""]
    path = copy(good.path)
    proto = onnx.load(path)
    inner = proto.graph.node[-1].input[0]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(inner, onnx.TensorProto.FLOAT, None))
    onnx.save(proto, path)
    assert not verify(path, good.model(), INPUTS).passed


@dataclass
class _Spy:
    """How often the model was exported."""

    count: int = 0


def test_an_intact_file_is_not_exported_again(
    seeds: dict[tuple[str, str], Seed], monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = _Spy()

    def counting(*_: object, **__: object) -> None:
        spy.count += 1

    monkeypatch.setattr("idp_deploy.verification.against_fresh", counting)
    good = seeds["onnx", "int8"]
    assert verify(good.path, good.model(), INPUTS).passed
    assert spy.count == 0


def test_the_seal_is_the_same_every_time(seeds: dict[tuple[str, str], Seed], tmp_path: Path) -> None:
    good = seeds["onnx", ""]
    model: CompressedModel = good.model()
    again = export(model, "onnx", INPUTS, tmp_path / "net.onnx")
    assert again.path.read_bytes() == good.path.read_bytes()
    written = json.loads(onnx.load(good.path).metadata_props[0].value)
    assert (written["seal"], written["origin"]) == (again.manifest["seal"], again.manifest["origin"])


@pytest.mark.wide
@pytest.mark.parametrize(
    ("format", "scheme", "options"),
    [("tflite", "int8", {"encoding": "dense"}), ("coreml", "", {"precision": "float32"})],
)
def test_a_file_is_held_against_one_that_was_exported_with_the_same_options(
    format: FormatName, scheme: str, options: dict[str, str], seeds: dict[tuple[str, str], Seed], tmp_path: Path
) -> None:
    """With others the fresh file would be built otherwise, and nothing but outputs could be compared."""
    good = seeds[format, scheme]
    path = export(good.model(), format, INPUTS, tmp_path / good.path.name, **options).path  # type: ignore[arg-type]
    holder = next(p for p in [path, *sorted(path.rglob("*.mlmodel"))] if p.is_file())
    seal_at = holder.read_bytes().rfind(b'"seal":"') + 8
    data = bytearray(holder.read_bytes())
    data[seal_at : seal_at + 32] = b"f" * 32
    holder.write_bytes(data)
    parity = verify(path, good.model(), INPUTS)
    assert parity.passed
    assert any("what it holds is what a fresh export holds" in note for note in parity.notes), parity.notes
