"""Schemes on small nets: exact zeros, absorbed batch norm, layers that stay float, calibration."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from idp_deploy.capturing import capture
from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName, Provenance
from idp_deploy.formats import FORMATS
from idp_deploy.quantization import SCHEMES, quantize
from idp_deploy.quantizers import dequantize_int8, dequantize_palette, palettize, quantize_int8
from idp_deploy.reading import read
from idp_deploy.tasks import Task
from idp_deploy.verification import verify


class Net(nn.Module):
    """Convolutions with and without bias and norm, transposed, depthwise; a linear layer at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.depth, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16, eps=1e-3)
        self.up, self.norm3 = nn.ConvTranspose2d(16, 12, 2, stride=2), nn.BatchNorm2d(12)
        self.point = nn.Conv2d(12, 20, 1)
        self.head = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.first(x)))
        x = torch.relu(self.norm2(self.depth(x)))
        x = torch.relu(self.norm3(self.up(x)))
        return self.head(self.point(x).mean((2, 3)))


EXAMPLE = (torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)),)


@pytest.fixture
def model() -> CompressedModel:
    generator = torch.Generator().manual_seed(0)
    module = Net().eval()
    masks = {}
    for name, parameter in module.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        if parameter.dim() > 1:
            masks[name] = torch.rand(parameter.shape, generator=generator) > 0.6
            parameter.data *= masks[name]
    for name, buffer in module.named_buffers():
        if "running" in name:
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    masks["first.weight"][3] = False
    module.first.weight.data[3] = 0  # a dead row
    return CompressedModel(module, masks, provenance=Provenance(steps=("prune",)))


def outputs(module: nn.Module) -> Tensor:
    with torch.no_grad():
        return module(*EXAMPLE)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zeros_stay_exactly_zero_and_masks_agree_with_values(model: CompressedModel, scheme: str) -> None:
    quantized = quantize(model, scheme, example_inputs=EXAMPLE)
    for name, mask in quantized.masks.items():
        weight = quantized.module.get_parameter(name)
        assert torch.equal(weight != 0, mask)
        assert not (mask & ~model.masks[name]).any()
    assert quantized.sparsity == pytest.approx(model.sparsity, abs=0.02)
    if scheme in ("fp16", "lut4"):
        assert quantized.zeros == model.zeros
    assert quantized.quantization is not None
    assert quantized.quantization.scheme == scheme
    assert quantized.quantization.kept_float == {}
    assert set(quantized.quantization.signal_to_noise_db) == set(model.masks)
    assert set(quantized.quantization.activation_db) == set(model.masks)
    assert quantized.provenance.steps == ("prune", f"quantize --scheme {scheme}")


@pytest.mark.wide
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_caller_keeps_model_and_random_state(model: CompressedModel, scheme: str) -> None:
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    masks = {name: mask.clone() for name, mask in model.masks.items()}
    state = torch.get_rng_state()
    model.module.train()
    first, second = (quantize(model, scheme, example_inputs=EXAMPLE) for _ in range(2))
    assert model.module.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert all(torch.equal(mask, masks[name]) for name, mask in model.masks.items())
    assert all(torch.equal(v, second.module.state_dict()[n]) for n, v in first.module.state_dict().items())
    Net().load_state_dict(first.module.state_dict(), strict=True)


@pytest.mark.wide
@pytest.mark.parametrize(("scheme", "error"), [("fp16", 2e-3), ("int8", 0.05), ("int8-weights", 0.05), ("lut4", 0.5)])
def test_outputs_stay_close(model: CompressedModel, scheme: str, error: float) -> None:
    before = outputs(model.module)
    after = outputs(quantize(model, scheme, example_inputs=EXAMPLE).module)
    assert 0 < (after - before).abs().max() < error * before.abs().max()


def test_absorbing_batch_norm_changes_nothing_but_the_numbers_it_moves(model: CompressedModel) -> None:
    quantized = quantize(model, "fp16", example_inputs=EXAMPLE, threshold_db=math.inf)  # nothing is quantized
    assert set(quantized.quantization.kept_float) == set(model.masks)  # type: ignore[union-attr]
    assert outputs(quantized.module) == pytest.approx(outputs(model.module), rel=1e-5, abs=1e-5)
    assert (quantized.module.norm1.weight == 1).all()
    assert torch.equal(quantized.module.first.weight, torch.from_numpy(capture(model, EXAMPLE).weight("first.weight")))


@pytest.mark.wide
@pytest.mark.parametrize("name", ["first.weight", "depth.weight", "up.weight", "point.weight"])
def test_folded_weights_quantize_to_what_the_module_holds(model: CompressedModel, name: str) -> None:
    axis = 1 if name == "up.weight" else 0
    palette = quantize(model, "lut4", example_inputs=EXAMPLE)
    folded = capture(palette, EXAMPLE).weight(name)
    held = palette.module.get_parameter(name).detach().numpy()
    assert len(np.unique(held)) <= 16
    assert (dequantize_palette(*palettize(folded)) == held).all()
    integers = quantize(model, "int8", example_inputs=EXAMPLE)
    folded = capture(integers, EXAMPLE).weight(name)
    held = integers.module.get_parameter(name).detach().numpy()
    assert (quantize_int8(folded, axis)[0] == quantize_int8(held, axis)[0]).all()
    assert dequantize_int8(*quantize_int8(folded, axis), axis) == pytest.approx(held, rel=1e-6)


def test_a_layer_below_the_threshold_stays_float_and_is_named(model: CompressedModel) -> None:
    stricter = quantize(model, "lut4", example_inputs=EXAMPLE, threshold_db=33).quantization
    assert stricter is not None
    assert stricter.kept_float
    for name, reason in stricter.kept_float.items():
        assert reason.endswith("below 33 dB")
        assert min(stricter.signal_to_noise_db[name], stricter.activation_db[name]) < 33


def test_noise_in_the_output_counts_where_the_weight_alone_looks_fine() -> None:
    layer = nn.Linear(64, 4, bias=False)
    generator = torch.Generator().manual_seed(0)
    layer.weight.data = torch.randn(4, 64, generator=generator)
    layer.weight.data[:, 0] = 300.0  # carries the scale, and meets a constant zero input
    x = torch.randn(1, 64, generator=generator)
    x[:, 0] = 0
    model = CompressedModel(layer, {"weight": torch.ones(4, 64, dtype=torch.bool)})
    quantized = quantize(model, "int8-weights", example_inputs=(x,), threshold_db=30)
    assert quantized.quantization is not None
    described = quantized.quantization
    assert described.signal_to_noise_db["weight"] > 30
    assert quantize(model, "int8-weights").quantization.kept_float == {}  # type: ignore[union-attr]
    task = Fixed(x)
    silent = quantize(model, "int8-weights", task=task, threshold_db=30)
    assert silent.quantization is not None
    assert "in its output, below 30 dB" in silent.quantization.kept_float["weight"]
    assert torch.equal(silent.module.weight, layer.weight)


class Fixed(Task):
    """The same inputs again and again."""

    def __init__(self, x: Tensor) -> None:
        self.data = TensorDataset(x.repeat(8, *[1] * (x.dim() - 1)), torch.zeros(8, dtype=torch.long))

    def train_loader(self, seed: int) -> DataLoader[Any]:
        return DataLoader(self.data, batch_size=4)

    def validation_loader(self) -> DataLoader[Any]:
        return DataLoader(self.data, batch_size=4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_grouped_transposed_convolution_stays_float_where_scales_are_ambiguous(scheme: str) -> None:
    module = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2))
    found = quantize(CompressedModel(module, {}), scheme, example_inputs=(torch.ones(1, 4, 3, 3),)).quantization
    assert found is not None
    assert ("0.weight" in found.kept_float) is scheme.startswith("int8")


@pytest.mark.parametrize("scheme", ["int8", "int8-weights"])
def test_integers_are_restricted_to_few_values(model: CompressedModel, scheme: str) -> None:
    many, few = (
        quantize(model, scheme, example_inputs=EXAMPLE, values=values, threshold_db=0.0) for values in (None, 16)
    )
    assert few.quantization is not None
    assert many.quantization is not None
    assert set(few.quantization.levels) == set(many.quantization.levels)
    for name, one in few.quantization.levels.items():
        assert len(np.unique(one.q)) <= 16
        assert one.scale is not None
        np.testing.assert_array_equal(one.scale, many.quantization.levels[name].scale)
        np.testing.assert_array_equal(dict(few.module.named_parameters())[name].detach().numpy(), one.values)
    assert few.provenance.steps[-1] == f"quantize --scheme {scheme} --values 16"
    assert few.zeros == many.zeros


@pytest.mark.wide
@pytest.mark.parametrize("scheme", ["int8", "int8-weights"])
@pytest.mark.parametrize("format", ["onnx", "coreml", "tflite"])
def test_files_hold_the_few_values(model: CompressedModel, scheme: str, format: FormatName, tmp_path: Path) -> None:
    few = quantize(model, scheme, example_inputs=EXAMPLE, values=8, threshold_db=0.0)
    path = export(few, format, EXAMPLE, tmp_path / f"net{FORMATS[format].suffix}").path
    assert verify(path, few, EXAMPLE).passed
    assert few.quantization is not None
    sizes = {one.q.size for one in few.quantization.levels.values()}
    stored = [tensor for tensor in read(path).tensors if tensor.size in sizes]
    assert len(stored) == len(sizes)
    for tensor in stored:  # of the float view, channel by channel, whichever axis has them
        whole = tensor.dequantize() if tensor.dequantize is not None else tensor.values()
        channels = (whole.swapaxes(0, axis).reshape(whole.shape[axis], -1) for axis in range(whole.ndim))
        assert min(max(len(np.unique(channel)) for channel in rows) for rows in channels) <= 8, tensor.name


def test_a_weight_that_few_values_would_spoil_keeps_its_integers(model: CompressedModel) -> None:
    asked = quantize(model, "int8", example_inputs=EXAMPLE, values=16, threshold_db=25.0).quantization
    many = quantize(model, "int8", example_inputs=EXAMPLE, threshold_db=25.0).quantization
    assert asked is not None
    assert many is not None
    assert not set(asked.kept_float) - set(many.kept_float)
    told = [note.split()[0] for note in asked.notes if "keeps all its integers: with 16" in note]
    assert told
    for name in set(told) & set(asked.levels):
        np.testing.assert_array_equal(asked.levels[name].q, many.levels[name].q)


@pytest.mark.wide
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("globs", "kept"),
    [
        (["head"], ["head.weight"]),
        (["head.*"], ["head.weight"]),
        (["*.weight"], ["first.weight", "depth.weight", "up.weight", "point.weight", "head.weight"]),
        (["p?int", "depth.weight"], ["depth.weight", "point.weight"]),
    ],
)
def test_layers_stay_float_that_are_asked_for(
    model: CompressedModel, scheme: str, globs: list[str], kept: list[str]
) -> None:
    found = quantize(model, scheme, example_inputs=EXAMPLE, keep_float=globs, values=16 if scheme == "int8" else None)
    assert found.quantization is not None
    asked = [name for name, why in found.quantization.kept_float.items() if why == "asked for"]
    assert sorted(asked) == sorted(kept)
    few = " --values 16" if scheme == "int8" else ""
    words = " ".join(f"--float {shlex.quote(glob)}" for glob in globs)
    assert found.provenance.steps[-1] == f"quantize --scheme {scheme}{few} {words}"
    assert not found.quantization.levels.keys() & set(kept)
    assert not any(name in note for name in kept for note in found.quantization.notes)
    assert torch.equal(found.module.get_parameter("head.weight"), model.module.get_parameter("head.weight")) is (
        "head.weight" in kept
    )


@pytest.mark.parametrize("glob", ["embedding", "out", "blocks.0.*", "blocks"])
def test_a_module_is_asked_for_with_all_its_parts_and_a_shared_weight_by_either_name(glob: str) -> None:
    module = nn.ModuleDict({"embedding": nn.Embedding(9, 4), "out": nn.Linear(4, 9, bias=False)})
    module["out"].weight = module["embedding"].weight
    module["blocks"] = nn.ModuleList([nn.LSTM(4, 4), nn.MultiheadAttention(4, 2)])
    found = quantize(CompressedModel(module.eval(), {}), "int8-weights", keep_float=[glob]).quantization
    assert found is not None
    asked = {name for name, why in found.kept_float.items() if why == "asked for"}
    lstm = {"blocks.0.weight_ih_l0", "blocks.0.weight_hh_l0"}
    attention = {"blocks.1.in_proj_weight", "blocks.1.out_proj.weight"}
    wanted = {"blocks.0.*": lstm, "blocks": lstm | attention}
    assert asked == wanted.get(glob, {"embedding.weight"})


def test_a_name_that_no_weight_has_is_refused_with_the_nearest(model: CompressedModel) -> None:
    for glob, way_out in {
        "haed.*": "did you mean 'head.*'",
        "haed": "did you mean 'head'",
        "qqq": "they are first",
    }.items():
        with pytest.raises(UsageError, match=f"{re.escape(repr(glob))} names no weight .* {re.escape(way_out)}"):
            quantize(model, "int8", example_inputs=EXAMPLE, keep_float=[glob])


def test_int8_keeps_its_calibration_inputs(model: CompressedModel) -> None:
    state = torch.get_rng_state()
    with_task = quantize(model, "int8", task=Fixed(EXAMPLE[0]), samples=5).quantization
    assert torch.equal(state, torch.get_rng_state())
    assert with_task is not None
    assert len(with_task.calibration) == 5
    assert all(torch.equal(call[0], EXAMPLE[0]) for call in with_task.calibration)
    assert with_task.notes == ()
    without = quantize(model, "int8", example_inputs=EXAMPLE).quantization
    assert without is not None
    assert len(without.calibration) == 16
    assert not torch.equal(without.calibration[1][0], EXAMPLE[0])
    assert without.notes == ("activation ranges come from random inputs, since there is no task",)


def test_a_few_numbers_as_example_leave_room_for_others() -> None:
    torch.manual_seed(0)
    net = CompressedModel(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).eval(), {})
    reached = []
    for _ in range(40):
        found = quantize(net, "int8", example_inputs=(torch.randn(1, 5),)).quantization
        assert found is not None
        reached.append(max(float(call[0].abs().max()) for call in found.calibration))
    assert np.mean(np.array(reached) > 2) >= 0.9  # of what the examples were drawn of, 95 % lie within
    assert np.median(reached) < 12  # three bits of eight


def test_values_beyond_float16_stay_float(model: CompressedModel) -> None:
    model.module.head.weight.data[0, 0] = 1e6
    model.masks["head.weight"][0, 0] = True
    quantized = quantize(model, "fp16", example_inputs=EXAMPLE)
    assert quantized.quantization is not None
    assert list(quantized.quantization.kept_float) == ["head.weight"]
    assert quantized.module.head.weight[0, 0] == 1e6


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_of_zeros_is_fine(model: CompressedModel, scheme: str) -> None:
    model.module.point.weight.data.zero_()
    model.masks["point.weight"].zero_()
    quantized = quantize(model, scheme, example_inputs=EXAMPLE)
    assert not quantized.module.point.weight.any()
    assert torch.isfinite(outputs(quantized.module)).all()


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_that_cannot_be_absorbed_leaves_a_palette_weight_float(affine: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=affine)).eval()
    nn.init.uniform_(module[1].running_var, 0.5, 2.0)  # type: ignore[arg-type]
    model = CompressedModel(module, {"0.weight": module[0].weight != 0})  # type: ignore[dict-item]
    found = quantize(model, "lut4", example_inputs=EXAMPLE).quantization
    assert found is not None
    assert ("0.weight" in found.kept_float) is not affine


def test_refusals_name_the_way_out(model: CompressedModel) -> None:
    with pytest.raises(UsageError, match="unknown scheme 'int-8' — did you mean 'int8'"):
        quantize(model, "int-8")
    with pytest.raises(UsageError, match="must run — give a task or example inputs"):
        quantize(model, "int8")
    with pytest.raises(UsageError, match="lut4 has no integers to restrict — take int8 or int8-weights"):
        quantize(model, "lut4", example_inputs=EXAMPLE, values=16)
    with pytest.raises(UsageError, match="2 values for the integers of a weight — choose between 4 and 255"):
        quantize(model, "int8", example_inputs=EXAMPLE, values=2)
    with pytest.raises(UsageError, match="palette must be made after batch norm"):
        quantize(model, "lut4")
    once = quantize(model, "fp16", example_inputs=EXAMPLE)
    with pytest.raises(UsageError, match="quantized already, as fp16"):
        quantize(once, "int8", example_inputs=EXAMPLE)
    model.module.head.weight.data[0, 0] = math.nan
    with pytest.raises(ConversionError, match=r"'head\.weight' has values"):
        quantize(model, "fp16", example_inputs=EXAMPLE)
