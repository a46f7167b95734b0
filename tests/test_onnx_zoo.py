"""The zoo through ONNX: the file agrees with the model on other inputs and batches, and holds its very zeros."""

import dataclasses

import pytest
import torch

from idp_deploy.distance import error_of
from idp_deploy.exporting import export
from idp_deploy.formats.onnx.read.contents import read_onnx
from idp_deploy.quantization import quantize
from idp_deploy.verification import run_file
from idp_deploy.verification.proof import prove_weights
from tests.zoo import ZOO, flat, pruned

# of the largest output; for int8, which rounds every activation, of the outputs' root mean square
TOLERANCES = {"float32": 1e-4, "fp16": 1e-3, "int8-weights": 1e-4, "lut4": 1e-4, "int8": 0.12}
QUICK = [
    ("mobilenet_v3", "float32"),
    ("shufflenet_v2", "float32"),
    ("unet", "float32"),
    ("two_inputs", "float32"),
    ("lstm", "int8-weights"),
    ("bert", "lut4"),
    ("tied_language_model", "int8"),
    ("mobilenet_v2", "int8"),
]
ALL = [(name, scheme) for name in ZOO for scheme in TOLERANCES]


def check(name: str, scheme: str, path) -> None:
    entry = ZOO[name]
    model, example = pruned(entry), entry.example_inputs()
    if scheme != "float32":
        model = quantize(model, scheme, example_inputs=example)
    if scheme == "int8":
        calibration = tuple(entry.example_inputs(seed) for seed in range(32))
        model = dataclasses.replace(
            model, quantization=dataclasses.replace(model.quantization, calibration=calibration)
        )
    artifact = export(model, "onnx", example, path)
    calls = [entry.example_inputs(0), entry.example_inputs(1, batch=3), entry.example_inputs(2)]
    found = run_file(path, [tuple(x.numpy() for x in call) for call in calls])["onnxruntime"]
    with torch.no_grad():
        expected = [[x.numpy() for x in flat(model.module(*call))] for call in calls]
    for position in range(len(expected[0])):
        wanted, given = [outputs[position] for outputs in expected], [outputs[position] for outputs in found]
        assert error_of(wanted, given, "rms" if scheme == "int8" else "max") <= TOLERANCES[scheme]
    contents = read_onnx(path)
    assert not contents.warnings
    assert contents.size_bytes == artifact.size_bytes
    proofs, _ = prove_weights(model, contents, example)
    assert len(proofs) == len(model.masks)
    assert all(proof.passed for proof in proofs), [proof for proof in proofs if not proof.passed]
    assert all(len(op.outputs) == 0 or op.outputs[0] in contents.values for op in contents.ops)


@pytest.mark.wide
@pytest.mark.parametrize(("name", "scheme"), QUICK)
def test_some_of_the_zoo(name, scheme, tmp_path):
    check(name, scheme, tmp_path / f"{name}.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scheme"), ALL)
def test_all_of_the_zoo(name, scheme, tmp_path):
    check(name, scheme, tmp_path / f"{name}.onnx")
