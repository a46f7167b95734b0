"""Exported ONNX files: stock runtimes load them, the decode nodes vanish, and nothing is lost on the way."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from idp_deploy.encodings import bound_bytes, size_bytes
from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel
from idp_deploy.formats import manifest
from idp_deploy.formats.onnx.read.contents import read_onnx
from idp_deploy.formats.onnx.write.conversion import IR_VERSION, OPSET
from idp_deploy.formats.onnx.write.decoding import OVERHEAD, Decoder, decode_graph
from idp_deploy.verification import run_file, verify

ENCODINGS = ["auto", "dense", "bitmask", "gaps8", "gaps5", "gaps4", "sparse-initializer"]


def compressed(module: nn.Module, sparsity: float = 0.9, seed: int = 0) -> CompressedModel:
    """Random masks over every weight of two or more dimensions."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                masks[name] = torch.rand(parameter.shape, generator=generator) >= sparsity
                parameter.mul_(masks[name])
    return CompressedModel(module.eval(), masks)


def convnet() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU6(),
        nn.Conv2d(24, 24, 3, padding=1, groups=24),
        nn.Conv2d(24, 96, 1),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 50),
    )
    net[1].running_mean.normal_()
    net[1].weight.data.normal_()
    return net


IMAGE = (torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)),)


@pytest.fixture(scope="module")
def model() -> CompressedModel:
    return compressed(convnet())


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encodings")
    return {kind: export(model, "onnx", IMAGE, folder / f"{kind}.onnx", encoding=kind) for kind in ENCODINGS}


def optimized(path, tmp_path) -> onnx.ModelProto:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / f"{path.stem}.optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


def agreement(model: CompressedModel, path, inputs) -> float:
    with torch.no_grad():
        expected = model.module(*inputs).numpy()
    (output,) = run_file(path, [tuple(x.numpy() for x in inputs)])["onnxruntime"][0]
    return float(np.abs(output - expected).max() / np.abs(expected).max())


@pytest.mark.wide
@pytest.mark.parametrize("kind", ENCODINGS)
def test_outputs_agree_at_a_batch_that_was_never_seen(kind, exported, model):
    x = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    assert agreement(model, exported[kind].path, (x,)) < 1e-5


@pytest.mark.parametrize("kind", ENCODINGS)
def test_version_and_check(kind, exported):
    proto = onnx.load(exported[kind].path)
    assert proto.ir_version == IR_VERSION == 8
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", OPSET)] == [("", 18)]
    assert not proto.functions
    onnx.checker.check_model(proto)


@pytest.mark.parametrize("kind", ENCODINGS[2:])
def test_onnxruntime_folds_every_decode_node(kind, exported, tmp_path):
    dense, sparse = (optimized(exported[k].path, tmp_path) for k in ("dense", kind))
    assert Counter(n.op_type for n in sparse.graph.node) == Counter(n.op_type for n in dense.graph.node)
    assert len(onnx.load(exported[kind].path).graph.node) > len(sparse.graph.node) or kind == "sparse-initializer"


@pytest.mark.parametrize("kind", ENCODINGS)
def test_no_weight_is_decoded_by_what_other_runtimes_get_wrong(kind, exported):
    """OpenVINO broadcasts BitShift and divides uint8 wrongly, OpenCV refuses BitShift."""
    proto = onnx.shape_inference.infer_shapes(onnx.load(exported[kind].path))
    types = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    kinds = {node.op_type for node in proto.graph.node}
    assert "BitShift" not in kinds
    divided = [node for node in proto.graph.node if node.op_type in ("Div", "Mod")]
    assert all(types[name] == onnx.TensorProto.INT32 for node in divided for name in node.input if name in types)


@pytest.mark.parametrize("kind", ENCODINGS)
def test_zeros_and_values_read_back(kind, exported, model):
    contents = read_onnx(exported[kind].path)
    weights = exported[kind].manifest["weights"]
    expected = "sparse_initializer" if kind == "sparse-initializer" else kind
    zeros = 0
    for name, mask in model.masks.items():
        tensor = contents.tensor(weights[name])
        zeros += tensor.zeros
        assert tensor.zeros == int((~mask).sum())
        assert ((tensor.values() != 0) == mask.numpy()).all()
        if kind in ("bitmask", "gaps8", "gaps5", "gaps4"):
            assert tensor.encoding in (expected, "dense")
    assert zeros == model.zeros
    if kind != "auto":
        assert expected in {tensor.encoding for tensor in contents.tensors}
    values = contents.tensor(weights["4.weight"]).values()
    np.testing.assert_array_equal(values, model.module[4].weight.detach().numpy())


def test_auto_is_about_the_smallest_and_near_the_bound(exported, model):
    sizes = {kind: artifact.size_bytes for kind, artifact in exported.items()}
    assert sizes["auto"] < 1.05 * min(sizes.values())
    assert sizes["auto"] < 0.3 * sizes["dense"]
    positions = sum(bound_bytes(m.numel(), int(m.sum()), 32) for m in model.masks.values())
    assert sizes["auto"] < positions + 6000


def test_a_dense_model_stays_dense(tmp_path):
    dense = compressed(convnet(), sparsity=0.0)
    automatic = export(dense, "onnx", IMAGE, tmp_path / "auto.onnx")
    asked = export(dense, "onnx", IMAGE, tmp_path / "dense.onnx", encoding="dense")
    without_manifest = [a.size_bytes - len(manifest.dumps(a.manifest)) for a in (automatic, asked)]
    assert without_manifest[0] == without_manifest[1]  # the manifests say what each was exported with
    assert {t.encoding for t in read_onnx(automatic.path).tensors} == {"dense"}


def test_same_bytes_twice(exported, model, tmp_path):
    again = export(model, "onnx", IMAGE, tmp_path / "auto.onnx")
    assert again.path.read_bytes() == exported["auto"].path.read_bytes()


def test_the_caller_is_left_alone(tmp_path):
    module = convnet().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    masks = {"0.weight": torch.ones_like(module[0].weight, dtype=torch.bool)}
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    export(CompressedModel(module, masks), "onnx", IMAGE, tmp_path / "m.onnx")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_manifest_travels_in_the_file(exported, model):
    contents = read_onnx(exported["auto"].path)
    entry = contents.metadata["idp_deploy"]
    assert entry == json.loads(json.dumps(exported["auto"].manifest))
    assert entry["inputs"] == list(contents.inputs) == ["input"]
    assert entry["outputs"] == list(contents.outputs) == ["output"]
    assert entry["zeros"]["4.weight"] == int((~model.masks["4.weight"]).sum())


def test_nothing_useless_is_stored(exported):
    proto = onnx.load(exported["auto"].path)
    assert not proto.graph.value_info
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    used = {name for node in proto.graph.node for name in node.input}
    assert {tensor.name for tensor in proto.graph.initializer} <= used


class Tied(nn.Module):
    """An embedding whose transposed table is the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(200, 32)
        self.mix = nn.Linear(32, 32)
        self.head = nn.Linear(32, 200, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.relu(self.mix(self.embedding(ids))) * scale
        return {"logits": self.head(hidden), "pooled": hidden.mean(1)}


@pytest.mark.parametrize("kind", ["auto", "dense"])
def test_tied_weights_are_stored_once(kind, tmp_path):
    torch.manual_seed(0)
    model = compressed(Tied())
    inputs = (torch.randint(0, 200, (1, 6)), torch.rand(1, 1, 1))
    artifact = export(model, "onnx", inputs, tmp_path / "tied.onnx", encoding=kind)
    contents = read_onnx(artifact.path)
    assert sum(tensor.size == 200 * 32 for tensor in contents.tensors) == 1
    readers = [
        op.kind for op in contents.ops if artifact.manifest["weights"]["embedding.weight"] in op.weights.values()
    ]
    assert sorted(readers) == ["Gather", "MatMul"]
    assert artifact.manifest["outputs"] == ["logits", "pooled"]
    with torch.no_grad():
        expected = model.module(*inputs)
    outputs = run_file(artifact.path, [tuple(x.numpy() for x in inputs)])["onnxruntime"][0]
    for name, output in zip(("logits", "pooled"), outputs, strict=True):
        np.testing.assert_allclose(output, expected[name].numpy(), rtol=1e-4, atol=1e-6)


def test_kept_zeros_are_stored_and_dropped_ones_are_not(tmp_path):
    layer = nn.Linear(64, 64)
    mask = torch.rand(64, 64, generator=torch.Generator().manual_seed(3)) > 0.9
    with torch.no_grad():
        layer.weight.mul_(mask)
        layer.weight[mask.nonzero()[:5].unbind(1)] = 0.0
    artifact = export(CompressedModel(layer, {"weight": mask}), "onnx", (torch.randn(1, 64),), tmp_path / "kept.onnx")
    tensor = read_onnx(artifact.path).tensor("weight")
    assert tensor.is_sparse
    assert tensor.zeros == int((~mask).sum()) + 5
    stored = next(t for t in onnx.load(artifact.path).graph.initializer if t.data_type == 1 and t.dims[0] > 64)
    assert stored.dims[0] in (int(mask.sum()), int(mask.sum()) + 1)  # gaps4 leads with the fill


def test_external_data(model, tmp_path):
    path = tmp_path / "big.onnx"
    first = export(model, "onnx", IMAGE, path, encoding="dense", external_data_above=10_000)
    (data,) = tmp_path.glob("*.data")
    assert first.size_bytes == path.stat().st_size + data.stat().st_size
    assert agreement(model, path, IMAGE) < 1e-5
    contents = read_onnx(path)
    assert contents.size_bytes == first.size_bytes
    assert contents.tensor("4.weight").zeros == int((~model.masks["4.weight"]).sum())
    export(compressed(convnet(), seed=1), "onnx", IMAGE, path, encoding="dense", external_data_above=10_000)
    (replaced,) = tmp_path.glob("*.data")
    assert replaced != data
    export(model, "onnx", IMAGE, path)
    assert [p.name for p in tmp_path.iterdir()] == ["big.onnx"]


class Unsupported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.bessel = Bessel()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bessel(self.stem(x))


class Bessel(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


def test_an_operator_without_counterpart_is_named(tmp_path):
    with pytest.raises(ConversionError, match=r"bessel_j0 in module 'bessel' \(Bessel\)") as caught:
        export(compressed(Unsupported()), "onnx", (torch.randn(1, 4),), tmp_path / "m.onnx")
    assert caught.value.exit_code == 3
    assert caught.value.way_out
    assert list(tmp_path.iterdir()) == []


def test_an_lstm_with_projections_of_many_steps_is_refused(tmp_path):
    with pytest.raises(ConversionError, match=r"no LSTM with projections \(proj_size\)"):
        export(compressed(nn.LSTM(6, 8, proj_size=4)), "onnx", (torch.randn(257, 1, 6),), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_unknown_encoding_leaves_the_old_file(tmp_path, model):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    with pytest.raises(UsageError, match="unknown ONNX encoding 'zip'"):
        export(model, "onnx", IMAGE, path, encoding="zip")
    assert path.read_bytes() == b"old"


class Boundary(nn.Module):
    """Outputs that are inputs, twins and constants."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("constant", torch.arange(3.0))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x + 1
        return y, y, x, self.constant * 1


def test_outputs_that_are_inputs_twins_or_constants(tmp_path):
    artifact = export(CompressedModel(Boundary(), {}), "onnx", (torch.zeros(1, 3),), tmp_path / "m.onnx")
    x = np.array([[1.0, 2.0, 3.0]], np.float32)
    outputs = run_file(artifact.path, [(x,)])["onnxruntime"][0]
    assert artifact.manifest["outputs"] == ["output_0", "output_1", "output_2", "output_3"]
    for output, expected in zip(outputs, (x + 1, x + 1, x, np.arange(3.0)), strict=True):
        np.testing.assert_array_equal(output, expected)


class Versioned(nn.Module):
    def __init__(self, *, scores: bool) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        return {"scores": x + 1, "version": 3} if self.scores else {"version": 3}


def test_an_output_that_is_no_tensor_is_left_out_beside_others_and_refused_alone(tmp_path):
    inputs = (torch.zeros(1, 3),)
    artifact = export(CompressedModel(Versioned(scores=True), {}), "onnx", inputs, tmp_path / "m.onnx")
    assert artifact.manifest["outputs"] == ["scores"]
    assert "output ['version'] is 3: the file has no such output" in artifact.notes
    with pytest.raises(ConversionError, match=r"output \['version'\] is 3, not a tensor"):
        export(CompressedModel(Versioned(scores=False), {}), "onnx", inputs, tmp_path / "other.onnx")


@pytest.mark.parametrize("kind", OVERHEAD)
@pytest.mark.parametrize("shape", [(64, 64), (32, 16, 3, 3)])
def test_the_cost_of_decode_nodes_is_what_auto_assumes(kind, shape):
    values = np.where(np.random.default_rng(0).random(shape) < 0.1, 1.5, 0).astype(np.float32)

    def grown(kind: str) -> int:
        graph = onnx.GraphProto()
        decoder = Decoder(graph)
        for i in range(20):
            decode_graph(decoder, kind, values, values != 0, output=f"layer{i}.weight")
        decoder.finish()
        return graph.ByteSize() // 20

    parts, dense = size_bytes(kind, values != 0), grown("dense") - values.nbytes
    assert abs(grown(kind) - dense - parts - OVERHEAD[kind]) < 60


def test_small_weights_share_their_nodes(exported, model):
    """A runtime spends its time on nodes: those of one encoding and dtype are restored at once and cut apart."""
    proto = onnx.load(exported["gaps8"].path)
    kinds = Counter(node.op_type for node in proto.graph.node)
    assert kinds["Split"] == kinds["ScatterElements"] == kinds["CumSum"] == 1
    contents = read_onnx(exported["gaps8"].path)
    names = {exported["gaps8"].manifest["weights"][name] for name in model.masks}
    assert {tensor.name for tensor in contents.tensors if tensor.encoding == "gaps8"} >= names


def test_small_weights_that_differ_in_their_rows_alone_get_their_extents_together(tmp_path: Path) -> None:
    """A Reshape each would cost a file at rest and a runtime at load more than most of what it shapes."""
    torch.manual_seed(0)
    blocks = [[nn.Conv2d(8, 24, 1), nn.Conv2d(24, 24, 3, groups=24), nn.Conv2d(24, 8, 1)] for _ in range(3)]
    model = compressed(nn.Sequential(*(layer for block in blocks for layer in block)), 0.8)
    artifact = export(model, "onnx", (torch.randn(1, 8, 9, 9),), tmp_path / "m.onnx", encoding="gaps8")
    proto, contents = onnx.load(artifact.path), read_onnx(artifact.path)
    kinds = Counter(node.op_type for node in proto.graph.node)
    assert (kinds["ScatterElements"], kinds["Reshape"], kinds["Split"]) == (1, 3, 4)
    found = {tensor.name: tensor for tensor in contents.tensors}
    for name, mask in model.masks.items():
        stored = found[artifact.manifest["weights"][name]]
        np.testing.assert_array_equal(stored.values(), model.module.get_parameter(name).detach().numpy())
        assert stored.zeros == int((~mask).sum())
    bytes_of_all = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    assert 0 <= bytes_of_all - sum(tensor.size_bytes for tensor in contents.tensors) < 250  # shapes that operators read


@pytest.mark.parametrize("kind", ["auto", "gaps8", "bitmask"])
def test_the_bytes_of_shared_parts_are_divided_and_all_are_laid_to_someone(kind, exported):
    proto = onnx.load(exported[kind].path)
    tensors = read_onnx(exported[kind].path).tensors
    stored = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    assert 0 <= stored - sum(tensor.size_bytes for tensor in tensors) < 150  # shapes that operators read
    shared = sorted((t for t in tensors if t.encoding in ("gaps8", "bitmask")), key=lambda t: t.size - t.zeros)
    assert len(shared) > 2
    assert [t.size_bytes for t in shared] == sorted(t.size_bytes for t in shared)


def test_weights_of_equal_numbers_and_other_shapes_are_each_stored_by_their_masks(tmp_path: Path) -> None:
    """As they are where a network begins with ones: the masks of neither fit the other's shape."""
    net = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8)).eval()
    masks = {f"{layer}.weight": torch.ones(shape, dtype=torch.bool) for layer, shape in ((0, (4, 8)), (1, (8, 4)))}
    masks["0.weight"][0, :3] = masks["1.weight"][:1, :3] = False
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name).copy_(mask)
    model, inputs = CompressedModel(net, masks), (torch.randn(2, 8),)
    parity = verify(export(model, "onnx", inputs, tmp_path / "net.onnx").path, model, inputs)
    assert parity.passed, parity
