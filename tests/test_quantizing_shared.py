"""Schemes where layers share a norm or a weight, or a product has factors of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel
from idp_deploy.quantization import SCHEMES, quantize
from idp_deploy.verification import verify

EXAMPLE = (torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)),)


def test_a_norm_shared_by_two_layers_is_left_alone() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.a(x)) + self.norm(self.b(x))

    torch.manual_seed(0)
    module = Shared().eval()
    nn.init.uniform_(module.norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    nn.init.normal_(module.norm.running_mean)  # type: ignore[arg-type]
    nn.init.normal_(module.norm.weight)
    model = CompressedModel(module, {n: p != 0 for n, p in module.named_parameters() if p.dim() == 4})
    rounded = quantize(model, "fp16", example_inputs=EXAMPLE)
    with torch.no_grad():
        before, after = module(*EXAMPLE), rounded.module(*EXAMPLE)
    assert (after - before).abs().max() < 2e-3 * before.abs().max()
    palette = quantize(model, "lut4", example_inputs=EXAMPLE).quantization
    assert palette is not None
    assert set(palette.kept_float) == {"a.weight", "b.weight"}


class Words(nn.Module):
    """Embedding tied to the head, attention and a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.gru = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.gru(x)[0])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_models_with_tied_weights(scheme: str) -> None:
    torch.manual_seed(0)
    module = Words().eval()
    masks = {"attention.in_proj_weight": torch.rand(48, 16) > 0.5}
    module.attention.in_proj_weight.data *= masks["attention.in_proj_weight"]
    ids = (torch.arange(12).reshape(1, 12),)
    quantized = quantize(CompressedModel(module, masks), scheme, example_inputs=ids)
    assert quantized.module.head.weight is quantized.module.embed.weight
    assert quantized.quantization is not None
    assert set(quantized.quantization.signal_to_noise_db) == {
        "embed.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "gru.weight_ih_l0",
        "gru.weight_hh_l0",
    }
    assert not torch.equal(quantized.module.embed.weight, module.embed.weight)


@pytest.mark.wide
@pytest.mark.usefixtures("exact_integers")
@pytest.mark.parametrize("factors", [{"beta": 2.0}, {"alpha": 0.5, "beta": 0.25}, {"beta": 0.0}])
def test_factors_of_a_product_and_its_bias_are_kept(factors: dict[str, float], tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(20, 30), nn.Linear(30, 5)
            self.inner.bias.data.normal_(0, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.addmm(self.inner.bias, x, self.inner.weight.t(), **factors).relu())

    torch.manual_seed(0)
    model, x = CompressedModel(Scaled().eval(), {}), (torch.randn(8, 20),)
    model = quantize(model, "int8", example_inputs=x)
    assert verify(export(model, "onnx", x, tmp_path / "net.onnx").path, model, x).passed


class Twice(nn.Module):
    """One layer of rows and of sequences, behind a recurrence: a product with its bias inside, and one with a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.out = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = self.steps(x)
        return self.out(y[:, -1]), self.out(y)


def test_a_bias_has_integers_for_each_layer_that_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    inputs = (torch.randn(1, 7, 6),)
    model = quantize(CompressedModel(Twice().eval(), {}), "int8", example_inputs=inputs)
    parity = verify(export(model, "onnx", inputs, tmp_path / "m.onnx").path, model, inputs)
    assert parity.passed
    assert all(output.max_relative_error < 0.02 for output in parity.outputs)
