"""What holds in every format alike: three files of one model say the same of themselves, whatever they are called."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from inspect import signature
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from idp_deploy.exporting import export
from idp_deploy.flow import Artifact, CompressedModel, Contents, Levels, Quantization, WeightProof
from idp_deploy.gating import sparsity
from idp_deploy.masks import prunable_weights
from idp_deploy.quantization import SCHEMES, quantize
from idp_deploy.reading import read
from idp_deploy.verification.proof import prove_weights
from tests.formats_here import HERE
from tests.test_zoo_export import REFUSED, Calls
from tests.zoo import ZOO, Entry, pruned

FAST = ("mobilenet_v2", "bert", "two_inputs", "gru")
Made = dict[str, tuple[Artifact, Contents]]


def made(entry: Entry, model: CompressedModel, scheme: str | None, folder: Path) -> Made:
    found = {}
    for format, row in HERE.items():
        if (format, scheme) not in REFUSED:
            artifact = export(model, format, entry.example_inputs(), folder / f"{entry.name}{row.suffix}")
            found[format] = (artifact, read(artifact.path))
    return found


def zeros_and_entries(model: CompressedModel) -> tuple[int, int]:
    """Of the matrices of convolutions, products and recurrences, depthwise kernels apart, counted in the module."""
    kinds = prunable_weights(model.module)
    chosen = [model.module.get_parameter(name) for name, weight in kinds.items() if weight.kind != "depthwise"]
    unique = {id(p): p for p in chosen}.values()
    return sum(int((p == 0).sum()) for p in unique), sum(p.numel() for p in unique)


def check(entry: Entry, scheme: str | None, folder: Path) -> None:
    model = pruned(entry)
    if scheme:
        model = quantize(model, scheme, task=Calls(entry))
    files = made(entry, model, scheme, folder)
    zeros, entries = zeros_and_entries(model)
    for format, (artifact, contents) in files.items():
        share, counted, size = sparsity(contents)
        assert (counted, size) == (zeros, entries), (format, counted, size)
        assert share == pytest.approx(zeros / entries, abs=1e-3)
        proofs, _ = prove_weights(model, contents, entry.example_inputs())
        untold = [proof.parameter for proof in proofs if not told(proof, artifact, model)]
        assert not untold, (format, untold, artifact.notes)
    first = next(iter(files.values()))[1]
    for _, contents in files.values():
        assert set(contents.manifest) == set(first.manifest)
        assert contents.manifest["zeros"] == first.manifest["zeros"]
        assert set(contents.manifest["weights"]) <= set(model.masks)
        assert contents.interface.outputs == first.interface.outputs


def told(proof: WeightProof, artifact: Artifact, model: CompressedModel) -> bool:
    """Whether a weight that is stored dense or left float is named in a note that says so."""
    scheme = model.quantization.scheme if model.quantization else ""
    dense = proof.encoding in ("dense", "lut4") or not proof.encoding
    tensors = {t.name: t for t in read(artifact.path).tensors}
    parts = [tensors[name] for name in proof.tensor.split(" + ") if name in tensors]
    narrow = {"int8": ("int8", "uint8"), "int8-weights": ("int8", "uint8"), "fp16": ("float16",)}.get(scheme, ())
    wide = bool(narrow) and any(part.dtype not in narrow for part in parts)
    wide |= scheme == "lut4" and any("lut" not in part.encoding and part.value_bits > 4 for part in parts)
    named = [
        note for note in artifact.notes if proof.parameter in note.partition(": ")[2].replace(" (", ", ").split(", ")
    ]
    by_zeros = any("by their zeros" in note for note in named)
    return by_zeros or (
        (not dense or any("dense" in note for note in named)) and (not wide or any("float" in note for note in named))
    )


@pytest.mark.wide
@pytest.mark.parametrize("name", FAST)
def test_three_files_of_a_model_say_the_same(name: str, tmp_path: Path) -> None:
    check(ZOO[name], None, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [None, *SCHEMES])
@pytest.mark.parametrize("entry", ZOO.values(), ids=ZOO)
def test_three_files_of_every_model_say_the_same(entry: Entry, scheme: str | None, tmp_path: Path) -> None:
    check(entry, scheme, tmp_path)


# ── integers are quantize's ─────────────────────────────────────────────────────────────────────────────────────────


def with_levels(scheme: str) -> CompressedModel:
    """Integers and a palette that nobody would find again: no channel reaches ±127, no value is said by its rank."""
    generator = torch.Generator().manual_seed(0)
    module, levels = nn.Sequential(nn.Conv2d(3, 24, 3), nn.Flatten(), nn.Linear(24 * 16, 24)).eval(), {}
    for name in ("0.weight", "2.weight"):
        weight = module.get_parameter(name)
        kept = (torch.rand(weight.shape, generator=generator) < 0.3).numpy()
        if scheme == "lut4":
            palette = np.array([0.0, *np.linspace(-0.7, 0.9, 15)], np.float32)
            levels[name] = Levels(np.where(kept, 3, 0).astype(np.uint8), palette=palette)
        else:
            q = torch.randint(1, 100, weight.shape, generator=generator).numpy()
            scale = 0.001 + torch.rand(24, *[1] * (weight.dim() - 1), generator=generator).numpy() / 100
            levels[name] = Levels(np.where(kept, q, 0).astype(np.int8), scale)
        weight.data = torch.from_numpy(levels[name].values)
    masks = {name: module.get_parameter(name) != 0 for name in levels}
    quantization = Quantization(scheme, dict.fromkeys(levels, 40.0), levels=levels)
    return CompressedModel(module, masks, quantization=quantization)


@pytest.mark.wide
@pytest.mark.parametrize("scheme", ["int8-weights", "lut4"])
@pytest.mark.parametrize("format", HERE)
def test_a_file_holds_the_integers_that_the_model_carries(format: str, scheme: str, tmp_path: Path) -> None:
    if (format, scheme) in REFUSED:
        pytest.skip(f"{format} refuses {scheme}")
    model = with_levels(scheme)
    single = {"precision": "float32"} if "precision" in signature(HERE[format].function("convert")).parameters else {}
    artifact = export(model, format, (torch.randn(1, 3, 6, 6),), tmp_path / f"m{HERE[format].suffix}", **single)
    stored = {tensor.size: tensor for tensor in read(artifact.path).tensors}
    for name in model.masks:
        values = model.module.get_parameter(name).detach().numpy()
        found = stored[values.size]
        assert found.value_bits == (4 if scheme == "lut4" else 8), (name, found.encoding, artifact.notes)
        np.testing.assert_array_equal(
            np.sort((found.dequantize or found.values)().reshape(-1)), np.sort(values.reshape(-1))
        )
    assert not [note for note in artifact.notes if "are what they hold" in note]


@pytest.mark.wide
@pytest.mark.parametrize("format", [name for name in HERE if (name, "int8-weights") not in REFUSED])
def test_a_file_says_which_weights_are_no_integers(format: str, tmp_path: Path) -> None:
    model = with_levels("int8-weights")
    others = replace(model.quantization, levels={})  # whose weights reach no ±127
    artifact = export(
        replace(model, quantization=others), format, (torch.randn(1, 3, 6, 6),), tmp_path / f"m{HERE[format].suffix}"
    )
    (said,) = [note for note in artifact.notes if "are what they hold" in note]
    assert "0.weight, 2.weight" in said


# ── no metadata moves a number ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of 90 % zeros beside a depthwise kernel, biases and a table, none of which count."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 20, 3), nn.Conv2d(20, 20, 3, groups=20), nn.Flatten(), nn.Linear(20 * 16, 10)]
    module = nn.Sequential(*layers).eval()
    masks = {}
    for name in ("0.weight", "3.weight"):
        weight = module.get_parameter(name)
        mask = (torch.randperm(weight.numel()) % 10 == 0).reshape(weight.shape)
        weight.data *= mask
        masks[name] = mask
    path = tmp_path_factory.mktemp("sparse") / "m.onnx"
    export(CompressedModel(module, masks), "onnx", (torch.randn(1, 3, 8, 8),), path)
    return path


EDITS = [
    '{"weights": {"3.weight": "3.weight"}}', '{"weights": ["3.weight"]}', '{"weights": {"a": 1}}', "[]", "{", "3",
    '{"inputs": {"x": 1}}', '{"outputs": [["deep"]]}', '{"layouts": []}', '{"layouts": {"input": 3}}', "null", '""',
    '{"zeros": [1]}', '{"weights": {}}', "[" * 100_000, '{"weights": null}', '{"inputs": null, "layouts": null}',
]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS, ids=lambda text: text[:20])
def test_no_edit_of_the_manifest_moves_the_gated_number(sparse: Path, edit: str, tmp_path: Path) -> None:
    path = Path(shutil.copy(sparse, tmp_path / "m.onnx"))
    model = onnx.load(path)
    (entry,) = model.metadata_props
    entry.value = edit
    onnx.save(model, path)
    assert sparsity(read(path)) == sparsity(read(sparse))
    assert sparsity(read(path))[0] == pytest.approx(0.9, abs=1e-3)


@pytest.mark.wide
@pytest.mark.parametrize("edit", EDITS, ids=lambda text: text[:20])
def test_a_malformed_manifest_is_never_unexpected(sparse: Path, edit: str, tmp_path: Path) -> None:
    from idp_deploy.cli import main

    path = Path(shutil.copy(sparse, tmp_path / "m.onnx"))
    model = onnx.load(path)
    model.metadata_props[0].value = edit
    onnx.save(model, path)
    for command in (
        ["inspect", str(path)], ["verify", str(path)], ["simulate", str(path), "--target", "pixel-4", "--json"],
        ["check", str(path), "--target", "pixel-4"],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as left:
            main(command)
        assert left.value.code == 0, command


def test_a_manifest_says_only_what_it_can_prove(sparse: Path) -> None:
    manifest = read(sparse).manifest
    assert set(manifest["weights"]) == {"0.weight", "3.weight"} == set(manifest["zeros"])
    assert json.dumps(manifest)


def test_one_output_has_one_name_in_every_format(tmp_path: Path) -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> dict[str, object]:
            y = self.linear(x)
            return {"box scores": y * 2, "maps": [y + 1, y - 1], "relu": y.relu(), "x": y * 3}

    model, x = CompressedModel(Heads().eval(), {}), torch.randn(1, 8)
    names = {
        format: read(export(model, format, (x,), tmp_path / f"m{row.suffix}").path).interface.outputs
        for format, row in HERE.items()
    }
    assert set(names.values()) == {("box_scores", "maps_0", "maps_1", "relu", "x_out")}, names


def test_prunable_is_what_the_graph_multiplies_in_other_tools_files(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    arrays = {
        "stem": (4, 3, 3, 3), "depthwise": (4, 1, 3, 3), "gates": (1, 8, 4), "again": (1, 8, 2), "table": (9, 5),
        "tied": (5, 5), "scale": (4, 1, 1),
    }  # fmt: skip
    constants = [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), n) for n, shape in arrays.items()]
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["a"]),
        helper.make_node("Mul", ["a", "scale"], ["b"]),
        helper.make_node("Conv", ["b", "depthwise"], ["c"], group=4),
        helper.make_node("LSTM", ["steps", "gates", "again"], ["h"], hidden_size=2),
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("MatMul", ["e", "tied"], ["f"]),
        helper.make_node("Gather", ["tied", "ids"], ["g"]),
    ]
    inputs = [("x", [1, 3, 8, 8]), ("steps", [5, 1, 4])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs]
        + [helper.make_tensor_value_info("ids", TensorProto.INT64, [2])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "chfg"],
        constants,
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    assert sparsity(read(tmp_path / "m.onnx"))[2] == 4 * 27 + 8 * 4 + 8 * 2
