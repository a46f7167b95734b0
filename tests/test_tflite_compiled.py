"""LiteRT's CompiledModel beside its interpreter: the same bits, or a note on why it was not asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn

from idp_deploy.errors import FileError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel
from idp_deploy.formats.tflite import litert
from idp_deploy.formats.tflite.litert import COMPILED
from idp_deploy.formats.tflite.write.serializing import parse, serialize
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.verification import open_file, verify
from tests.tflite_files import adding


class TwoWays(nn.Module):
    """Inputs and outputs of several shapes, and more than one of each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 10)
        with torch.no_grad():
            self.conv.weight *= torch.rand(self.conv.weight.shape) > 0.8
            self.head.weight *= torch.rand(self.head.weight.shape) > 0.8

    def forward(self, image: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.relu(self.conv(image)).mean((2, 3))
        return self.head(features) + more, features


def model_of(module: nn.Module, *names: str) -> CompressedModel:
    state = module.state_dict()
    return CompressedModel(module.eval(), {name: state[name] != 0 for name in names})


INPUTS = (torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(1)), torch.ones(1, 10))


@pytest.mark.wide
@pytest.mark.parametrize("scheme", [None, "fp16", "int8-weights", "int8"])
def test_compiled_model_gives_the_bits_that_the_interpreter_gives(tmp_path: Path, scheme: str | None) -> None:
    torch.manual_seed(0)
    model = model_of(TwoWays(), "conv.weight", "head.weight")
    if scheme:
        model = quantize(model, scheme, example_inputs=INPUTS)
    path = export(model, "tflite", INPUTS, tmp_path / "m.tflite").path
    sessions = open_file(read(path))
    assert sessions.notes == ()
    call = tuple(x.numpy() for x in INPUTS)
    for one, other in zip(sessions["litert-xnnpack"](call), sessions[COMPILED](call), strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def test_a_type_that_its_buffers_cannot_hold_is_a_note_and_no_failure(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    model = parse(adding(np.ones((1, 3), np.float32)))
    for tensor in model.subgraphs[0].tensors:
        tensor.type = schema.TensorType.INT64
    constant = next(tensor for tensor in model.subgraphs[0].tensors if tensor.name == b"stored")
    model.buffers[constant.buffer].data = np.frombuffer(np.full(3, 5, np.int64).tobytes(), np.uint8)
    path.write_bytes(serialize(model))
    parity = verify(path)
    assert parity.passed
    assert COMPILED not in {output.runtime for output in parity.outputs}
    assert f"not run by {COMPILED}: Unsupported dtype: int64" in parity.notes


def test_an_output_that_is_an_input_is_left_to_the_interpreter(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    model = parse(adding(np.ones((1, 3), np.float32)))
    graph = model.subgraphs[0]
    graph.outputs = [*map(int, graph.outputs), *map(int, graph.inputs)]
    path.write_bytes(serialize(model))
    parity = verify(path)
    assert parity.passed
    assert any(note.startswith(f"not run by {COMPILED}: an output is one of its inputs") for note in parity.notes)


def test_a_runtime_that_is_not_there_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export(model_of(nn.Linear(4, 3)), "tflite", (torch.ones(1, 4),), tmp_path / "m.tflite").path
    monkeypatch.setattr(litert, "place_of", lambda _: f"{litert.__name__}:LeftOutOfThisBuild")
    with pytest.raises(FileError):
        litert.Litert(path.read_bytes(), COMPILED, "m.tflite")
    monkeypatch.setattr(
        litert, "place_of", lambda name: f"{litert.__name__}:{'LeftOut' if name == COMPILED else 'Native'}"
    )
    sessions = open_file(read(path))
    assert COMPILED not in sessions
    assert sessions.notes[0].startswith(f"not run by {COMPILED}: ")
