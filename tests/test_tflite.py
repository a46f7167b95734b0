"""TFLite export: exact zeros, small files, both runtimes, any signature; failures that leave nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, Quantization
from idp_deploy.formats.tflite.litert import COMPILED, RUNTIMES
from idp_deploy.formats.tflite.read.contents import read_tflite
from idp_deploy.formats.tflite.write.serializing import parse, serialize
from idp_deploy.verification import run_file, verify


def pruned(module: nn.Module, share: float = 0.9, **fields: Any) -> CompressedModel:
    """Random weights with a random `share` of the entries of every matrix and kernel at zero."""
    generator = torch.Generator().manual_seed(0)
    masks = {}
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.dim() > 1:
                masks[name] = torch.rand(p.shape, generator=generator) >= share
                p *= masks[name]
    return CompressedModel(module.eval(), masks, **fields)


def separable(width: int, out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU6(),
        nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU6(),
    )  # fmt: skip


class Mobile(nn.Module):
    """A width-0.25 MobileNet's first blocks, ending in a mean without kept dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.blocks = nn.Sequential(separable(8, 16, 1), separable(16, 32, 2), separable(32, 64, 1))
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def mobile() -> tuple[CompressedModel, tuple[Tensor]]:
    torch.manual_seed(0)
    module = Mobile()
    module.train()(torch.randn(16, 3, 32, 32))  # so that batch norm has something to fold
    return pruned(module), (torch.randn(1, 3, 32, 32),)


@pytest.fixture(scope="module")
def exported(mobile: tuple[CompressedModel, tuple[Tensor]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, inputs = mobile
    return export(model, "tflite", inputs, tmp_path_factory.mktemp("m") / "mobile.tflite").path


def test_zeros_are_the_masks_and_outputs_agree(mobile: tuple[CompressedModel, tuple[Tensor]], exported: Path) -> None:
    model, inputs = mobile
    parity = verify(exported, model, inputs)
    assert {o.runtime for o in parity.outputs} == {*RUNTIMES, COMPILED}
    assert parity.passed, parity
    contents = read_tflite(exported)
    for name, mask in model.masks.items():
        assert contents.tensor(name).zeros == mask.numel() - int(mask.sum()), name
    assert contents.tensor("blocks.2.3.weight").encoding == "csr"


@pytest.mark.anew
def test_same_model_same_bytes_and_the_caller_is_untouched(
    mobile: tuple[CompressedModel, tuple[Tensor]], exported: Path, tmp_path: Path
) -> None:
    model, inputs = mobile
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    state = torch.get_rng_state()
    again = export(model, "tflite", inputs, tmp_path / "again.tflite")
    assert again.path.read_bytes() == exported.read_bytes()
    assert all(torch.equal(before[k], v) for k, v in model.module.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_the_graph_is_what_xnnpack_runs_sparse(exported: Path) -> None:
    contents = read_tflite(exported)
    kinds = [op.kind for op in contents.ops]
    assert "TRANSPOSE" not in kinds
    assert "RESHAPE" not in kinds
    stem = contents.ops[1]
    assert (contents.ops[0].kind, stem.kind, stem.attributes["padding"]) == ("PAD", "CONV_2D", "VALID")
    assert (stem.attributes["stride_h"], stem.attributes["stride_w"]) == (2, 2)
    assert contents.tensor(stem.weights["weight"]).shape[1:] == (3, 3, 3)
    inner = contents.ops[2:-2]
    assert {op.kind for op in inner} == {"CONV_2D", "DEPTHWISE_CONV_2D", "PAD"}
    zeros = total = 0
    for op in inner:
        if op.kind == "CONV_2D":
            tensor = contents.tensor(op.weights["weight"])
            assert tensor.shape[1:3] == (1, 1)
            assert op.attributes["stride_h"] == 1
        if op.kind == "DEPTHWISE_CONV_2D":
            assert op.attributes["depth_multiplier"] == 1
    for op in contents.ops:
        if op.kind in ("CONV_2D", "FULLY_CONNECTED") and op is not stem:
            tensor = contents.tensor(op.weights["weight"])
            zeros, total = zeros + tensor.zeros, total + tensor.size
    assert zeros > 2 / 3 * total
    mean, classifier = contents.ops[-2:]
    assert (mean.kind, mean.attributes["axes"], classifier.kind) == ("MEAN", [1, 2], "FULLY_CONNECTED")
    assert contents.metadata["idp_deploy"]["layouts"] == {"args_0": "NHWC"}


def test_encodings(mobile: tuple[CompressedModel, tuple[Tensor]], exported: Path, tmp_path: Path) -> None:
    model, inputs = mobile
    dense = export(model, "tflite", inputs, tmp_path / "dense.tflite", encoding="dense")
    assert all(t.encoding == "dense" for t in read_tflite(dense.path).tensors)
    assert exported.stat().st_size < 0.5 * dense.size_bytes
    blocks = export(model, "tflite", inputs, tmp_path / "blocks.tflite", encoding="block:1x4")
    assert read_tflite(blocks.path).tensor("classifier.weight").encoding == "block"
    assert verify(blocks.path, model, inputs).passed
    with pytest.raises(UsageError):
        export(model, "tflite", inputs, tmp_path / "no.tflite", encoding="gaps4")
    assert not (tmp_path / "no.tflite").exists()


def test_batches_run_sample_by_sample(exported: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    for (batch,), *singles in run_file(exported, [(x,), *((x[i : i + 1],) for i in range(3))]).values():
        assert np.array_equal(batch, np.concatenate([single[0] for single in singles]))
    with pytest.raises(ConversionError, match="fixed shapes"):
        run_file(exported, [(x[:, :, :16],)])


def test_a_file_of_another_tool_takes_images_in_the_layout_that_fits(exported: Path, tmp_path: Path) -> None:
    foreign = parse(exported.read_bytes())
    foreign.metadata = []
    path = tmp_path / "foreign.tflite"
    path.write_bytes(serialize(foreign))
    x = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    assert run_file(path, [(x,)]).keys() == {*RUNTIMES, COMPILED}
    for runtime, outputs in run_file(path, [(x,)]).items():
        assert np.array_equal(outputs[0][0], run_file(exported, [(x,)])[runtime][0][0])


class Scalars(nn.Module):
    def forward(self, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return x * k, x.sum()


def test_scalars_go_in_and_come_out(tmp_path: Path) -> None:
    inputs = (torch.ones(2, 3), torch.tensor(2.0))
    path = export(CompressedModel(Scalars(), {}), "tflite", inputs, tmp_path / "k.tflite").path
    for ((product, total),) in run_file(path, [tuple(x.numpy() for x in inputs)]).values():
        assert np.array_equal(product, np.full((2, 3), 2.0))
        assert total.shape == ()
        assert total == 6.0


class Signature(nn.Module):
    """Two inputs of different kinds, nested outputs, a tied embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.head = nn.Linear(32, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor, more: dict[str, Tensor]) -> dict[str, Any]:
        hidden = torch.tanh(self.embedding(tokens) + more["shift"])
        return {"logits": self.head(hidden), "also": (hidden.mean(1), tokens.sum(1))}


def test_structured_signatures_and_tied_weights(tmp_path: Path) -> None:
    model = pruned(Signature(), 0.8)
    inputs = (torch.arange(6).reshape(1, 6), {"shift": torch.randn(1, 6, 32)})
    path = export(model, "tflite", inputs, tmp_path / "s.tflite").path
    parity = verify(path, model, inputs)
    assert parity.passed, parity
    contents = read_tflite(path)
    assert [t.size for t in contents.tensors].count(50 * 32) == 1
    assert len(contents.outputs) == 3


class Sorts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x)


def test_an_operator_tflite_lacks_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    target = tmp_path / "old.tflite"
    target.write_bytes(b"old")
    with pytest.raises(ConversionError, match="svd"):
        export(CompressedModel(Sorts(), {}), "tflite", (torch.randn(4, 4),), target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_palette_is_refused(mobile: tuple[CompressedModel, tuple[Tensor]], tmp_path: Path) -> None:
    model = CompressedModel(mobile[0].module, mobile[0].masks, quantization=Quantization("lut4"))
    with pytest.raises(ConversionError, match="lut4"):
        export(model, "tflite", mobile[1], tmp_path / "x.tflite")
    assert not list(tmp_path.iterdir())


def test_a_changed_weight_fails_verification(
    mobile: tuple[CompressedModel, tuple[Tensor]], exported: Path, tmp_path: Path
) -> None:
    model, inputs = mobile
    stored = model.module.state_dict()["classifier.weight"].numpy()
    value = stored[np.nonzero(stored)][0]
    content = bytearray(exported.read_bytes())
    at = content.find(value.tobytes())
    assert at % 4 == 0
    content[at : at + 4] = (value * np.float32(1.001)).tobytes()
    changed = tmp_path / "changed.tflite"
    changed.write_bytes(bytes(content))
    assert not verify(changed, model, inputs).passed


def test_export_says_which_inputs_a_runtime_takes_otherwise(
    mobile: tuple[CompressedModel, tuple[Tensor]], tmp_path: Path
) -> None:
    """Fed as the model takes it, the file computes something else without an error."""
    model, inputs = mobile
    images = export(model, "tflite", inputs, tmp_path / "images.tflite")
    assert any("args_0 takes images as NHWC" in note for note in images.notes)
    rows = export(pruned(nn.Linear(8, 4)), "tflite", (torch.randn(1, 8),), tmp_path / "rows.tflite")
    assert not any("NHWC" in note for note in rows.notes)
