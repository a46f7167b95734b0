"""restore: names that outweigh the weights are shortened, those that somebody reads stay."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn.utils import prune

from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel
from idp_deploy.reading import read
from idp_deploy.restoring import restore


class Blocks(torch.nn.Module):
    """Many small layers, which a converter calls by their whole path."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        attending = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.blocks = torch.nn.TransformerEncoder(attending, 2, enable_nested_tensor=False)
        self.head = torch.nn.Linear(32, 64)
        for module in self.modules():
            for name in ("weight", "in_proj_weight"):
                if isinstance(module, torch.nn.Linear | torch.nn.MultiheadAttention) and hasattr(module, name):
                    prune.l1_unstructured(module, name, 0.9)
                    prune.remove(module, name)

    def forward(self, x):
        return self.head(self.blocks(x).mean(1))


def masked(module):
    return CompressedModel(module, {n: p != 0 for n, p in module.named_parameters() if (p == 0).float().mean() > 0.5})


def test_paths_of_modules_do_not_outweigh_a_small_tflite_file(tmp_path):
    import litert_torch

    model, x = masked(Blocks().eval()), (torch.randn(1, 12, 32),)
    ours = export(model, "tflite", x, tmp_path / "ours.tflite")
    litert_torch.convert(model.module, x).export(str(tmp_path / "m.tflite"))
    restored = restore(tmp_path / "m.tflite", tmp_path / "m.sparse.tflite")
    assert restored.after_bytes <= 1.01 * ours.size_bytes
    names = [name for op in read(restored.path).ops for name in op.outputs]
    assert max(map(len, names)) < 45
    assert len(set(names)) == len(names)


@pytest.mark.wide
@pytest.mark.parametrize("dynamo", [True, False])
def test_paths_of_modules_do_not_outweigh_a_small_onnx_file(dynamo, tmp_path):
    model, x = masked(Blocks().eval()), (torch.randn(1, 12, 32),)
    ours = export(model, "onnx", x, tmp_path / "ours.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.module, x, tmp_path / "m.onnx", dynamo=dynamo, opset_version=18)
    restored = restore(tmp_path / "m.onnx", tmp_path / "m.sparse.onnx")
    assert restored.after_bytes <= 1.01 * ours.size_bytes
    nodes = [onnx.load(path).graph.node for path in (tmp_path / "m.onnx", restored.path)]
    computing = [{node.name for node in each if node.name and node.op_type != "Constant"} for each in nodes]
    assert computing[1] >= {name for name in computing[0] if "Identity" not in name}  # profilers go by them


def branching(path):
    """A constant and a value that a branch reads, and an equal constant that is an output."""
    one, two = (numpy_helper.from_array(np.full(2, value, np.float32)) for value in (1, 2))
    out = helper.make_tensor_value_info("inner_output", TensorProto.FLOAT, None)
    branch = helper.make_graph(
        [helper.make_node("Add", ["a_long_value", "constant_two"], ["inner_output"])], "b", [], [out]
    )
    other = helper.make_graph(
        [helper.make_node("Sub", ["a_long_value", "constant_two"], ["inner_output"])], "c", [], [out]
    )
    nodes = [
        helper.make_node("Constant", [], ["constant_one"], value=one),
        helper.make_node("Constant", [], ["constant_again"], value=one),
        helper.make_node("Constant", [], ["constant_two"], value=two),
        helper.make_node("MatMul", ["x", "w"], ["a_long_product"]),
        helper.make_node("Add", ["a_long_product", "constant_again"], ["a_long_value"]),
        helper.make_node("Identity", ["bias_of_a_layer"], ["bias_as_well"]),
        helper.make_node("Add", ["a_long_value", "bias_as_well"], ["another_output"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other),
    ]
    weight = np.zeros((400, 2), np.float32)
    weight[::40] = 3
    tensors = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.ones(2, np.float32), "bias_of_a_layer")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 400])]
    inputs.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "another_output")]
    outputs.append(helper.make_tensor_value_info("constant_one", TensorProto.FLOAT, [2]))
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_names_that_bodies_and_outputs_read_stay(tmp_path):
    source = branching(tmp_path / "m.onnx")
    restored = restore(source, tmp_path / "again.onnx")
    graph = onnx.load(restored.path).graph
    assert [value.name for value in graph.output] == ["y", "another_output", "constant_one"]
    assert "a_long_product" not in {name for node in graph.node for name in node.output}
    assert "Identity" not in {node.op_type for node in graph.node}
