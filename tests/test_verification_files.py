"""verify and inspect on files that the exporters wrote, and on one that another tool wrote."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from idp_deploy.distance import error_of
from idp_deploy.errors import FileError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName
from idp_deploy.inspection import inspect
from idp_deploy.quantization import SCHEMES, quantize
from idp_deploy.rendering.artifacts import parity_document
from idp_deploy.tasks import Task, evaluate
from idp_deploy.verification import file_accuracy, verify
from idp_deploy.verification.liveness import variation
from tests.formats_here import HERE

SUFFIX = {"onnx": ".onnx", "coreml": ".mlpackage", "tflite": ".tflite"}


class Net(nn.Module):
    """Big enough that sparse encodings and integers pay; its output follows its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.point, self.norm2 = nn.Conv2d(16, 64, 1, bias=False), nn.BatchNorm2d(64)
        self.depth, self.norm3 = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False), nn.BatchNorm2d(64)
        self.wide = nn.Conv2d(64, 96, 1)
        self.head = nn.Linear(96 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.norm2(self.point(x)))
        x = torch.relu(self.norm3(self.depth(x)))
        return self.head(nn.functional.adaptive_avg_pool2d(self.wide(x), 2).flatten(1))


class Pictures(Task):
    """Random pictures, labelled by a fixed linear function of them."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(48, 3, 16, 16, generator=generator)
        self.data = TensorDataset(x, (x.flatten(1) @ torch.randn(768, 10, generator=generator)).argmax(-1))

    def train_loader(self, seed: int) -> DataLoader[Any]:
        return DataLoader(self.data, batch_size=16)

    def validation_loader(self) -> DataLoader[Any]:
        return DataLoader(self.data, batch_size=20)


def build(seed: int = 0) -> CompressedModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = Net()
        with torch.no_grad():
            for _ in range(20):
                module(torch.randn(16, 3, 16, 16))  # running statistics worth folding
    module.eval()
    masks = {}
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            masks[name] = torch.rand(parameter.shape, generator=generator) > 0.8
            parameter.data *= masks[name]
    return CompressedModel(module, masks)


TASK = Pictures()
EXAMPLE = TASK.example_inputs()


@pytest.fixture(scope="module")
def model() -> CompressedModel:
    return build()


@pytest.fixture(scope="module")
def file(model: CompressedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "net.onnx"
    export(model, "onnx", EXAMPLE, path)
    return path


def test_a_written_file_is_proved(model: CompressedModel, file: Path) -> None:
    state = torch.get_rng_state()
    parity = verify(file, model, EXAMPLE, task=TASK)
    assert torch.equal(state, torch.get_rng_state())
    assert parity.passed
    assert [o.runtime for o in parity.outputs] == ["onnxruntime"]
    assert parity.outputs[0].max_relative_error < 1e-5
    assert {w.parameter: w.zeros for w in parity.weights} == {n: int((~m).sum()) for n, m in model.masks.items()}
    assert sum(w.zeros for w in parity.weights) == model.zeros
    assert parity.metrics["onnxruntime"] == parity.metrics["torch"] == evaluate(model.module, TASK)
    assert [note for note in parity.notes if "prunable weights are zero" not in note] == []
    assert parity.artifact.format == "onnx"
    assert parity.artifact.size_bytes == file.stat().st_size
    assert parity.artifact.manifest["zeros"] == {w.parameter: w.zeros for w in parity.weights}


def test_one_mutated_stored_weight_fails_and_is_named(model: CompressedModel, file: Path, tmp_path: Path) -> None:
    proto = onnx.load(file)
    kept = model.module.get_parameter("head.weight").detach()[model.masks["head.weight"]][7].numpy()
    floats = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    [initializer] = [t for t in floats if kept in numpy_helper.to_array(t)]
    values = numpy_helper.to_array(initializer).copy()
    assert (values == kept).sum() == 1
    values[values == kept] *= np.float32(1.0001)
    initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
    path = tmp_path / "mutated.onnx"
    onnx.save(proto, path)
    parity = verify(path, model, EXAMPLE)
    assert not parity.passed
    assert [w.parameter for w in parity.weights if not w.passed] == ["head.weight"]


def test_a_file_of_another_model_fails(file: Path) -> None:
    parity = verify(file, build(seed=1), EXAMPLE)
    assert not any(output.passed for output in parity.outputs)
    assert not any(weight.passed for weight in parity.weights)


def test_a_file_of_another_tool(model: CompressedModel, tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.module, EXAMPLE, path, dynamo=True, external_data=False, verbose=False)
    parity = verify(path, model, EXAMPLE)
    assert parity.passed, parity
    assert {w.encoding for w in parity.weights} == {"dense"}
    assert parity.artifact.manifest == {}
    inspection = inspect(path)
    assert not inspection.ours
    assert "MB of zeros are stored densely" in inspection.warnings[0]


def test_without_a_model_the_notes_say_what_was_not_checked(file: Path) -> None:
    parity = verify(file)
    assert parity.passed
    assert parity.weights == ()
    assert any("not proved" in note for note in parity.notes)
    assert any("no example inputs" in note for note in parity.notes)
    assert parity_document(parity).title == f"{file}: runs here, held against no model"


def test_a_model_without_example_inputs_is_compared_on_the_shapes_of_the_file(
    model: CompressedModel, file: Path
) -> None:
    parity = verify(file, model)
    assert parity.passed
    assert parity_document(parity).title == f"{file}: agrees with the model"
    assert len(parity.weights) == len(model.masks)


def test_the_accuracy_of_the_file_is_that_of_the_model(model: CompressedModel, file: Path) -> None:
    assert file_accuracy(file, TASK) == {"onnxruntime": evaluate(model.module, TASK)}
    assert set(file_accuracy(file, TASK, limit=5, model=model)) == {"torch", "onnxruntime"}


@pytest.mark.parametrize("classes", [{"strings": ["no", "yes"]}, {"ints": [3, 7]}])
def test_a_file_that_answers_with_names_and_maps_is_compared(classes: dict[str, list[Any]], tmp_path: Path) -> None:
    node, value = helper.make_node, helper.make_tensor_value_info
    kind = TensorProto.STRING if "strings" in classes else TensorProto.INT64
    line: dict[str, Any] = {f"classlabels_{key}": names for key, names in classes.items()}
    line |= {"coefficients": [1.0, -1.0], "intercepts": [0.0, 0.0], "domain": "ai.onnx.ml"}
    zipped = {key.replace("ints", "int64s"): names for key, names in line.items() if key.startswith("class")}
    nodes = [
        node("LinearClassifier", ["x"], ["label", "scores"], **line),
        node("ZipMap", ["scores"], ["map"], domain="ai.onnx.ml", **zipped),
    ]
    scores = helper.make_map_type_proto(kind, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    ends = [value("label", kind, ["n"]), onnx.ValueInfoProto(name="map", type=helper.make_sequence_type_proto(scores))]
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, ["n", 1])], ends)
    opsets = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 12)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=7), tmp_path / "m.onnx")
    parity = verify(tmp_path / "m.onnx")
    assert [(output.output, output.max_relative_error) for output in parity.outputs] == [("label", 0.0), ("map", 0.0)]
    assert error_of([np.array(["no"])], [np.array(["yes"])]) == np.inf


def test_both_parts_of_complex_outputs_are_compared() -> None:
    assert error_of([np.array([4 + 3j])], [np.array([4 + 4j])]) == 0.25
    assert variation([np.array([1 + 2j]), np.array([1 - 2j])]) == 2.0


def test_a_stricter_tolerance_can_be_asked_for(model: CompressedModel, file: Path) -> None:
    assert not verify(file, model, EXAMPLE, tolerance=1e-12).passed


def test_broken_files_are_one_clear_error(file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(FileError, match=r"cut\.onnx"):
        verify(cut)


def test_inspection_of_a_written_file(model: CompressedModel, file: Path) -> None:
    found = inspect(file)
    assert found.ours
    assert found.size_bytes == file.stat().st_size
    assert found.zeros >= model.zeros
    assert found.bound_bytes <= found.tensor_bytes < found.size_bytes
    assert found.brotli_bytes < found.size_bytes
    assert found.warnings == ()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("format", HERE)
def test_every_scheme_in_every_format(model: CompressedModel, tmp_path: Path, format: FormatName, scheme: str) -> None:
    if (format, scheme) == ("tflite", "lut4"):
        return  # refused by the exporter, whose own tests show it
    quantized = quantize(model, scheme, task=TASK)
    path = tmp_path / f"net{SUFFIX[format]}"
    export(quantized, format, EXAMPLE, path)
    parity = verify(path, quantized, EXAMPLE, task=TASK)
    assert parity.passed, parity
    assert sum(w.zeros for w in parity.weights) == quantized.zeros
    for runtime, accuracy in parity.metrics.items():
        assert accuracy == pytest.approx(parity.metrics["torch"], abs=0.15), runtime
