"""Recurrent layers in files: every gate's zeros lie in the file, are proved there, and make it small."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, Model, Recipe
from idp_deploy.inspection import inspect
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import quantize
from idp_deploy.verification import verify


class Speech(nn.Module):
    """Frames through a stacked two-way LSTM and a GRU; the last state is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(24, 32, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(64, 48, batch_first=True)
        self.head = nn.Linear(48, 10)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.gru(self.lstm(frames)[0])[0][:, -1])


@cache
def pruned(scheme: str = "") -> tuple[CompressedModel, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    module = Speech().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(3.0)  # so that the output depends on the frames
    model, example = one_shot(Model(module), Recipe(0.8)), (torch.randn(1, 7, 24),)
    return quantize(model, scheme, example_inputs=example) if scheme else model, example


def check(path: Path, scheme: str = "") -> None:
    """Every masked weight is proved in the file, runs agree, and zeros are left out of what is stored."""
    model, example = pruned(scheme)
    parity = verify(path, model, example)
    assert parity.passed, parity.notes
    assert {proof.parameter: proof.zeros for proof in parity.weights} == {
        name: int((model.module.get_parameter(name) == 0).sum()) for name in model.masks
    }
    large = [t for t in inspect(path).tensors if t.entries >= 1024 and t.zeros]
    assert sum(t.zeros for t in large) > 0.75 * sum(t.entries for t in large)
    assert all(t.encoding != "dense" for t in large)
    scales = 4 * sum(t.entries // t.shape[-1] for t in large) if "int8" in scheme else 0
    assert sum(t.size_bytes for t in large) - scales < 1.15 * sum(t.bound_bytes for t in large) + 300 * len(large)


@pytest.mark.parametrize("scheme", ["", "fp16", "int8-weights", "int8", "lut4"])
def test_onnx_holds_every_gate_sparse(scheme: str, tmp_path: Path) -> None:
    model, example = pruned(scheme)
    check(export(model, "onnx", example, tmp_path / "m.onnx").path, scheme)


def test_onnxruntime_folds_decoded_gates_into_the_recurrent_operators(tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    model, example = pruned()
    export(model, "onnx", example, tmp_path / "m.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(tmp_path / "m.onnx", options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    constants = {tensor.name for tensor in graph.initializer}
    recurrent = [node for node in graph.node if node.op_type in ("LSTM", "GRU")]
    assert len(recurrent) == 3
    assert all({node.input[1], node.input[2]} <= constants for node in recurrent)
    assert not {node.op_type for node in graph.node} & {"ScatterElements", "GatherElements", "CumSum", "BitShift"}
