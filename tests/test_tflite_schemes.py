"""Quantized TFLite files: what is stored how, dead channels, layers kept float, embeddings; both runtimes agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, Quantization
from idp_deploy.formats.tflite.read.contents import read_tflite
from idp_deploy.formats.tflite.write.checking import relative_error
from idp_deploy.quantization import quantize
from idp_deploy.quantizers import dequantize_int8, quantize_int8
from idp_deploy.verification import run_file, verify
from tests.test_tflite import pruned


class Small(nn.Module):
    """A stem, a depthwise and two 1×1 convolutions, a classifier; channel 3 of `wide` is dead."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.wide = nn.Conv2d(16, 64, 1)
        self.last = nn.Conv2d(64, 64, 1)
        self.classifier = nn.Linear(64, 40)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.stem(x))))
        return self.classifier(torch.relu(self.last(torch.relu(self.wide(x)))).mean((2, 3)))


INPUTS = (torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16),)


@pytest.fixture(scope="module")
def model() -> CompressedModel:
    torch.manual_seed(0)
    module = Small()
    with torch.no_grad():
        module.wide.weight[3] = 0
        module.wide.bias[3] = 2.5  # what is lost when a dead channel's scale is wrong
    return pruned(module, 0.7)


@pytest.mark.wide
@pytest.mark.parametrize(("scheme", "dtype", "most"), [("fp16", "float16", 0.6), ("int8-weights", "int8", 0.45)])
def test_weights_are_stored_narrow_and_sparse(
    model: CompressedModel, scheme: str, dtype: str, most: float, tmp_path: Path
) -> None:
    quantized = quantize(model, scheme, example_inputs=INPUTS)
    path = export(quantized, "tflite", INPUTS, tmp_path / "q.tflite").path
    assert verify(path, quantized, INPUTS).passed
    contents = read_tflite(path)
    stored = contents.tensor("last.weight")
    assert (stored.dtype, stored.encoding) == (dtype, "csr")
    assert stored.zeros == int((quantized.module.last.weight == 0).sum())  # type: ignore[operator]
    plain = read_tflite(export(model, "tflite", INPUTS, tmp_path / "p.tflite").path)
    assert stored.size_bytes < most * plain.tensor("last.weight").size_bytes + 1024
    assert {op.kind for op in contents.ops}.isdisjoint({"DENSIFY", "DEQUANTIZE"})


def test_static_int8_keeps_convolutions_sparse_and_dead_channels_alive(model: CompressedModel, tmp_path: Path) -> None:
    quantized = quantize(model, "int8", example_inputs=INPUTS)
    path = export(quantized, "tflite", INPUTS, tmp_path / "q.tflite").path
    contents = read_tflite(path)
    assert (contents.tensor("last.weight").dtype, contents.tensor("last.weight").encoding) == ("int8", "csr")
    assert contents.tensor("classifier.weight").encoding == "csr"  # as a 1×1 convolution
    wide = contents.tensor("wide.weight")
    scales = wide.dequantize
    assert scales is not None
    bias = contents.tensor("wide.bias").dequantize
    assert bias is not None
    assert bias()[3] == pytest.approx(2.5, rel=1e-3)
    with torch.no_grad():
        expected = quantized.module(*quantized.quantization.calibration[0]).numpy()  # type: ignore[union-attr]
    call = tuple(x.numpy() for x in quantized.quantization.calibration[0])  # type: ignore[union-attr]
    for runtime, ((output,),) in run_file(path, [call]).items():
        assert relative_error(output, expected, rms=True) < 0.1, runtime


@pytest.mark.wide
@pytest.mark.parametrize("scheme", ["int8-weights", "int8", "fp16"])
def test_layers_kept_float_stay_float(model: CompressedModel, scheme: str, tmp_path: Path) -> None:
    covered = dict.fromkeys(model.masks, 40.0)
    kept = {"last.weight": "too noisy"}
    module = model.module
    calibration = tuple((torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(i)),) for i in range(4))
    weights = {}
    for name, p in module.named_parameters():
        if name in model.masks and name not in kept:
            values = p.detach().numpy()
            weights[name] = torch.from_numpy(
                values.astype(np.float16).astype(np.float32)
                if scheme == "fp16"
                else dequantize_int8(*quantize_int8(values), 0)
            )
    grid = Small()
    grid.load_state_dict(module.state_dict() | weights)
    quantized = CompressedModel(grid.eval(), model.masks, quantization=Quantization(scheme, covered, kept, calibration))
    contents = read_tflite(export(quantized, "tflite", INPUTS, tmp_path / "q.tflite").path)
    assert contents.tensor("last.weight").dtype == "float32"
    assert contents.tensor("wide.weight").dtype == ("float16" if scheme == "fp16" else "int8")
    op = next(op for op in contents.ops if op.weights.get("weight") == "last.weight")
    assert all(contents.values[name].dtype == "float32" for name in (*op.inputs, *op.outputs))


class Embeds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(60, 32)
        self.head = nn.Linear(32, 40)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens).sum(1))


@pytest.mark.parametrize("scheme", ["fp16", "int8-weights"])
def test_embeddings_never_pass_through_both_decoders(scheme: str, tmp_path: Path) -> None:
    tokens = (torch.tensor([[1, 5, 59, 0]]),)
    quantized = quantize(pruned(Embeds()), scheme, example_inputs=tokens)
    path = export(quantized, "tflite", tokens, tmp_path / "e.tflite").path
    assert verify(path, quantized, tokens).passed
    tensor = read_tflite(path).tensor("embedding.weight")
    assert tensor.encoding == "dense" or tensor.dtype == "float32"


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 48)
        self.gamma = nn.Parameter(torch.linspace(0.1, 2, 48))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x) * self.gamma)


def test_factors_the_converter_fuses_come_out_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = pruned(LayerScale(), 0.8), (torch.randn(3, 16),)
    path = export(model, "tflite", inputs, tmp_path / "s.tflite").path
    assert verify(path, model, inputs).passed
    weight = read_tflite(path).tensor("linear.weight").values()
    assert np.array_equal(weight, model.module.state_dict()["linear.weight"].numpy())
