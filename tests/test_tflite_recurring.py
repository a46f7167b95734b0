"""Recurrent layers in TFLite files are written step by step from their weights, and are what torch computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.exporting import export
from idp_deploy.flow import Model, Recipe
from idp_deploy.formats.tflite.write.graph import kind
from idp_deploy.formats.tflite.write.serializing import parse
from idp_deploy.inspection import inspect
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import quantize
from idp_deploy.verification import verify


class Around(nn.Module):
    """A layer with states from outside or none, and everything that it returns."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        given = states if isinstance(self.layer, nn.LSTM) else states[0] if states else None
        outputs, last = self.layer(x, given or None) if isinstance(given, tuple) else self.layer(x, given)
        return outputs, *(last if isinstance(last, tuple) else (last,))


LAYERS: dict[str, Callable[[], nn.RNNBase]] = {
    "lstm": lambda: nn.LSTM(16, 24),
    "lstm, both ways and stacked": lambda: nn.LSTM(16, 24, 2, batch_first=True, bidirectional=True),
    "lstm, projected": lambda: nn.LSTM(16, 24, 2, proj_size=8, bidirectional=True),
    "lstm without biases": lambda: nn.LSTM(16, 24, bias=False, batch_first=True),
    "gru": lambda: nn.GRU(16, 24, 2, batch_first=True),
    "gru, both ways": lambda: nn.GRU(16, 24, bidirectional=True),
    "gru without biases": lambda: nn.GRU(16, 24, bias=False),
    "tanh": lambda: nn.RNN(16, 24, batch_first=True, bidirectional=True),
    "relu": lambda: nn.RNN(16, 24, nonlinearity="relu"),
}


def states(layer: nn.RNNBase, batch: int) -> tuple[Tensor, ...]:
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    hidden = torch.randn(count, batch, layer.proj_size or layer.hidden_size)
    return (hidden, torch.randn(count, batch, layer.hidden_size)) if isinstance(layer, nn.LSTM) else (hidden,)


@pytest.mark.wide
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("given", [False, True], ids=["from zeros", "from a given state"])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_every_layer_computes_what_torch_computes(
    layer: Callable[[], nn.RNNBase], given: bool, batch: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = Around(layer()).eval()
    first = batch if module.layer.batch_first else 5
    example = (torch.randn(first, 5 + batch - first, 16), *(states(module.layer, batch) if given else ()))
    model = one_shot(Model(module), Recipe(0.8))
    parity = verify(export(model, "tflite", example, tmp_path / "m.tflite").path, model, example)
    assert parity.passed, (parity.outputs, parity.notes)
    assert len(parity.weights) == len(model.masks)
    assert max(output.max_relative_error for output in parity.outputs) < 1e-5


@pytest.mark.wide
@pytest.mark.parametrize("name", ["lstm, both ways and stacked", "gru, both ways", "tanh"])
def test_integers_hold_them_too(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Around(LAYERS[name]()).eval()
    example = (torch.randn((1, 6, 16) if module.layer.batch_first else (6, 1, 16)),)
    model = quantize(one_shot(Model(module), Recipe(0.5)), "int8", example_inputs=example)
    assert verify(export(model, "tflite", example, tmp_path / "m.tflite").path, model, example).passed


def test_many_steps_share_one_weight_and_leave_nothing_behind(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, example = Around(nn.LSTM(16, 64, 2)).eval(), (torch.randn(40, 1, 16),)
    model = one_shot(Model(module), Recipe(0.8, allocation="uniform"))
    artifact = export(model, "tflite", example, tmp_path / "m.tflite")
    file = parse(artifact.path.read_bytes())
    kinds = [kind(file, op) for op in file.subgraphs[0].operators]
    assert len(file.subgraphs) == 1
    assert "STABLEHLO_COMPOSITE" not in kinds
    assert kinds.count("FULLY_CONNECTED") == 2 * (1 + 39)  # the first step begins with zeros
    gates = [t for t in inspect(artifact.path).tensors if t.entries >= 4 * 64 * 16]
    assert len(gates) == 4
    assert all(t.encoding != "dense" and t.zeros > 0.7 * t.entries for t in gates)


class Between(nn.Module):
    """A recurrent layer behind a convolution, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.gru, self.after = nn.Conv1d(4, 16, 3, padding=1), nn.GRU(16, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.before(x).permute(2, 0, 1)
        first, last = self.gru(steps)
        second, _ = self.gru(steps.flip(0), last)
        return self.after(first + second)


def test_one_layer_called_twice_is_written_twice_and_stored_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, example = one_shot(Model(Between().eval()), Recipe(0.7)), (torch.randn(1, 4, 9),)
    artifact = export(model, "tflite", example, tmp_path / "m.tflite")
    parity = verify(artifact.path, model, example)
    assert parity.passed, parity.notes
    assert sum(t.entries == 24 * 16 for t in inspect(artifact.path).tensors) == 1
