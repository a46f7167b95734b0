"""A model that gives one result more than once, as encoders give their last state beside all states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.capturing import capture
from idp_deploy.exporting import export
from idp_deploy.flow import FormatName, Model
from idp_deploy.loading import as_it_stands
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.verification import verify


class Encoder(nn.Module):
    """Gives its last state by itself, among all of them, and once more behind a dropout."""

    def __init__(self, convolutional: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1) if convolutional else nn.Linear(8, 8)
        self.second = nn.Conv2d(8, 8, 1) if convolutional else nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        first = self.first(x).relu()
        last = self.second(first)
        return {"last": last, "states": [first, last], "embedding": self.dropout(last), "most": last.amax(1)}


@pytest.mark.wide
@pytest.mark.parametrize("scheme", [None, "int8"])
@pytest.mark.parametrize("convolutional", [False, True], ids=["linear", "images"])
@pytest.mark.parametrize("format", ["onnx", "coreml", "tflite"])
def test_every_output_is_there_by_its_name(
    format: FormatName, convolutional: bool, scheme: str | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(1, 3, 8, 8) if convolutional else torch.randn(2, 8),)
    model = as_it_stands(Model(Encoder(convolutional).eval()))
    model = quantize(model, scheme, example_inputs=inputs) if scheme else model
    suffix = {"onnx": ".onnx", "coreml": ".mlpackage", "tflite": ".tflite"}[format]
    artifact = export(model, format, inputs, tmp_path / f"net{suffix}")
    parity = verify(artifact.path, model, inputs)
    assert parity.passed, parity
    outputs = read(artifact.path).outputs
    assert len(outputs) == len(set(outputs)) == 5
    assert {output.output for output in parity.outputs} >= set(outputs)


class Giving(nn.Module):
    """Gives what is asked for of a line: a number, truths, integers, one result many times."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.line = what, nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Any:
        y = self.line(x.relu()).relu()
        truth = y > 0.1
        return {
            "a number": (y.sum(), y.sum().squeeze(0), y),
            "one number": (y.sum(),) * 3,
            "truths": (truth, truth, y, truth, truth.all(), y),
            "integers": (y.argmax(1),) * 3,
            "a dozen": (y, y.tanh(), *(y,) * 10),
            "a name of another step": {"relu": y, "linear": y, "last": y},
        }[self.what]


@pytest.mark.wide
@pytest.mark.parametrize("format", ["onnx", "coreml", "tflite"])
@pytest.mark.parametrize("what", ["a number", "one number", "truths", "integers", "a dozen", "a name of another step"])
def test_outputs_of_any_kind_are_given_in_order(what: str, format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(2, 8),)
    model = as_it_stands(Model(Giving(what).eval()))
    suffix = {"onnx": ".onnx", "coreml": ".mlpackage", "tflite": ".tflite"}[format]
    artifact = export(model, format, inputs, tmp_path / f"net{suffix}")
    parity = verify(artifact.path, model, inputs)
    assert parity.passed, parity
    assert read(artifact.path).outputs == tuple(capture(model, inputs).output_names())


class Anchored(nn.Module):
    """Constants among the results: boxes that the answer is beside, the version as a number, one of them twice."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(8, 4)
        self.register_buffer("boxes", torch.randn(5, 4))
        self.register_buffer("version", torch.tensor(3))

    def forward(self, x: Tensor) -> dict[str, Any]:
        found = self.layer(x)
        states = found[0] if isinstance(found, tuple) else found
        return {"scores": self.head(states), "boxes": self.boxes, "all": [self.version, self.boxes, self.head.bias]}


@pytest.mark.wide
@pytest.mark.parametrize("format", ["onnx", "coreml", "tflite"])
@pytest.mark.parametrize("layer", [nn.Linear(8, 8), nn.GRU(8, 8), nn.LSTM(8, 4, bidirectional=True)], ids=repr)
def test_constants_are_among_the_outputs(layer: nn.Module, format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(3, 2, 8),)
    model = as_it_stands(Model(Anchored(layer).eval()))
    suffix = {"onnx": ".onnx", "coreml": ".mlpackage", "tflite": ".tflite"}[format]
    artifact = export(model, format, inputs, tmp_path / f"net{suffix}")
    parity = verify(artifact.path, model, inputs)
    assert parity.passed, parity
    assert read(artifact.path).outputs == tuple(capture(model, inputs).output_names())
