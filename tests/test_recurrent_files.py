"""Recurrent layers in files: every gate's zeros lie in the file, are proved there, and make it small."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName, Model, Recipe
from idp_deploy.formats import FORMATS, usual
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


@pytest.mark.wide
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


@pytest.mark.wide
@pytest.mark.parametrize("scheme", ["", "fp16", "int8-weights", "lut4"])
def test_coreml_holds_every_gate_sparse_in_its_operators_and_loops(scheme: str, tmp_path: Path) -> None:
    model, example = pruned(scheme)
    artifact = export(model, "coreml", example, tmp_path / "m.mlpackage")
    check(artifact.path, scheme)
    assert not any("rearranged" in note for note in artifact.notes)
    gates = [t for t in inspect(artifact.path).tensors if "weight" in t.name and t.entries >= 1024]
    assert {t.value_bits for t in gates} <= {"int8-weights": {8.0}, "lut4": {4.0}}.get(scheme, {16.0, 32.0})


class Turned(nn.Module):
    """A GRU whose axes change places by every word for it."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 5, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.gru(x)[0]
        return y.mT + y.adjoint(), y.swapaxes(1, 2) * 2, y[0].T * 3, y.movedim(1, 2) * 4, y.moveaxis((0, 2), (2, 1)) * 5


def test_axes_change_places_behind_a_recurrent_layer_in_coreml(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, example = CompressedModel(Turned().eval(), {}), (torch.randn(2, 7, 6),)
    assert verify(export(model, "coreml", example, tmp_path / "m.mlpackage").path, model, example).passed


class Text(nn.Module):
    """Words looked up in a table that also is the head."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, 32)
        self.mix = nn.Linear(32, 32)
        self.head = nn.Linear(32, 200, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(words)).relu())


@pytest.mark.wide
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("scheme", ["", "int8-weights"])
@pytest.mark.parametrize(("format", "suffix"), [("onnx", ".onnx"), ("coreml", ".mlpackage"), ("tflite", ".tflite")])
def test_pruned_tables_are_stored_sparse_and_proved(
    format: FormatName, suffix: str, scheme: str, tied: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    example = (torch.randint(0, 200, (1, 9)),)
    model = one_shot(Model(Text(tied).eval()), Recipe(0.8, options={"embeddings": True}))
    model = quantize(model, scheme, example_inputs=example) if scheme else model
    path = export(model, format, example, tmp_path / f"m{suffix}").path
    parity = verify(path, model, example)
    assert parity.passed, parity.notes
    assert [p.parameter for p in parity.weights] == ["embed.weight", "mix.weight", *([] if tied else ["head.weight"])]
    tables = [t for t in inspect(path).tensors if t.entries == 200 * 32]
    if format == "tflite" and scheme:  # what reads a table behind two decoders sees garbage there
        return
    assert all(t.encoding != "dense" and t.zeros > 0.7 * t.entries for t in tables), tables
    stored = sum(t.size_bytes for t in tables)
    bound = sum(t.bound_bytes + 4 * 200 * bool(scheme) for t in tables[: 1 if tied else 2])
    assert stored < 1.3 * bound + 500, (stored, bound)


class Steps(nn.Module):
    """Two steps of a cell, with or without a whole layer before it, which takes another way through the converter."""

    def __init__(self, cell: nn.RNNCellBase, layered: bool) -> None:
        super().__init__()
        self.layer = nn.GRU(24, 24, batch_first=True) if layered else None
        self.cell = cell

    def forward(self, frames: Tensor) -> Tensor:
        frames = frames if self.layer is None else self.layer(frames)[0]
        state = self.cell(frames[:, 1], self.cell(frames[:, 0]))
        return state[0] + state[1] if isinstance(state, tuple) else state


CELLS = [nn.LSTMCell(24, 32), nn.GRUCell(24, 32, bias=False), nn.RNNCell(24, 32), nn.RNNCell(24, 32, True, "relu")]


@pytest.mark.wide
@pytest.mark.parametrize("layered", [False, True], ids=["alone", "behind a layer"])
@pytest.mark.parametrize("cell", CELLS, ids=["lstm", "gru", "tanh", "relu"])
@pytest.mark.parametrize(("format", "suffix"), [("onnx", ".onnx"), ("coreml", ".mlpackage")])
def test_single_steps_go_into_every_format(
    format: FormatName, suffix: str, cell: nn.RNNCellBase, layered: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    example = (torch.randn(1, 2, 24),)
    model = one_shot(Model(Steps(cell, layered).eval()), Recipe(0.8))
    path = export(model, format, example, tmp_path / f"m{suffix}").path
    parity = verify(path, model, example)
    assert parity.passed, parity.notes
    assert len(parity.weights) == len(model.masks) == (4 if layered else 2)


@pytest.mark.wide
@pytest.mark.parametrize("format", usual())
def test_a_state_in_a_tuple_goes_in_and_comes_out_in_a_dict(format: FormatName, tmp_path: Path) -> None:
    class Streaming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory, self.head = nn.LSTM(12, 8, batch_first=True), nn.Linear(8, 5)

        def forward(self, frames: Tensor, state: tuple[Tensor, Tensor]) -> dict[str, object]:
            frames, state = self.memory(frames, state)
            return {"scores": self.head(frames), "state": state}

    torch.manual_seed(0)
    example = (torch.randn(1, 4, 12), (torch.randn(1, 1, 8), torch.randn(1, 1, 8)))
    model = one_shot(Model(Streaming().eval()), Recipe(0.6))
    parity = verify(export(model, format, example, tmp_path / f"m{FORMATS[format].suffix}").path, model, example)
    assert parity.passed, (parity.outputs, parity.notes)
    assert len({parity.output for parity in parity.outputs}) == 3


def fractions(x: Tensor) -> tuple[Tensor, ...]:
    return torch.fmod(x, 0.7), x.trunc(), torch.lerp(x, -x, 0.3), x.prod(1), x.round(decimals=1)


def windows(x: Tensor) -> tuple[Tensor, ...]:
    return x.unfold(1, 2, 1), F.rms_norm(x, (6,)), F.cosine_similarity(x, x.flip(1), -1), torch.asinh(x)


def written(x: Tensor) -> tuple[Tensor, ...]:
    """As a greedy decoder for CTC marks what it keeps."""
    best = x.argmax(2)
    keep = torch.ones_like(best, dtype=torch.bool)
    keep[:, 1:] = best[:, 1:] != best[:, :-1]
    keep &= best != 0
    y = x.clone()
    y[:, 0] = 0
    return best.masked_fill(~keep, -1), keep.sum(1), y, (x > 0).roll(1, 1)


BEHIND = {"fractions": fractions, "windows": windows, "written": written}


class Followed(nn.Module):
    """A recurrent layer, and what coremltools does not read in a trace as it stands."""

    def __init__(self, rest: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.gru, self.rest = nn.GRU(4, 6, batch_first=True), rest

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.rest(3 * self.gru(x)[0])


@pytest.mark.parametrize("name", BEHIND)
def test_what_has_to_be_said_otherwise_behind_a_recurrent_layer_goes_to_coreml(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, example = CompressedModel(Followed(BEHIND[name]).eval(), {}), (torch.randn(2, 7, 4),)
    path = export(model, "coreml", example, tmp_path / "m.mlpackage", precision="float32").path
    parity = verify(path, model, example)
    assert parity.passed, [output for output in parity.outputs if not output.passed]
