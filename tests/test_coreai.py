"""Core AI packages: exact zeros, small files, Apple's own runtime, any maker's file; refusals by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from idp_deploy.cli import main
from idp_deploy.errors import ConversionError, FileError, UsageError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel
from idp_deploy.inspection import inspect
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.sealing import intact, key_of
from idp_deploy.simulation import simulate
from idp_deploy.simulation.targets import load_target
from idp_deploy.verification import run_file, verify
from tests.formats_here import HERE

pytestmark = pytest.mark.skipif("coreai" not in HERE, reason="the extra [coreai] is not installed (make coreai)")


class Net(nn.Module):
    """A stem, a depthwise and a pointwise convolution, a linear layer: two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 64, 1)
        self.head = nn.Linear(64, 160)

    def forward(self, image: Tensor, more: Tensor) -> dict[str, Tensor]:
        features = torch.relu(self.pointwise(self.depthwise(self.stem(image)))).mean((2, 3))
        return {"scores": self.head(features) + more, "features": features}


INPUTS = (torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.ones(1, 160))


def model_of(module: nn.Module, share: float = 0.9) -> CompressedModel:
    """Random weights with a random `share` of the entries of every matrix and kernel at zero."""
    masks = {}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.dim() > 1 and "depthwise" not in name:
                masks[name] = torch.rand(p.shape, generator=generator) >= share
                p.copy_(torch.randn(p.shape, generator=generator) * masks[name])
    return CompressedModel(module.eval(), masks)


@pytest.fixture(scope="module")
def model() -> CompressedModel:
    torch.manual_seed(0)
    net = Net()
    net.train()(torch.randn(16, 3, 16, 16), torch.zeros(16, 160))  # so that batch norm has something to fold
    return model_of(net)


@pytest.fixture(scope="module")
def exported(model: CompressedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("m") / "net.aimodel"
    return export(model, "coreai", INPUTS, place, precision="float32").path


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "net.aimodel"))


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("scheme", [None, "fp16", "int8-weights", "lut4"])
def test_zeros_are_the_masks_and_apples_runtime_agrees(
    model: CompressedModel, scheme: str | None, precision: str, tmp_path: Path
) -> None:
    compressed = quantize(model, scheme, example_inputs=INPUTS, threshold_db=5) if scheme else model
    artifact = export(compressed, "coreai", INPUTS, tmp_path / "net.aimodel", precision=precision)
    parity = verify(artifact.path, compressed, INPUTS)
    assert [o.output for o in parity.outputs if o.runtime == "coreai"] == ["scores", "features"]
    assert parity.passed, parity
    contents = read(artifact.path)
    for name, mask in compressed.masks.items():
        assert contents.tensor(name).zeros == mask.numel() - int(mask.sum()), name
        np.testing.assert_array_equal(contents.tensor(name).values() != 0, mask.numpy())
    form = {"int8-weights": "sparse", "lut4": "sparse+lut4"}.get(scheme or "", "sparse")
    assert contents.tensor("head.weight").encoding == form
    assert contents.tensor("head.weight").value_bits == {"int8-weights": 8, "lut4": 4}.get(
        scheme or "", 32 if precision == "float32" else 16
    )


def test_sparse_is_smaller_and_dense_is_what_was_asked_for(
    model: CompressedModel, exported: Path, tmp_path: Path
) -> None:
    dense = export(model, "coreai", INPUTS, tmp_path / "d.aimodel", encoding="dense", precision="float32")
    assert inspect(exported).tensor_bytes < 0.45 * inspect(dense.path).tensor_bytes
    assert {tensor.encoding for tensor in read(dense.path).tensors} == {"dense"}
    assert any("as asked: " in note for note in dense.notes)
    assert any("macOS 27" in note for note in dense.notes)


@pytest.mark.parametrize("scheme", [None, "lut4"])
def test_same_model_same_bytes_in_another_process(scheme: str | None, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.test_coreai import exported_anew\n"
        "exported_anew(sys.argv[2] or None, Path(sys.argv[1]))\n"
    )
    here, there = tmp_path / "here.aimodel", tmp_path / "there.aimodel"
    command = [sys.executable, "-c", script, str(there), scheme or ""]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1], capture_output=True)
    for _ in range(2):  # the second time in one process as well
        shutil.rmtree(here, ignore_errors=True)
        exported_anew(scheme, here)
        for part in sorted(here.iterdir()):
            assert part.read_bytes() == (there / part.name).read_bytes(), part.name


def test_functions_of_the_library_have_the_same_names_every_time(tmp_path: Path) -> None:
    """Such as log_softmax; a sealed file is then told by its seal, and one sealed anew by what it holds."""
    torch.manual_seed(0)
    net, inputs = nn.Sequential(nn.Linear(24, 64), nn.LogSoftmax(1)), (torch.randn(1, 24),)
    model = model_of(net)
    first, second = (export(model, "coreai", inputs, tmp_path / f"{i}.aimodel").path for i in (1, 2))
    assert b"log_softmax" in (first / "main.mlirb").read_bytes()
    kinds = [op.kind for op in read(first).ops]
    assert "exp" in kinds  # what such a function does stands where it is called, and counts
    assert "invoke" not in kinds
    for part in sorted(first.iterdir()):
        assert part.read_bytes() == (second / part.name).read_bytes(), part.name
    assert intact(first, key_of(model))
    assert not intact(first, b"of another checkpoint")
    notes = verify(first, model, inputs).notes
    assert not any("seal" in note or "fresh" in note for note in notes), notes


def exported_anew(scheme: str | None, path: Path) -> None:
    """The same model made from the start, quantized, exported to `path`."""
    torch.manual_seed(0)
    net = Net()
    net.train()(torch.randn(16, 3, 16, 16), torch.zeros(16, 160))
    compressed = model_of(net)
    if scheme:
        compressed = quantize(compressed, scheme, example_inputs=INPUTS, threshold_db=5)
    export(compressed, "coreai", INPUTS, path, precision="float32")


def test_apples_own_reader_takes_the_package(exported: Path) -> None:
    from coreai.authoring import AIModelAsset

    assert AIModelAsset.is_valid(exported)
    asset = AIModelAsset.load(exported)
    assert json.loads(asset.metadata.creator_defined_metadata["idp_deploy"])["outputs"] == ["scores", "features"]
    assert "functions" in str(asset.summary())


def test_several_of_the_files_batches_in_one_call(exported: Path) -> None:
    calls = [
        (np.random.default_rng(i).normal(size=(1, 3, 16, 16)).astype(np.float32), INPUTS[1].numpy()) for i in (1, 2)
    ]
    together = tuple(np.concatenate([call[at] for call in calls]) for at in (0, 1))
    apart = run_file(exported, calls)["coreai"]
    (whole,) = run_file(exported, [together])["coreai"]
    for at in (0, 1):
        np.testing.assert_array_equal(whole[at], np.concatenate([part[at] for part in apart]))
    with pytest.raises(ConversionError, match="takes inputs of shape"):
        run_file(exported, [(np.zeros((1, 3, 8, 8), np.float32), INPUTS[1].numpy())])


def test_what_cannot_be_held_is_refused_by_name(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.svdvals(x)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd = Odd()

        def forward(self, x: Tensor) -> Tensor:
            return self.odd(x)

    path, x = tmp_path / "m.aimodel", (torch.ones(3, 3),)
    with pytest.raises(ConversionError, match="svd"):
        export(CompressedModel(Outer().eval(), {}), "coreai", x, path, precision="float32")
    large = nn.Linear(3, 2).eval()
    large.weight.data[0, 0] = 1e6
    with pytest.raises(ConversionError, match=r"weight 'weight' reaches 1e\+06, beyond float16's 65504 .*float32"):
        export(CompressedModel(large, {}), "coreai", x, path)
    for options, said in (({"encoding": "csr"}, "no encoding 'csr'"), ({"precision": "int4"}, "unknown precision")):
        with pytest.raises(UsageError, match=said):
            export(CompressedModel(nn.Linear(3, 2).eval(), {}), "coreai", x, path, **options)
    assert not path.exists()


def test_a_changed_weight_is_found(model: CompressedModel, copy: Path) -> None:
    data = bytearray((copy / "main.mlirb").read_bytes())
    value = model.module.get_parameter("head.weight").detach().numpy()
    at = bytes(data).find(value[value != 0][:8].tobytes())
    assert at > 0
    data[at + 3] ^= 0x80  # the sign of the first
    (copy / "main.mlirb").write_bytes(data)
    parity = verify(copy, model, INPUTS)
    assert not parity.passed
    assert [w.parameter for w in parity.weights if not w.passed] == ["head.weight"]
    assert any("main.hash is not that of main.mlirb" in note for note in parity.notes)


@pytest.mark.parametrize(
    ("part", "content", "said"),
    [
        ("main.mlirb", b"", "no MLIR bytecode"),
        ("main.mlirb", b"ML\xefR" + b"\0" * 64, "Core AI"),
        ("metadata.json", b"{", "no JSON"),
        ("metadata.json", b"[]", "no mapping"),
        ("metadata.json", None, "cannot be read"),
        ("main.mlirb", None, "has no main.mlirb"),
    ],
)
def test_a_broken_part_is_refused_by_name(copy: Path, part: str, content: bytes | None, said: str) -> None:
    (copy / part).unlink()
    if content is not None:
        (copy / part).write_bytes(content)
    with pytest.raises(FileError, match=said):
        read(copy)


def test_damage_anywhere_is_refused_or_read(copy: Path) -> None:
    whole = (copy / "main.mlirb").read_bytes()
    rng = np.random.default_rng(0)
    for cut in [*range(4, 400, 60), *rng.integers(400, len(whole), 6)]:
        (copy / "main.mlirb").write_bytes(whole[:cut])
        with pytest.raises(FileError):
            read(copy)
    for place in rng.integers(4, len(whole), 30):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        (copy / "main.mlirb").write_bytes(damaged)
        try:
            contents = read(copy)
            for tensor in contents.tensors:
                tensor.values()
        except FileError:
            continue


def test_the_vendors_own_tools_file_is_read(model: CompressedModel, tmp_path: Path) -> None:
    passes = pytest.importorskip("coreai_opt.coreai_utils.passes.weight_sparsification")
    from coreai_opt.coreai_utils.common import DType
    from coreai_torch import TorchConverter, get_decomp_table

    module, x = nn.Linear(64, 64), torch.randn(1, 64)
    with torch.no_grad():
        module.weight *= torch.rand(64, 64, generator=torch.Generator().manual_seed(3)) > 0.8
    program = torch.export.export(module, (x,)).run_decompositions(get_decomp_table())
    for words, encoding, bits in (({}, "sparse", 32), ({"quantize_dtype": DType.INT8}, "sparse", 8),
                                  ({"palettize_nbits": 4}, "sparse+lut4", 4)):  # fmt: skip
        made = TorchConverter().add_exported_program(program).to_coreai()
        path = tmp_path / f"{bits}.aimodel"
        passes.sparsify_weights(made, target_sparsity=0.0, **words).save_asset(path)
        found = max(read(path).tensors, key=lambda tensor: tensor.size)
        assert (found.encoding, found.value_bits) == (encoding, bits)
        assert found.zeros >= int((module.weight == 0).sum())
        assert not inspect(path).ours
        assert verify(path).passed
        if not words:
            np.testing.assert_array_equal(found.values(), module.weight.detach().numpy())


def test_latency_is_not_estimable_and_size_is_gated_at_once(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    estimate = simulate(exported, load_target("iphone-15-pro"))
    assert estimate.latency_ms is None
    assert "no latency of Core AI has been published" in estimate.reason
    assert estimate.macs == 64 * (16 * 27 + 16 * 9 + 64 * 16) + 64 * 160
    monkeypatch.chdir(tmp_path)
    for limit, expected in (("1 MB", 0), ("1 kB", 1)):
        Path("limits.toml").write_text(f'[budgets.iphone-15-pro.coreai]\nsize = "{limit}"\nsparsity = "85 %"\n')
        with pytest.raises(SystemExit) as left:
            main(["check", str(exported), "--target", "iphone-15-pro", "--budgets", "limits.toml"])
        assert left.value.code == expected, capsys.readouterr().out


class Graph(nn.Module):
    """Attention, a table, dtypes made inside: what float16 has to follow."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.attention = nn.Embedding(32, 16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 32)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        x = self.table(words) + torch.arange(words.shape[1], dtype=torch.float32)[:, None] * 0.1
        bias = torch.zeros_like(mask, dtype=torch.float32).masked_fill(mask == 0, torch.finfo(torch.float32).min)
        scores = (x @ x.transpose(1, 2) / 4 + bias[:, None]).softmax(-1)
        return self.head(scores @ x + self.attention(x, x, x)[0])


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_attention_tables_and_masks_in_both_precisions(precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    words = torch.randint(0, 32, (1, 9), generator=torch.Generator().manual_seed(2))
    inputs: tuple[Any, ...] = (words, (torch.arange(9) < 7).long()[None])
    compressed = model_of(Graph(), 0.5)
    path = export(compressed, "coreai", inputs, tmp_path / "m.aimodel", precision=precision).path
    parity = verify(path, compressed, inputs)
    assert parity.passed, parity
