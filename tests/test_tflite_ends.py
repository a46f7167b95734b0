"""Integers at both ends of an int8 file, and a name for every tensor of every file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel
from idp_deploy.formats.tflite.read.contents import read_tflite
from idp_deploy.formats.tflite.write.serializing import parse
from idp_deploy.quantization import quantize
from idp_deploy.verification import verify
from tests.test_tflite import Mobile, pruned
from tests.test_zoo_export import Calls
from tests.zoo import ZOO
from tests.zoo import pruned as pruned_entry


def calibrated(module: nn.Module, *shape: int) -> tuple[CompressedModel, tuple[Tensor]]:
    torch.manual_seed(0)
    module.train()(torch.randn(16, *shape[1:]))
    inputs = (torch.randn(*shape),)
    return quantize(pruned(module), "int8", example_inputs=inputs), inputs


@pytest.mark.wide
@pytest.mark.parametrize("scheme", [None, "fp16", "int8-weights", "int8"])
def test_every_tensor_has_a_name_of_its_own(scheme: str | None, tmp_path: Path) -> None:
    module, inputs = Mobile(), (torch.randn(1, 3, 32, 32),)
    module.train()(torch.randn(16, 3, 32, 32))
    model = pruned(module)
    if scheme:
        model = quantize(model, scheme, example_inputs=inputs)
    path = export(model, "tflite", inputs, tmp_path / "m.tflite").path
    names = [bytes(t.name or b"").decode() for t in parse(path.read_bytes()).subgraphs[0].tensors]
    assert "" not in names
    assert len(set(names)) == len(names)
    assert any(name.endswith("#densify") for name in names)
    assert read_tflite(path).tensor("classifier.weight").shape == (10, 64)


def test_ai_edge_quantizer_takes_a_sparse_file(tmp_path: Path) -> None:
    from ai_edge_quantizer import quantizer, recipe

    path = export(pruned(Mobile()), "tflite", (torch.randn(1, 3, 32, 32),), tmp_path / "m.tflite").path
    made = quantizer.Quantizer(str(path), recipe.weight_only_wi8_afp32()).quantize().quantized_model
    assert any(tensor.sparsity is not None for tensor in parse(bytes(made)).subgraphs[0].tensors)


@pytest.mark.wide
@pytest.mark.parametrize("encoding", ["auto", "dense"])
def test_integers_at_the_ends_leave_no_float_operator(encoding: str, tmp_path: Path) -> None:
    model, inputs = calibrated(Mobile(), 1, 3, 32, 32)
    made = export(model, "tflite", inputs, tmp_path / "m.tflite", encoding=encoding, io="int8")
    contents = read_tflite(made.path)
    assert {contents.values[name].dtype for name in (*contents.inputs, *contents.outputs)} == {"int8"}
    assert not {op.kind for op in contents.ops} & {"QUANTIZE", "DEQUANTIZE"}
    assert made.manifest["options"]["io"] == "int8"
    assert not [note for note in made.notes if note.startswith("io:")]
    assert list(contents.interface.inputs) == ["args_0"]
    parity = verify(made.path, model, inputs)
    assert parity.passed, parity
    plain = verify(export(model, "tflite", inputs, tmp_path / "float.tflite", encoding=encoding).path, model, inputs)
    assert parity.outputs[0].max_relative_error < plain.outputs[0].max_relative_error + 0.01


def test_a_broken_seal_is_judged_by_an_export_with_the_same_ends(tmp_path: Path) -> None:
    model, inputs = calibrated(Mobile(), 1, 3, 32, 32)
    path = export(model, "tflite", inputs, tmp_path / "m.tflite", io="int8").path
    path.write_bytes(path.read_bytes() + b"\0")
    parity = verify(path, model, inputs)
    assert parity.passed, parity
    assert any("what it holds is what a fresh export holds" in note for note in parity.notes)


class Twice(nn.Module):
    """One input to two layers of which one also divides, so that the float input cannot go."""

    def __init__(self, divide: bool) -> None:
        super().__init__()
        self.one, self.other, self.divide = nn.Linear(16, 8), nn.Linear(16, 8), divide

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rest = self.other(x)
        return self.one(x), rest / (x[:, :8] ** 2 + 1) if self.divide else rest


@pytest.mark.wide
@pytest.mark.parametrize("divide", [False, True])
def test_what_stays_float_is_said(divide: bool, tmp_path: Path) -> None:
    model, inputs = calibrated(Twice(divide), 1, 16)
    made = export(model, "tflite", inputs, tmp_path / "m.tflite", io="int8")
    contents = read_tflite(made.path)
    told = [note for note in made.notes if note.startswith("io:")]
    floats = [n for n in (*contents.inputs, *contents.outputs) if contents.values[n].dtype == "float32"]
    assert bool(told) == bool(floats) == divide
    assert all(any(f" {name} stays float32" in note for note in told) for name in floats)
    assert verify(made.path, model, inputs).passed


@pytest.mark.wide
@pytest.mark.parametrize("name", ["keyword_spotter", "cell", "detector", "two_inputs", "bert"])
def test_other_nets_keep_their_signature(name: str, tmp_path: Path) -> None:
    entry = ZOO[name]
    model = quantize(pruned_entry(entry), "int8", task=Calls(entry))
    made = export(model, "tflite", entry.example_inputs(), tmp_path / "net.tflite", io="int8")
    assert verify(made.path, model, entry.example_inputs()).passed


@pytest.mark.parametrize("scheme", [None, "fp16", "int8-weights"])
def test_integers_before_floats_are_refused(scheme: str | None, tmp_path: Path) -> None:
    model: Any = pruned(nn.Linear(16, 4))
    model = quantize(model, scheme) if scheme else model
    with pytest.raises(UsageError, match="--io int8 needs int8 activations") as caught:
        export(model, "tflite", (torch.randn(1, 16),), tmp_path / "m.tflite", io="int8")
    assert "--scheme int8" in caught.value.way_out
    assert not list(tmp_path.iterdir())


def test_an_empty_output_is_named(tmp_path: Path) -> None:
    class Rest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"whole": self.layer(x), "rest": self.layer(x)[:, 6:]}

    with pytest.raises(ConversionError, match=r"output 'rest' is empty \(2×0\)"):
        export(CompressedModel(Rest().eval(), {}), "tflite", (torch.randn(2, 6),), tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


def test_an_output_of_a_size_by_values_is_named(tmp_path: Path) -> None:
    net = _Repeated()
    with pytest.raises(ConversionError, match="how large output 'output' is depends on the numbers"):
        export(CompressedModel(net.eval(), {}), "tflite", (torch.randn(1, 6),), tmp_path / "m.tflite")


def test_rows_that_values_choose_are_refused_with_a_way_out(tmp_path: Path) -> None:
    """Experts that are given their rows alone."""

    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.expert = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            (rows,) = torch.where(x[:, 0] > 0)
            return torch.zeros_like(x).index_add(0, rows, self.expert(x[rows].reshape(-1, 6)))

    with pytest.raises(ConversionError) as caught:
        export(CompressedModel(Routed().eval(), {}), "tflite", (torch.randn(4, 6),), tmp_path / "m.tflite")
    assert "weigh them by the mask" in str(caught.value.way_out)


class _Repeated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).repeat_interleave((x[0] > 0).long() + 1, dim=1)
