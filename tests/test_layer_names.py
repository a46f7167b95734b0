"""Layers go by the name of their module, in every format and as far as a file tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from idp_deploy.exporting import export
from idp_deploy.facts import facts_of
from idp_deploy.flow import CompressedModel, Contents, GraphOp, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.formats.layer_names import LayerNames, key_of, untold
from idp_deploy.pruning import one_shot
from idp_deploy.reading import read
from idp_deploy.simulation import simulate
from idp_deploy.simulation.targets import load_target
from tests.contents import TFLite, tensor
from tests.formats_here import HERE


class Net(nn.Module):
    """Names that a format may spoil: numbers, underscores, one inside another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem_conv = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.stages = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 16, 1)])
        self.last = nn.ModuleList([nn.ModuleDict({"dw": nn.Conv2d(16, 16, 3, groups=16), "pw": nn.Conv2d(16, 16, 1)})])
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem_conv(x)
        for stage in self.stages:
            x = stage(x).relu()
        x = self.last[0]["pw"](self.last[0]["dw"](x)).relu()
        return self.head(x.mean((2, 3)))


MODULES = ["stem_conv.0", "stages.0", "stages.1", "last.0.dw", "last.0.pw", "head"]
EXAMPLE = (torch.zeros(1, 3, 16, 16),)


@pytest.fixture(scope="module")
def pruned() -> CompressedModel:
    torch.manual_seed(0)
    return one_shot(Model(Net().eval()), Recipe(sparsity=0.8))


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
def test_a_layer_has_the_name_of_its_module_in_every_format(
    format: str, pruned: CompressedModel, tmp_path: Path
) -> None:
    pytest.importorskip({"onnx": "onnx", "coreml": "coremltools", "tflite": "litert_torch"}.get(format, "onnx"))
    path = tmp_path / f"net{FORMATS[format].suffix}"
    export(pruned, format, EXAMPLE, path)
    contents = read(path)
    assert [layer.name for layer in facts_of(contents).layers] == MODULES
    target = next(t for name in ("iphone-12", "pixel-4") if (t := load_target(name)).runtime(format))
    weighted = [op.layer for op in simulate(contents, target).ops if op.weight_bytes]
    assert weighted == MODULES


class Recurrent(nn.Module):
    """Layers whose weights converters take apart, put together and transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([nn.GRU(8, 12, batch_first=True), nn.LSTM(12, 12, batch_first=True)])
        self.last = nn.RNN(12, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (*self.encoders, self.last):
            x, _ = layer(x)
        return self.head(x[:, -1])


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_recurrent_layers_have_it_too(format: str, share: float, tmp_path: Path) -> None:
    pytest.importorskip({"onnx": "onnx", "coreml": "coremltools", "tflite": "litert_torch"}.get(format, "onnx"))
    torch.manual_seed(0)
    module = Recurrent().eval()
    compressed = one_shot(Model(module), Recipe(sparsity=share)) if share else CompressedModel(module, {})
    path = tmp_path / f"net{FORMATS[format].suffix}"
    export(compressed, format, (torch.zeros(1, 3, 8),), path)
    names = [layer.name for layer in facts_of(read(path)).layers]
    wanted = ["encoders.0", "encoders.1", "last", "head"]
    if format == "coreml":  # a loop there has matrices that no parameter is; a dense file does not say whose they were
        wanted = [name for name in names if name.startswith("while_loop")] + wanted if share else names
    assert names == wanted


def op(name: str, **weights: str) -> GraphOp:
    return GraphOp(name, "CONV_2D", ("x",), ("y",), weights=weights)


def contents(manifest: dict[str, str] | None = None) -> Contents:
    built = TFLite().conv(8).contents()
    return replace(built, metadata={"idp_deploy": {"weights": manifest}} if manifest else {})


def test_a_file_of_another_tool_keeps_the_operators_names_unless_its_weights_are_parameters() -> None:
    names = LayerNames(contents())
    assert names.of(op("/features/0/Conv", weight="onnx::Conv_17")) == "/features/0/Conv"
    assert names.of(op("node_conv2d", weight="features.0.weight", bias="b")) == "features.0"
    assert names.of(op("Net/Conv2d_0/Relu6", weight="Net/Conv2d_0/weights")) == "Net/Conv2d_0/Relu6"


def test_a_name_without_dots_is_read_as_the_manifest_spells_others_of_its_form() -> None:
    names = LayerNames(contents({"block.1.conv_a.weight": "block_1_conv_a_weight", "w.weight": "w"}))
    assert names.of_tensor("block_1_conv_a_weight") == "block.1.conv_a"
    assert names.of_tensor("block_7_conv_a_weight") == "block.7.conv_a"
    assert names.of_tensor("other_7_conv_weight") == ""
    assert names.of_tensor("w") == "w"


@pytest.mark.parametrize("plain", [True, False])
def test_what_is_named_beside_the_pruned_ones_is_enough_to_tell_every_module(plain: bool) -> None:
    parameters = (
        *(f"encoder.layer.{i}.{name}" for i in range(2) for name in ("q_k.weight", "q_k.bias", "gamma_1", "ln_2.bias")),
        *("encoder.embeddings.word_embeddings.weight", "encoder_head.dw_conv.weight", "encoder_head.dw_conv.bias"),
        *("temperature", "encoder.layer_norm.weight", "encoder.layer.norm.weight"),
    )
    tensors = {name: name.replace(".", "_") if plain else name for name in parameters}
    tensors["encoder.layer.norm.weight"] += "_2"  # which a converter told apart
    pruned = {name: tensor for name, tensor in tensors.items() if "q_k.weight" in name}
    others = {name: tensor for name, tensor in tensors.items() if name not in pruned}
    found = untold(pruned, others)
    metadata = {"idp_deploy": {"weights": pruned, "names": found}}
    names = LayerNames(replace(TFLite().conv(8).contents(), metadata=metadata))
    for name, held in tensors.items():
        assert names.of_tensor(held) == (name.rpartition(".")[0] or name)
    assert "encoder.layer.0.q_k.bias" not in found  # its weight tells
    assert len(found) < len(others)


def test_a_tensor_that_holds_equal_parameters_needs_one_of_their_names() -> None:
    assert untold({}, {"a.weight": "a.weight", "b.weight": "a.weight"}) == {}


def test_forms_that_contradict_each_other_are_no_rule() -> None:
    names = LayerNames(contents({"a.1.b_c.weight": "a_1_b_c_weight", "a_2.b.c.weight": "a_2_b_c_weight"}))
    assert names.of_tensor("a_3_b_c_weight") == ""


def test_keys_of_the_same_module_agree_across_formats() -> None:
    assert len({key_of(name) for name in ("a.0.b", "a_0_b", "A/0/b")}) == 1


def test_facts_count_each_weight_of_a_module_that_is_called_twice_once() -> None:
    built = TFLite().conv(8, zeros=0.5)
    twice = replace(built.contents(), ops=(*built.contents().ops, *built.contents().ops))
    (layer,) = facts_of(twice).layers
    assert (layer.entries, layer.zeros) == (24, 12)
    assert facts_of(twice).dense_bytes == twice.dense_bytes
    assert tensor("w", (24,)).size == 24


def test_a_sibling_of_several_words_has_the_dots_of_its_home() -> None:
    given = {f"body.{i}.point_wise.weight": f"body_{i}_point_wise_weight" for i in range(3)}
    names = LayerNames(contents(given))
    assert names.of_tensor("body_1_depth_wise_weight") == "body.1.depth_wise"
    assert names.of_tensor("body_1_depth_wise_folded_bias") == "body.1.depth_wise"
    assert names.of_tensor("tail_1_depth_wise_weight") == ""


def test_zeros_of_a_layer_are_those_of_its_matrix_not_of_its_bias() -> None:
    built = TFLite(channels=8).depthwise().contents()
    kernel, bias = built.tensors
    built = replace(built, tensors=(kernel, replace(bias, zeros=bias.size)))
    (layer,) = facts_of(built).layers
    assert (layer.entries, layer.zeros, layer.size_bytes) == (kernel.size, 0, kernel.size_bytes)
