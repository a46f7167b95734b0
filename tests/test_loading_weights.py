"""Files of weights: every wrapping that is read, and every file that is refused."""

from __future__ import annotations

import copy
import io
import pickle
import pickletools
import random
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from idp_deploy.errors import ExitCode, FileError, UnsafeFileError
from idp_deploy.flow import Recipe
from idp_deploy.loading import (
    load_any,
    load_checkpoint,
    load_model,
)
from tests.forked import command
from tests.loading_fixtures import (
    FACTORY,
    X,
    build,
    lazy,
    same,
    source,
)

WRAPPINGS: dict[str, Callable[[nn.Module], Any]] = {
    "plain": lambda m: m.state_dict(),
    "state_dict": lambda m: {"state_dict": m.state_dict(), "epoch": 3, "optimizer": {"lr": 0.1}},
    "model": lambda m: {"model": m.state_dict()},
    "data parallel": lambda m: nn.DataParallel(m).state_dict(),
    "compiled in parallel": lambda m: {f"module._orig_mod.{k}": v for k, v in m.state_dict().items()},
    "float64": lambda m: {k: v.double() if v.is_floating_point() else v for k, v in m.state_dict().items()},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_state_dicts_load_in_every_wrapping(wrap: Callable[[nn.Module], Any], legacy: bool, tmp_path: Path) -> None:
    module = source()
    torch.save(wrap(module), tmp_path / "m.pt", _use_new_zipfile_serialization=not legacy)
    loaded = load_model(tmp_path / "m.pt", FACTORY)
    assert same(loaded.module, module)
    assert not loaded.module.training


def test_safetensors_load(tmp_path: Path) -> None:
    module = source()
    save_file(module.state_dict(), tmp_path / "m.safetensors")
    assert same(load_model(tmp_path / "m.safetensors", build).module, module)


def test_a_module_whose_own_names_begin_with_module(tmp_path: Path) -> None:
    module = nn.DataParallel(source())
    torch.save(module.state_dict(), tmp_path / "m.pt")
    assert same(load_model(tmp_path / "m.pt", lambda: nn.DataParallel(build())).module, module)


def test_weights_saved_before_batch_norm_counted_batches(tmp_path: Path) -> None:
    state = source().state_dict()
    del state["stem.1.num_batches_tracked"]
    state._metadata["stem.1"]["version"] = 1
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "m.pt")
    assert int(load_model(tmp_path / "m.pt", FACTORY).module.get_buffer("stem.1.num_batches_tracked")) == 0


def test_provenance_names_the_input(tmp_path: Path) -> None:
    torch.save(source().state_dict(), tmp_path / "m.pt")
    provenance = load_model(tmp_path / "m.pt", FACTORY).provenance
    digest = subprocess.run(["sha256sum", tmp_path / "m.pt"], capture_output=True, text=True, check=True).stdout[:64]
    assert provenance.input_sha256 == digest
    assert provenance.factory == FACTORY
    assert provenance.versions["torch"] == torch.__version__


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def _bytes(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


UNSAFE: dict[str, Callable[[Path], bytes]] = {
    "module": lambda _: _bytes(source()),
    "module, legacy": lambda _: _bytes(source(), _use_new_zipfile_serialization=False),
    "attack": lambda marker: _bytes({"state_dict": _Evil(marker)}),
    "attack, legacy": lambda marker: _bytes(_Evil(marker), _use_new_zipfile_serialization=False),
    "attack, pickle": lambda marker: pickle.dumps(_Evil(marker)),
    "attack, pickle 2": lambda marker: pickle.dumps(_Evil(marker), 2),
    "objects": lambda _: pickle.dumps([Recipe()]),
}


@pytest.mark.parametrize("make", UNSAFE.values(), ids=UNSAFE)
def test_files_that_could_run_code_are_refused(make: Callable[[Path], bytes], tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "m.pt"
    path.write_bytes(make(marker))
    for load in (load_model, load_any, load_checkpoint):
        with pytest.raises(UnsafeFileError, match=r"torch\.save\(model\.state_dict\(\), 'model\.pt'\)") as caught:
            load(path, FACTORY)
        assert caught.value.exit_code == ExitCode.FILE
    assert not marker.exists()


def _as_python_2_wrote(data: bytes) -> bytes:
    """The file with its integers as text, `K\\x05` as `I5\\n`, as Python 2 writes those beyond 32 bits."""
    stream, pieces, start = io.BytesIO(data), list[bytes](), 0
    for _ in range(5):
        for opcode, number, position in pickletools.genops(stream):
            if position is not None and opcode.name in ("BININT", "BININT1", "BININT2"):
                pieces += [data[start:position], b"I%d\n" % number]
                start = position + 1 + {"BININT": 4, "BININT1": 1, "BININT2": 2}[opcode.name]
    return b"".join([*pieces, data[start:]])


def test_weights_that_python_2_saved_load(tmp_path: Path) -> None:
    module = source()
    saved = {"state": module.state_dict(), "epochs": 5, "seed": 2**40, "parts": [1, 2, 70000]}
    written = _as_python_2_wrote(_bytes(saved, _use_new_zipfile_serialization=False))
    with pytest.raises(pickle.UnpicklingError, match="Unsupported operand 73"):
        torch.load(io.BytesIO(written), weights_only=True)
    (tmp_path / "m.pth").write_bytes(written)
    loaded = load_model(tmp_path / "m.pth", FACTORY)
    assert same(loaded.module, module)
    (tmp_path / "cut.pth").write_bytes(written[: len(written) // 2])
    with pytest.raises(FileError, match=r"cut\.pth is truncated or damaged"):
        load_model(tmp_path / "cut.pth", FACTORY)
    evil = _as_python_2_wrote(_bytes({"n": 7, "x": _Evil(tmp_path / "ran")}, _use_new_zipfile_serialization=False))
    (tmp_path / "evil.pth").write_bytes(evil)
    with pytest.raises(UnsafeFileError, match="could run code"):
        load_model(tmp_path / "evil.pth", FACTORY)
    assert not (tmp_path / "ran").exists()


def test_a_pickled_module_is_named(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "m.pt")
    with pytest.raises(UnsafeFileError, match=r"it wants to build torch\.nn.modules.container.Sequential"):
        load_model(tmp_path / "m.pt", FACTORY)


@pytest.mark.parametrize("kind", ["compressed", "overlaid"])
def test_a_small_zip_of_much_is_refused_without_unpacking(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.pt"
    method = zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(1 << 20))
        if kind == "overlaid":  # a second name for the same bytes
            again = copy.copy(archive.infolist()[-1])
            again.filename = "archive/data/1"
            archive.filelist.append(again)
    opened: list[str] = []
    usual = zipfile.ZipFile.open
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda a, m, *r: (opened.append(m.filename), usual(a, m, *r))[1])
    with pytest.raises(FileError, match=r"compressed|claim more bytes"):
        load_model(path, FACTORY)
    assert not opened


def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "m.pt")
    with pytest.raises(UnsafeFileError, match="TorchScript"):
        load_model(tmp_path / "m.pt", FACTORY)


def test_exported_programs_need_trust(tmp_path: Path) -> None:
    module = source().eval()
    torch.export.save(torch.export.export(module, (X,)), tmp_path / "m.pt2")
    with pytest.raises(UnsafeFileError, match="--trust"):
        load_model(tmp_path / "m.pt2", FACTORY)
    assert same(load_model(tmp_path / "m.pt2", FACTORY, trust=True).module, module)


def _float4(weight: torch.Tensor) -> torch.Tensor:
    """Of the same shape, with two numbers in each place."""
    return torch.zeros(weight.shape, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)


def _nested() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a prototype
        return torch.nested.nested_tensor([torch.ones(3), torch.ones(1)])


GOOD = _bytes(source().state_dict())
LEGACY = _bytes(source().state_dict(), _use_new_zipfile_serialization=False)
BROKEN: dict[str, bytes] = {
    "empty": b"",
    **{f"first {n} bytes": GOOD[:n] for n in (1, 3, 4, 30, 100, len(GOOD) // 2, len(GOOD) - 10)},
    **{f"legacy, first {n} bytes": LEGACY[:n] for n in (1, 2, 10, 20, 100, len(LEGACY) // 2, len(LEGACY) - 10)},
    "text": b"hello, this is a text file\n",
    "onnx": b"\x08\x08\x12\x07pytorch",
    "random": random.Random(0).randbytes(4000),
    "random after magic": b"PK\x03\x04" + random.Random(1).randbytes(4000),
    "zeros": bytes(4096),
    "pickled number": pickle.dumps(3),
    "tensor": _bytes(torch.zeros(3)),
    "list": _bytes([torch.zeros(3)]),
    "empty dict": _bytes({}),
    "numbers": _bytes({"stem.0.weight": 3}),
    "integer keys": _bytes({1: torch.zeros(3)}),
    "meta": _bytes({k: v.to("meta") for k, v in source().state_dict().items()}),
    "sparse": _bytes({k: v.to_sparse() if v.dim() == 2 else v for k, v in source().state_dict().items()}),
    "integer weights": _bytes({k: v.to(torch.int8) for k, v in source().state_dict().items()}),
    "complex weights": _bytes({k: v.to(torch.complex64) for k, v in source().state_dict().items()}),
    "float4 weights": _bytes({k: _float4(v) if v.dim() == 2 else v for k, v in source().state_dict().items()}),
    "nested": _bytes({**source().state_dict(), "head.bias": _nested()}),
    "huge view": _bytes({**source().state_dict(), "head.bias": torch.zeros(1).expand(10**12)}),
    "scalar weight": _bytes({**source().state_dict(), "head.weight": torch.tensor(1.0)}),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_broken_files_are_one_message(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(data)
    for load in (load_model, load_any, load_checkpoint):
        with pytest.raises(FileError) as caught:
            load(path, FACTORY)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)
        assert not isinstance(caught.value, UnsafeFileError)
    assert path.read_bytes() == data


def test_missing_and_directory(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        load_model(tmp_path / "none.pt", FACTORY)
    with pytest.raises(FileError, match="is a directory"):
        load_any(tmp_path, FACTORY)


@pytest.mark.parametrize("data", [b"", b"\x05", bytes(8), b"\xff" * 64, GOOD])
def test_broken_safetensors(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(FileError):
        load_model(tmp_path / "m.safetensors", FACTORY)


def test_one_flipped_bit_in_the_weights_is_noticed(tmp_path: Path) -> None:
    data = bytearray(GOOD)
    weights = torch.load(io.BytesIO(GOOD), weights_only=True)["stem.0.weight"].numpy().tobytes()
    data[GOOD.index(weights) + 100] ^= 1
    (tmp_path / "m.pt").write_bytes(data)
    with pytest.raises(FileError, match="truncated or damaged"):
        load_model(tmp_path / "m.pt", FACTORY)


def test_any_bit_of_a_members_entry_is_changed(tmp_path: Path) -> None:
    """Among them the one that says it is encrypted."""
    path, at = tmp_path / "m.pt", GOOD.index(b"PK\x01\x02", 100)
    said = set()
    for bit in range(46 * 8):
        data = bytearray(GOOD)
        data[at + bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            load_model(path, FACTORY)
        except (FileError, UnsafeFileError) as error:
            said.add("encrypted" in str(error))
    assert said == {True, False}


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    dice = random.Random(0)
    for size in sorted(dice.sample(range(len(GOOD)), 60)):
        path.write_bytes(GOOD[:size])
        with pytest.raises(FileError):
            load_model(path, FACTORY)


def test_random_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    """Whatever bytes change: an error of ours, or the very same weights (the damage hit padding)."""
    path = tmp_path / "m.pt"
    dice = random.Random(1)
    expected = load_model_from(GOOD, path)
    for _ in range(150):
        data = bytearray(GOOD)
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            found = load_model_from(bytes(data), path)
        except FileError:
            continue
        assert same(found, expected)


def load_model_from(data: bytes, path: Path) -> nn.Module:
    path.write_bytes(data)
    return load_model(path, FACTORY).module


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    state = source().state_dict()
    state["haed.weight"] = state.pop("head.weight")
    state["depthwise.bias"] = torch.zeros(9)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(FileError) as caught:
        load_model(tmp_path / "m.pt", FACTORY)
    message = str(caught.value)
    assert "1 missing: 'head.weight'" in message
    assert "1 unexpected: 'haed.weight' (did you mean 'head.weight'?)" in message
    assert "1 of another shape: 'depthwise.bias' is (9,) in the file and (8,) in the module" in message
    assert FACTORY in message


def test_long_lists_are_cut(tmp_path: Path) -> None:
    torch.save({f"layer{i}": torch.zeros(1) for i in range(40)}, tmp_path / "m.pt")
    with pytest.raises(FileError, match="40 unexpected: 'layer0', 'layer1', 'layer2', 'layer3', 'layer4' and 35 more"):
        load_model(tmp_path / "m.pt", FACTORY)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    state = source().state_dict()
    state["head.weight"][1, 1] = value
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(FileError, match=r"weight 'head\.weight' has values that are not finite"):
        load_model(tmp_path / "m.pt", FACTORY)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "1.running_mean",
            float("nan"),
            r"buffer '1\.running_mean'.* not finite, the first nan at \[2\]",
        ),
        (
            "1.running_var",
            float("inf"),
            r"buffer '1\.running_var'.* not finite, the first inf at \[2\]",
        ),
        ("1.running_var", -0.5, r"buffer '1\.running_var' has variances below zero, the first -0\.5 at \[2\]"),
        ("1.weight", float("inf"), r"weight '1\.weight'.* not finite, the first inf at \[2\]"),
    ],
)
def test_unsound_statistics_are_named_with_their_place(tmp_path: Path, name: str, value: float, message: str) -> None:
    def build() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))

    state = build().state_dict()
    state[name][2] = value
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(FileError, match=message):
        load_model(tmp_path / "model.pt", build)


def test_lazy_layers_are_settled_by_the_weights(tmp_path: Path) -> None:
    known = lazy().eval()
    known(x := torch.randn(2, 3, 8))
    torch.save({"net": known.state_dict()}, tmp_path / "w.pt")
    module = load_model(tmp_path / "w.pt", "tests.loading_fixtures:lazy").module
    assert str(module) == str(known)
    assert torch.equal(module(x), known(x))
    line = ["prune", "w.pt", "--model", "tests.loading_fixtures:lazy", "--target", "0.5", "--one-shot"]
    assert command(*line, folder=tmp_path).returncode == 0
    pruned = load_model(tmp_path / "w.pruned.pt", "tests.loading_fixtures:lazy").module
    assert str(pruned) == str(known)
    assert int((pruned[5].weight == 0).sum()) > 0
    torch.save({**known.state_dict(), "5.bias": torch.empty(0)}, tmp_path / "broken.pt")
    with pytest.raises(FileError, match=r"5\.bias"):
        load_model(tmp_path / "broken.pt", "tests.loading_fixtures:lazy")
