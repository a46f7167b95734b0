"""Names of code, files of weights, our checkpoints: what is read, what is refused, and in which words."""

from __future__ import annotations

import io
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from idp_deploy.errors import ExitCode, FileError, UnsafeFileError, UsageError
from idp_deploy.flow import CompressedModel, MaskedModel, Provenance, Quantization, Recipe, SoftMask
from idp_deploy.loading import (
    load_any,
    load_checkpoint,
    load_model,
    load_module,
    load_task,
    resolve,
    save_checkpoint,
)

HERE = __name__


class Net(nn.Module):
    """Every kind of entry a state dict has: convolution, depthwise, batch norm buffers, linear, a tied table."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.depthwise = nn.Conv2d(width, width, 3, groups=width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.depthwise(self.stem(x)).mean((2, 3)))


def build() -> Net:
    torch.manual_seed(7)
    return Net()


def build_wide() -> Net:
    return Net(16)


def needs_arguments(width: int) -> Net:
    return Net(width)


def fails() -> Net:
    raise RuntimeError("no weights today")


def scripted() -> torch.jit.ScriptModule:
    return torch.jit.script(torch.nn.Linear(2, 2))


def lost_task() -> None:
    raise FileError("no data here")


def returns_dict() -> dict[str, int]:
    return {}


NOT_CALLABLE = 3
FACTORY = f"{HERE}:build"
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_factory_builds_and_leaves_random_state_alone() -> None:
    before = torch.get_rng_state()
    assert isinstance(load_module(FACTORY), Net)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "does not name a callable"),
        ("tests.test_loading", "write it as pkg.mod:callable"),
        ("tests/test_loading.py:build", "write tests.test_loading:build"),
        ("a:b:c", "does not name a callable"),
        ("os:system('x')", "does not name a callable"),
        ("no_such_package.mod:build", "there is no module 'no_such_package'"),
        ("sample_model.digits:task", "did you mean 'sample_models'?"),
        ("sample_models.mobilenetv1:build", "did you mean 'sample_models.mobilenet_v1'"),
        (f"{HERE}:biuld", "did you mean 'build'"),
        (f"{HERE}:Net.forwrd", "'Net' has no attribute 'forwrd' — did you mean 'forward'"),
        (f"{HERE}:NOT_CALLABLE", "is an int, not a callable"),
        (f"{HERE}:needs_arguments", "missing a required argument: 'width'"),
        (f"{HERE}:fails", "failed with RuntimeError: no weights today"),
        (f"{HERE}:returns_dict", "returned a dict, not a torch.nn.Module"),
        (f"{HERE}:build.missing", "'build' has no attribute 'missing'"),
        (f"{HERE}:needs_arguments(widht=3)", "it takes width"),
        (f"{HERE}:needs_arguments(3)", "does not name a callable with keyword arguments"),
        (f"{HERE}:needs_arguments(width=3", "does not name a callable with keyword arguments"),
        (f"{HERE}:needs_arguments(width=open('x'))", "Python literals only"),
        (f"{HERE}:needs_arguments(**{{'width': 3}})", "Python literals only"),
        (f"{HERE}:build(width=3)", "it takes no arguments"),
    ],
)
def test_bad_factory_is_a_usage_error(spec: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_module(spec)
    assert words in str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_factory_takes_literals_by_keyword() -> None:
    module = load_module("sample_models.mobilenet_v1:build(width=0.25, classes=7, activation='relu')")
    assert module.classifier.out_features == 7
    assert sum(isinstance(m, torch.nn.ReLU) for m in module.modules()) == 27


def test_an_error_that_names_its_exit_code_passes_through() -> None:
    with pytest.raises(FileError, match="no data here"):
        load_task(f"{HERE}:lost_task")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_dependency", "needs the package 'no_such_dependency'"),
        ("def build(:", "SyntaxError"),
        ("raise ValueError('broken on purpose')", "ValueError: broken on purpose"),
        ("import sys; sys.exit(9)", "SystemExit: 9"),
    ],
)
def test_module_that_cannot_be_imported(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"broken_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UsageError, match=words):
        load_module(f"{name}:build")


def test_the_working_folder_is_searched(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from torch import nn\ndef build(): return nn.Linear(2, 3)\n")
    code = "from idp_deploy.loading import load_module; print(load_module('mine:build').out_features)"
    # -P keeps Python itself from adding the working folder
    run = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.stdout == "3\n", run.stderr


def test_a_torchscript_module_is_refused() -> None:
    with pytest.raises(UsageError, match="returned a TorchScript module, whose weights cannot be masked"):
        load_module(f"{HERE}:scripted")


def test_task_by_name() -> None:
    assert load_task("sample_models.digits:task").metric_name == "accuracy"
    with pytest.raises(UsageError, match=r"returned a dict, which has no train_loader\(\), no validation_loader\(\)"):
        load_task(f"{HERE}:returns_dict")


def test_resolve_names_the_flag() -> None:
    with pytest.raises(UsageError, match=r"^--inputs 'x' does not"):
        resolve("x", what="--inputs")


# ── weights ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def source() -> Net:
    """Other weights than the factory's."""
    module = build()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    module(X)
    return module


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


def test_a_pickled_module_is_named(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "m.pt")
    with pytest.raises(UnsafeFileError, match=r"it wants to build torch\.nn.modules.container.Sequential"):
        load_model(tmp_path / "m.pt", FACTORY)


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


# ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────────────

PRUNED = ("stem.0.weight", "depthwise.weight", "head.weight")
RECIPE = Recipe(sparsity=0.5, skip=("stem.*",), options={"kappa": 10.0, "groups": [1, 2]})
PROVENANCE = Provenance(FACTORY, "t:task", "ab" * 32, 3, {"torch": "2"}, ("prune",))


def compressed(module: nn.Module | None = None) -> CompressedModel:
    module = module or source()
    masks = {}
    generator = torch.Generator().manual_seed(3)
    for name in PRUNED:
        weight = module.get_parameter(name)
        masks[name] = torch.rand(weight.shape, generator=generator) > 0.5
        with torch.no_grad():
            weight.mul_(masks[name])
    quantization = Quantization("int8", {"head.weight": 40.5}, {"stem.0.weight": "sensitive"}, ((X,), (X[:1],)))
    return CompressedModel(module.eval(), masks, RECIPE, quantization, PROVENANCE)


def masked() -> MaskedModel:
    return MaskedModel(source().eval(), {name: SoftMask(0.1, 1e-3, 4, "1:4") for name in PRUNED}, RECIPE, PROVENANCE)


def test_compressed_round_trip(tmp_path: Path) -> None:
    model = compressed()
    save_checkpoint(model, tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt", FACTORY)
    assert isinstance(loaded, CompressedModel)
    assert same(loaded.module, model.module)
    assert loaded.masks.keys() == model.masks.keys()
    assert all(torch.equal(loaded.masks[k], m) and loaded.masks[k].dtype == torch.bool for k, m in model.masks.items())
    assert (loaded.recipe, loaded.provenance) == (RECIPE, PROVENANCE)
    assert loaded.quantization is not None
    assert (loaded.quantization.scheme, loaded.quantization.kept_float) == ("int8", {"stem.0.weight": "sensitive"})
    assert torch.equal(loaded.quantization.calibration[1][0], X[:1])
    assert loaded.zeros == model.zeros
    assert torch.equal(load_any(tmp_path / "c.pt", build).module(X), model.module(X))


def test_masked_round_trip(tmp_path: Path) -> None:
    model = masked()
    save_checkpoint(model, tmp_path / "s.pt")
    loaded = load_checkpoint(tmp_path / "s.pt", FACTORY)
    assert isinstance(loaded, MaskedModel)
    assert same(loaded.module, model.module)
    assert {k: vars(v) for k, v in loaded.soft_masks.items()} == {k: vars(v) for k, v in model.soft_masks.items()}
    assert (loaded.recipe, loaded.provenance) == (RECIPE, PROVENANCE)
    with pytest.raises(UsageError, match="idp-deploy harden"):
        load_any(tmp_path / "s.pt", FACTORY)


def test_anyone_can_read_the_checkpoint(tmp_path: Path) -> None:
    model = compressed()
    save_checkpoint(model, tmp_path / "c.pt")
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    assert (content["format"], content["stage"]) == ("idp-deploy/1", "compressed")
    fresh = Net()
    fresh.load_state_dict(content["state_dict"], strict=True)
    assert same(fresh, model.module)
    assert content["shapes"]["stem.0.weight"] == [8, 3, 3, 3]
    bits = sum(m["bits"].numel() for m in content["masks"].values())
    assert bits == sum((mask.numel() + 7) // 8 for mask in model.masks.values())


def test_a_checkpoint_can_be_pruned_again(tmp_path: Path) -> None:
    model = compressed()
    save_checkpoint(model, tmp_path / "c.pt")
    assert same(load_model(tmp_path / "c.pt", FACTORY).module, model.module)


def test_plain_weights_keep_their_zeros(tmp_path: Path) -> None:
    model = compressed()
    torch.save(model.module.state_dict(), tmp_path / "m.pt")
    loaded = load_any(tmp_path / "m.pt", FACTORY)
    assert {name: mask.tolist() for name, mask in loaded.masks.items()} == {
        name: mask.tolist() for name, mask in model.masks.items()
    }
    assert loaded.recipe is None


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.pt", tmp_path / "elsewhere" / "other name.pt"
    save_checkpoint(compressed(), first)
    model = compressed()
    copied = Recipe(**{**vars(model.recipe), "options": {"".join(list("kappa")): 10.0, "groups": [1, 2]}})
    save_checkpoint(CompressedModel(model.module, model.masks, copied, model.quantization, model.provenance), second)
    assert first.read_bytes() == second.read_bytes()
    loaded = load_checkpoint(first, FACTORY)
    save_checkpoint(loaded, second)
    assert first.read_bytes() == second.read_bytes()


def test_same_bytes_from_another_process(tmp_path: Path) -> None:
    code = "import sys; from test_loading import *; save_checkpoint(compressed(build()), sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.pt")], check=True, cwd=Path(__file__).parent)
    save_checkpoint(compressed(build()), tmp_path / "b.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.hidden = nn.Linear(16, 16)
        self.out = nn.Linear(16, 50, bias=False)
        self.out.weight = self.table.weight
        self.register_buffer("window", torch.arange(100.0)[10:20])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.hidden(self.table(x)))


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    module = Tied()
    save_checkpoint(CompressedModel(module, {}), tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt", Tied)
    assert loaded.module.out.weight is loaded.module.table.weight
    assert same(loaded.module, module)
    content = torch.load(tmp_path / "c.pt", weights_only=True)["state_dict"]
    assert content["out.weight"].data_ptr() == content["table.weight"].data_ptr()
    assert content["window"].untyped_storage().nbytes() == 40


def test_saving_is_refused_where_it_would_harm(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "precious").write_text("x")
    with pytest.raises(FileError, match="is a directory"):
        save_checkpoint(compressed(), folder)
    assert (folder / "precious").read_text() == "x"
    with pytest.raises(FileError, match="cannot be written"):
        save_checkpoint(compressed(), folder / "precious" / "c.pt")
    target = tmp_path / "c.pt"
    target.write_text("old")
    odd = CompressedModel(source(), {}, Recipe(options={"callback": print}))
    with pytest.raises(UsageError, match="cannot be stored"):
        save_checkpoint(odd, target)
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pt", "folder"]


def test_numpy_numbers_in_a_recipe_stay_readable(tmp_path: Path) -> None:
    import numpy as np

    options = {"kappa": np.float64(10), "n": np.int64(3), "x": np.float32(0.5)}
    save_checkpoint(CompressedModel(source(), {}, Recipe(options=options)), tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt", FACTORY)
    assert loaded.recipe is not None
    assert loaded.recipe.options == {"kappa": 10.0, "n": 3, "x": 0.5}


def test_no_factory_names_the_one_that_was_used(tmp_path: Path) -> None:
    save_checkpoint(compressed(), tmp_path / "c.pt")
    with pytest.raises(UsageError, match=f"--model {FACTORY}"):
        load_checkpoint(tmp_path / "c.pt")


def test_the_factory_in_the_file_is_never_called(tmp_path: Path) -> None:
    model = compressed()
    evil = Provenance(factory="os:abort")
    save_checkpoint(CompressedModel(model.module, model.masks, provenance=evil), tmp_path / "c.pt")
    assert load_checkpoint(tmp_path / "c.pt", FACTORY).provenance.factory == "os:abort"


def test_wrong_factory_for_a_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(compressed(), tmp_path / "c.pt")
    with pytest.raises(FileError, match="does not fit the module"):
        load_checkpoint(tmp_path / "c.pt", lambda: nn.Linear(3, 4))


def edited(change: Callable[[dict[str, Any]], Any], model: CompressedModel | MaskedModel, path: Path) -> Path:
    save_checkpoint(model, path)
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def put(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "format": put("format", value="idp-deploy/99"),
    "stage": put("stage", value="half"),
    "stage type": put("stage", value=["compressed"]),
    "no state": lambda c: c.pop("state_dict"),
    "state type": put("state_dict", value=3),
    "state entry": put("state_dict", "head.bias", value="x"),
    "extra weight": put("state_dict", "extra", value=torch.zeros(2)),
    "missing weight": lambda c: c["state_dict"].pop("head.bias"),
    "no shapes": lambda c: c.pop("shapes"),
    "shapes": put("shapes", "head.weight", value=[4, 9]),
    "shape type": put("shapes", "head.weight", value="4x8"),
    "no attributes": lambda c: c.pop("attributes"),
    "attribute type": put("attributes", "depthwise", "groups", value="8"),
    "attribute float": put("attributes", "depthwise", "groups", value=8.0),
    "attribute huge": put("attributes", "depthwise", "groups", value=2**40),
    "attributes list": put("attributes", value=[1]),
    "masks type": put("masks", value=[1]),
    "no masks": lambda c: c.pop("masks"),
    "mask type": put("masks", "head.weight", value=torch.ones(4, 8)),
    "mask of nothing": lambda c: c["masks"].update(ghost=c["masks"]["head.weight"]),
    "mask of a buffer": lambda c: c["masks"].update({"stem.1.running_mean": c["masks"]["head.weight"]}),
    "mask shape": put("masks", "head.weight", "shape", value=[8, 4]),
    "mask shape huge": put("masks", "head.weight", "shape", value=[10**12, 10**12]),
    "mask bits short": put("masks", "head.weight", "bits", value=torch.zeros(3, dtype=torch.uint8)),
    "mask bits long": put("masks", "head.weight", "bits", value=torch.zeros(5, dtype=torch.uint8)),
    "mask bits type": put("masks", "head.weight", "bits", value=torch.zeros(4)),
    "mask bits meta": put("masks", "head.weight", "bits", value=torch.zeros(4, dtype=torch.uint8, device="meta")),
    "mask bits list": put("masks", "head.weight", "bits", value=[0, 0, 0, 0]),
    "mask lies": put("masks", "head.weight", "bits", value=torch.zeros(4, dtype=torch.uint8)),
    "recipe type": put("recipe", value="idp"),
    "recipe field missing": lambda c: c["recipe"].pop("seed"),
    "recipe field unknown": put("recipe", "exec", value="rm"),
    "recipe sparsity": put("recipe", "sparsity", value=1.5),
    "recipe sparsity NaN": put("recipe", "sparsity", value=float("nan")),
    "recipe epochs": put("recipe", "epochs", value="ten"),
    "recipe skip": put("recipe", "skip", value=(1, 2)),
    "recipe options": put("recipe", "options", value=None),
    "quantization type": put("quantization", value=[]),
    "quantization scheme": put("quantization", "scheme", value=8),
    "quantization noise": put("quantization", "signal_to_noise_db", value={"head.weight": "loud"}),
    "quantization of nothing": put("quantization", "kept_float", value={"ghost": "x"}),
    "quantization reason": put("quantization", "kept_float", value={"head.weight": 3}),
    "quantization calibration": put("quantization", "calibration", value=(3,)),
    "provenance type": put("provenance", value=None),
    "provenance steps": put("provenance", "steps", value=(None,)),
    "provenance versions": put("provenance", "versions", value={"torch": 2}),
    "provenance seed": put("provenance", "seed", value=True),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_checkpoints_are_refused(change: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    path = edited(change, compressed(), tmp_path / "c.pt")
    with pytest.raises(FileError) as caught:
        load_checkpoint(path, FACTORY)
    assert str(path) in str(caught.value)


HOSTILE_SOFT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "none": lambda c: c.pop("soft_masks"),
    "no recipe": put("recipe", value=None),
    "of nothing": put("soft_masks", "ghost", value={"threshold": 0.1, "temperature": 0.1, "zeros": 1}),
    "threshold": put("soft_masks", "head.weight", "threshold", value=-1.0),
    "threshold NaN": put("soft_masks", "head.weight", "threshold", value=float("nan")),
    "threshold infinite": put("soft_masks", "head.weight", "threshold", value=float("inf")),
    "temperature": put("soft_masks", "head.weight", "temperature", value=0.0),
    "zeros": put("soft_masks", "head.weight", "zeros", value=33),
    "zeros type": put("soft_masks", "head.weight", "zeros", value=1.5),
    "field": put("soft_masks", "head.weight", value={"threshold": 0.1}),
}


@pytest.mark.parametrize("change", HOSTILE_SOFT.values(), ids=HOSTILE_SOFT)
def test_hostile_soft_masks_are_refused(change: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    path = edited(change, masked(), tmp_path / "s.pt")
    with pytest.raises(FileError):
        load_checkpoint(path, FACTORY)


# ── after channel removal ───────────────────────────────────────────────────────────────────────────────────────────


def test_removed_channels_are_rebuilt_from_the_recorded_shapes(tmp_path: Path) -> None:
    small = Net(5)
    small(X)
    model = compressed(small)
    save_checkpoint(model, tmp_path / "c.pt")
    for factory in (FACTORY, f"{HERE}:build_wide"):
        for loaded in (load_checkpoint(tmp_path / "c.pt", factory), load_model(tmp_path / "c.pt", factory)):
            assert same(loaded.module, small)
            assert loaded.module.depthwise.groups == 5
            assert torch.equal(loaded.module(X), small(X))
    assert all(p.requires_grad for p in loaded.module.parameters())


class Heads(nn.Module):
    """Reads its own integers in forward, has tied weights and a recurrent layer."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.size = heads, (heads, 4)
        self.query = nn.Linear(8, heads * 4)
        self.again = nn.Linear(8, heads * 4)
        self.again.weight = self.query.weight
        self.recurrent = nn.GRU(heads * 4, 6, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        split = (self.query(x) + self.again(x)).unflatten(-1, self.size).softmax(-1)
        return self.recurrent(split.reshape(x.shape[0], x.shape[1], self.heads * 4))[0]


def test_integers_and_ties_follow_the_shapes(tmp_path: Path) -> None:
    small = Heads(2).eval()
    save_checkpoint(CompressedModel(small, {}), tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt", Heads).module
    assert (loaded.heads, loaded.size) == (2, (2, 4))
    assert loaded.again.weight is loaded.query.weight
    x = torch.randn(2, 3, 8)
    assert torch.equal(loaded(x), small(x))


def test_integers_of_untouched_modules_are_the_factorys(tmp_path: Path) -> None:
    change = put("attributes", "depthwise", "stride", value=(2, 2))
    loaded = load_checkpoint(edited(change, compressed(), tmp_path / "c.pt"), FACTORY)
    assert loaded.module.depthwise.stride == (1, 1)


def test_a_view_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["state_dict"]["head.bias"] = torch.zeros(1).expand(10**13)
        content["shapes"]["head.bias"] = [10**13]

    with pytest.raises(FileError, match=r"'head.bias' is \(10000000000000,\) in the file"):
        load_checkpoint(edited(change, compressed(), tmp_path / "c.pt"), FACTORY)
