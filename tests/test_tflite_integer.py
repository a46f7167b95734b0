"""int8 activations where 8 bits are too few: norms, ELUs and masked attention stay float inside an int8 file."""

from __future__ import annotations

from pathlib import Path

import pytest

from idp_deploy.exporting import export
from idp_deploy.formats.tflite.read.contents import read_tflite
from idp_deploy.quantization import quantize
from idp_deploy.verification import verify
from tests.test_zoo_export import Calls
from tests.zoo import ZOO, pruned


@pytest.mark.parametrize("name", ["super_resolution", "tied_language_model"])
def test_delicate_operators_stay_float_and_the_file_stays_accurate(name: str, tmp_path: Path) -> None:
    entry = ZOO[name]
    model = quantize(pruned(entry), "int8", task=Calls(entry))
    path = export(model, "tflite", entry.example_inputs(), tmp_path / "net.tflite").path
    contents = read_tflite(path)
    types = {op.kind: contents.values[op.outputs[0]].dtype for op in contents.ops}
    assert types["CONV_2D"] == "int8"
    assert {types.get(kind, "float32") for kind in ("SUB", "RSQRT", "SQUARED_DIFFERENCE", "EXP")} == {"float32"}
    parity = verify(path, model, entry.example_inputs())
    assert max(output.max_relative_error for output in parity.outputs) < 0.05


def test_an_output_that_feeds_an_integer_layer_stays_float(tmp_path: Path) -> None:
    entry = ZOO["cell"]
    model = quantize(pruned(entry), "int8", task=Calls(entry))
    path = export(model, "tflite", entry.example_inputs(), tmp_path / "net.tflite").path
    contents = read_tflite(path)
    assert [contents.values[name].dtype for name in contents.outputs] == ["float32", "float32"]
    assert verify(path, model, entry.example_inputs()).passed
