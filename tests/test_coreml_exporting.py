"""Core ML export: what is in the package, that it says the same as the model, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.distance import error_of
from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.exporting import export
from idp_deploy.files import sha256, size_bytes
from idp_deploy.flow import CompressedModel, Quantization
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.sealing import intact
from idp_deploy.verification import run_file, verify

pytest.importorskip("coremltools")


IMAGE = torch.randn(1, 8, 12, 12, generator=torch.Generator().manual_seed(2))
ROWS = torch.randn(2, 8, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """Convolutions with batch norm, a depthwise one, fused attention, a tied table, two outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        self.depthwise = nn.Conv2d(32, 32, 3, 1, 1, groups=32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.table = nn.Embedding(40, 32)
        self.silent = nn.Linear(32, 32)

    def forward(self, image: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        x = self.depthwise(F.relu6(self.norm(self.stem(image))))
        y = x.flatten(2).transpose(1, 2)
        y = (y + self.attention(y, y, y, need_weights=False)[0]).mean(1)
        words = self.table(tokens).mean(1)
        return {"scores": F.linear(y + words, self.table.weight), "map": x + self.silent(words)[:, :, None, None]}


def pruned(module: nn.Module, sparsity: float = 0.9, seed: int = 0) -> CompressedModel:
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
            order = torch.rand(parameter.numel(), generator=generator).argsort()
            mask = torch.ones(parameter.numel(), dtype=torch.bool)
            mask[order[: round(sparsity * parameter.numel())]] = False
            masks[name] = mask.view(parameter.shape)
            parameter.data *= masks[name] / (1 - sparsity) ** 0.5
    return CompressedModel(module.eval(), masks)


INPUTS = (torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([[3, 7, 39]]))


@pytest.fixture(scope="module")
def model() -> CompressedModel:
    net = Net()
    nn.init.uniform_(net.norm.weight, 0.5, 1.5)
    made = pruned(net)
    silenced = torch.zeros(32, 32, dtype=torch.bool)
    net.silent.weight.data.zero_()
    return CompressedModel(made.module, {**made.masks, "silent.weight": silenced})


@pytest.fixture(scope="module")
def package(model: CompressedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(model, "coreml", INPUTS, tmp_path_factory.mktemp("coreml") / "net.mlpackage").path


def test_the_file_passes_verification(model: CompressedModel, package: Path) -> None:
    parity = verify(package, model, INPUTS)
    assert {o.runtime for o in parity.outputs} == {"coreml-interpreter-float16"}
    assert [o.output for o in parity.outputs] == ["scores", "map"]
    assert parity.passed, parity


def test_zeros_are_the_masks_and_pruned_weights_are_sparse(model: CompressedModel, package: Path) -> None:
    contents = read(package)
    manifest = contents.metadata["idp_deploy"]
    for name, mask in model.masks.items():
        tensor = contents.tensor(manifest["weights"][name])
        assert tensor.zeros == int((~mask).sum()), name
        assert tensor.is_sparse == bool(mask.any()), name  # nothing kept: nothing to store sparse
    assert manifest["inputs"] == ["image", "tokens"]
    assert manifest["outputs"] == ["scores", "map"]
    assert [contents.values[n].dtype for n in contents.outputs] == ["float32", "float32"]


def test_a_tied_table_is_stored_once(package: Path) -> None:
    shapes = [t.shape for t in read(package).tensors]
    assert shapes.count((40, 32)) == 1


def test_two_exports_are_the_same_bytes(model: CompressedModel, package: Path, tmp_path: Path) -> None:
    again = export(model, "coreml", INPUTS, tmp_path / "again.mlpackage")
    assert sha256(again.path) == sha256(package)
    assert again.size_bytes == size_bytes(package)
    names = sorted(p.relative_to(package).as_posix() for p in package.rglob("*") if p.is_file())
    assert names == [
        "Data/com.apple.CoreML/model.mlmodel",
        "Data/com.apple.CoreML/weights/weight.bin",
        "Manifest.json",
    ]


def test_the_model_and_the_random_state_are_left_alone(model: CompressedModel, tmp_path: Path) -> None:
    model.module.train()
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    state = torch.random.get_rng_state()
    export(model, "coreml", INPUTS, tmp_path / "m.mlpackage")
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.module.state_dict().items())
    assert model.module.training
    model.module.eval()


def test_coremltools_itself_decodes_the_same_numbers(package: Path) -> None:
    import coremltools as ct

    dense = ct.optimize.coreml.decompress_weights(ct.models.MLModel(str(package), skip_model_load=True))
    theirs = {op.outputs[0].name: op.outputs[0].val for op in dense._mil_program.functions["main"].operations}
    ours = [t for t in read(package).tensors if t.is_sparse]
    assert len(ours) >= 5
    for tensor in ours:
        np.testing.assert_array_equal(theirs[tensor.name], tensor.values())


def test_one_broken_weight_fails_verification(model: CompressedModel, package: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mlpackage"
    shutil.copytree(package, broken)
    kept = model.module.depthwise.weight[model.masks["depthwise.weight"]].detach().numpy().astype(np.float16).tobytes()
    (holder,) = [p for p in broken.rglob("*") if p.is_file() and kept in p.read_bytes()]
    data = bytearray(holder.read_bytes())
    data[data.index(kept) + 1] ^= 0x04  # one exponent bit of one stored value
    holder.write_bytes(bytes(data))
    parity = verify(broken, model, INPUTS)
    assert not parity.passed
    assert sum(not w.passed for w in parity.weights) == 1


def test_dense_and_sparse_can_be_asked_for(model: CompressedModel, package: Path, tmp_path: Path) -> None:
    dense = export(model, "coreml", INPUTS, tmp_path / "d.mlpackage", encoding="dense")
    assert not any(t.is_sparse for t in read(dense.path).tensors)
    (expected,) = run_file(package, [tuple(x.numpy() for x in INPUTS)]).values()
    (got,) = run_file(dense.path, [tuple(x.numpy() for x in INPUTS)]).values()
    for a, b in zip(expected[0], got[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert size_bytes(package) < dense.size_bytes


@pytest.mark.wide
@pytest.mark.parametrize("scheme", ["fp16", "int8-weights", "int8", "lut4"])
def test_quantized_weights_pass_verification(scheme: str, tmp_path: Path) -> None:
    layers = nn.Conv2d(8, 64, 3, bias=False), nn.BatchNorm2d(64), nn.Conv2d(64, 128, 1), nn.ConvTranspose2d(128, 64, 2)
    model = pruned(nn.Sequential(*layers))
    quantized = quantize(model, scheme, example_inputs=(IMAGE,))
    artifact = export(quantized, "coreml", (IMAGE,), tmp_path / "q.mlpackage")
    parity = verify(artifact.path, quantized, (IMAGE,))
    assert parity.passed, parity
    assert all(w.zeros == w.expected_zeros for w in parity.weights)
    encodings = {w.encoding for w in parity.weights}
    contents = read(artifact.path)
    if scheme == "lut4":
        assert "sparse+lut4" in encodings
    if scheme.startswith("int8"):
        assert any(t.dtype == "int8" and t.is_sparse for t in contents.tensors)
    assert contents.metadata["opset"] == ("CoreML6" if scheme == "fp16" else "CoreML8")
    if scheme == "int8":
        assert any("activations stay floating point" in note for note in artifact.notes)


def test_a_kept_entry_that_float16_rounds_to_zero_stays_kept(tmp_path: Path) -> None:
    module = nn.Linear(64, 32, bias=False).eval()
    mask = torch.zeros(32, 64, dtype=torch.bool)
    mask[:, :6] = True
    module.weight.data = torch.where(mask, torch.full((32, 64), 1e-9), torch.zeros(()))
    module.weight.data[:, 0] = 1.0
    path = export(
        CompressedModel(module, {"weight": mask}), "coreml", (torch.randn(1, 64),), tmp_path / "m.mlpackage"
    ).path
    (tensor,) = [t for t in read(path).tensors if t.shape == (32, 64)]
    assert tensor.zeros == 32 * 58
    assert int(np.count_nonzero(tensor.values())) == 32


# ── silent faults of the converter ──────────────────────────────────────────────────────────────────────────────────


class Call(nn.Module):
    def __init__(self, function: Any, *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layers, x)


LINEAR = (nn.Linear(8, 8),)
FAULTS = {
    "gelu tanh": (lambda m, x: F.gelu(m[0](x), approximate="tanh"), LINEAR, ROWS),
    "gelu": (lambda m, x: F.gelu(m[0](x)), LINEAR, ROWS),
    "alpha": (lambda m, x: torch.sub(torch.add(x, m[0](x), alpha=2.5), x, alpha=0.3), LINEAR, ROWS),
    "trunc": (lambda m, x: torch.trunc(3 * m[0](x)) + torch.fix(x), LINEAR, ROWS),
    "rsub": (lambda m, x: torch.rsub(m[0](x), 1.0, alpha=2), LINEAR, ROWS),
    "addcmul": (lambda m, x: torch.addcmul(m[0](x), x, x, value=0.5), LINEAR, ROWS),
    "variance": (lambda m, x: torch.var(m[0](x), 1, correction=0), LINEAR, ROWS),
    "variance of all": (lambda m, x: [m[0](x).var(), x.std(), *torch.var_mean(x, unbiased=False)], LINEAR, ROWS),
    "hardtanh": (lambda m, x: F.hardtanh(m[0](x), -0.5, 2), LINEAR, ROWS),
    "nearest": (lambda m, x: F.interpolate(m[0](x), size=(7, 9)), (nn.Conv2d(8, 4, 1),), IMAGE),
    "pooling without stride": (lambda m, x: F.max_pool2d(m[0](x), 2), (nn.Conv2d(8, 4, 1),), IMAGE),
    "meshgrid": (lambda m, x: sum(torch.meshgrid(m[0](x)[0], x[1], indexing="xy")), LINEAR, ROWS),
    "transposed": (
        lambda m, x: [m[0](x), m[1](x)],
        (nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1), nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=2)),
        IMAGE,
    ),
}


@pytest.mark.wide
@pytest.mark.parametrize("name", FAULTS)
def test_numbers_survive_where_the_converter_alone_is_wrong(name: str, tmp_path: Path) -> None:
    function, layers, x = FAULTS[name]
    model = pruned(Call(function, *layers), 0.5)
    path = export(model, "coreml", (x,), tmp_path / "m.mlpackage", precision="float32").path
    (results,) = run_file(path, [(x.numpy(),)]).values()
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(model.module(x))
    for got, want in zip(results[0], expected, strict=True):
        assert error_of([want.numpy()], [got]) < 1e-5


def test_routed_experts_take_the_rows_that_chose_them_also_where_none_did(tmp_path: Path) -> None:
    def routed(layers: nn.ModuleList, x: Tensor) -> Tensor:
        shares, chosen = layers[0](x).softmax(-1).topk(2)
        out = torch.zeros_like(x)
        for i in range(3):
            rows, places = torch.where(chosen == i)
            out = out.index_add(0, rows, layers[i + 1](x[rows]) * shares[rows, places, None])
        return out

    gate = nn.Linear(8, 3)
    gate.bias.data = torch.tensor([0.0, 0.0, -50.0])
    model = pruned(Call(routed, gate, *(nn.Linear(8, 8) for _ in range(3))), 0.5)
    path = export(model, "coreml", (ROWS,), tmp_path / "m.mlpackage", precision="float32").path
    assert verify(path, model, (ROWS,)).passed


@pytest.mark.wide
@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 6, 5, 5), (2, 6, 2, 5, 5)], ids=len)
@pytest.mark.parametrize("slopes", [1, 6])
def test_prelu_takes_its_slopes_on_every_rank(shape: tuple[int, ...], slopes: int, tmp_path: Path) -> None:
    layer = nn.PReLU(slopes)
    nn.init.uniform_(layer.weight, -0.5, 0.5)
    model, x = CompressedModel(nn.Sequential(layer).eval(), {}), torch.randn(shape)
    path = export(model, "coreml", (x,), tmp_path / "m.mlpackage", precision="float32").path
    assert verify(path, model, (x,)).passed


@pytest.mark.parametrize("layer", [nn.GRU(8, 16, 2, batch_first=True), nn.LSTM(8, 16, bidirectional=True)])
def test_recurrent_layers_are_not_unrolled(layer: nn.Module, tmp_path: Path) -> None:
    model = pruned(Call(lambda m, x: m[0](x)[0], layer))
    x = torch.randn(6, 6, 8)
    path = export(model, "coreml", (x,), tmp_path / "m.mlpackage", precision="float32").path
    assert verify(path, model, (x,)).passed
    assert len(read(path).ops) < 120


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────

SMALL = CompressedModel(nn.Linear(4, 4).eval(), {})
ROW = (torch.randn(1, 4),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deployment_target": "iOS15"}, r"'iOS15' cannot store weights sparse — sparse weights need iOS16"),
        ({"deployment_target": "iOS99"}, r"'iOS99' is unknown"),
        ({"encoding": "gaps4"}, r"no encoding 'gaps4' — one of auto, dense, sparse"),
        ({"precision": "float8"}, r"unknown precision 'float8'"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        export(SMALL, "coreml", ROW, tmp_path / "m.mlpackage", **options)
    assert not (tmp_path / "m.mlpackage").exists()


def test_joint_compression_is_not_promoted_behind_your_back(tmp_path: Path) -> None:
    quantized = CompressedModel(SMALL.module, {}, quantization=Quantization("int8-weights"))
    with pytest.raises(UsageError, match="'iOS16' cannot store int8 weights per channel and sparse — ask for iOS18"):
        export(quantized, "coreml", ROW, tmp_path / "m.mlpackage", deployment_target="iOS16")


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    module = nn.Linear(4, 4).eval()
    module.weight.data[0, 0] = 1e6
    with pytest.raises(ConversionError, match="weight 'weight' reaches 1e\\+06, beyond float16's 65504"):
        export(CompressedModel(module, {}), "coreml", ROW, tmp_path / "m.mlpackage")
    export(CompressedModel(module, {}), "coreml", ROW, tmp_path / "m.mlpackage", precision="float32")


class Inverse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = Call(lambda m, x: torch.linalg.inv(m[0](x)), nn.Linear(20, 20))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def test_an_operator_without_counterpart_is_named_with_its_module(tmp_path: Path) -> None:
    path = tmp_path / "m.mlpackage"
    path.mkdir()
    (path / "old").write_text("precious")
    with pytest.raises(ConversionError, match=r"linalg_inv.* in module 'head'"):
        export(CompressedModel(Inverse().eval(), {}), "coreml", (torch.randn(1, 20, 20),), path)
    assert (path / "old").read_text() == "precious"


def test_apples_reader_leaves_a_package_as_it_is_and_ours_sealed(tmp_path: Path) -> None:
    """It writes Manifest.json anew in its own layout whenever it reads."""
    from coremltools.models.utils import load_spec

    model, ours, theirs = nn.Sequential(nn.Linear(8, 4)).eval(), tmp_path / "ours.mlpackage", tmp_path / "t.mlpackage"
    export(CompressedModel(model, {}), "coreml", (ROWS,), ours)
    shutil.copytree(ours, theirs)
    load_spec(str(ours))
    assert intact(ours) is True
    listed = theirs / "Manifest.json"
    listed.write_text(json.dumps(json.loads(listed.read_text()), separators=(",", ":")))
    assert intact(theirs) is False  # so that verify asks Apple's reader
    before = sha256(theirs)
    assert verify(theirs).passed
    assert sha256(theirs) == before
