"""int8 activations where 8 bits are too few: norms, ELUs and masked attention stay float inside an int8 file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.cli.app import _run
from idp_deploy.errors import ConversionError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, Model, Recipe
from idp_deploy.formats.tflite.read.contents import read_tflite
from idp_deploy.loading import save_checkpoint
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import quantize
from idp_deploy.verification import verify
from tests.test_zoo_export import Calls
from tests.zoo import ZOO, pruned


@pytest.mark.wide
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


class Turned(nn.Module):
    """Pixels at places that a layer computes, and truths and places beside an output."""

    def __init__(self) -> None:
        super().__init__()
        self.where, self.head = nn.Linear(36, 6), nn.Conv2d(1, 8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        theta = self.where(x.flatten(1)).reshape(-1, 2, 3) * 0.1 + torch.eye(2, 3)
        grid = nn.functional.affine_grid(theta, [1, 1, 6, 6], align_corners=False)
        seen = nn.functional.grid_sample(x, grid, align_corners=False)
        scores = self.head(seen).mean((2, 3))
        return scores, seen, scores.softmax(1).amax(1) > 0.5, scores.argmax(1)


def test_places_and_comparisons_are_float_and_an_output_read_once_more_stays_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(1, 1, 6, 6),)
    model = quantize(CompressedModel(Turned().eval(), {}), "int8", example_inputs=inputs)
    path = export(model, "tflite", inputs, tmp_path / "net.tflite").path
    contents = read_tflite(path)
    made = {name: op for op in contents.ops for name in op.outputs}
    for op in contents.ops:
        if op.kind in ("EQUAL", "FLOOR"):
            assert {contents.values[name].dtype for name in op.inputs} == {"float32"}, (op, made)
    assert [contents.values[name].dtype for name in contents.outputs][:2] == ["float32", "float32"]
    parity = verify(path, model, inputs)
    assert parity.passed, parity.outputs
    assert max(output.max_relative_error for output in parity.outputs) < 0.03


class Stated(nn.Module):
    """A state that a layer reads, that a norm reads, and that is an output."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.norm, self.head = nn.Linear(8, 32), nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        gate, value = self.gates(x).chunk(2, -1)
        cell = torch.sigmoid(gate) * torch.tanh(value)
        state = torch.sigmoid(gate) * torch.tanh(self.norm(cell))
        return self.head(state), state, cell


class Mixed(nn.Module):
    """A kernel that is mixed from several by what the image shows."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.shares = nn.Parameter(torch.randn(3, 8, 4, 3, 3) / 6), nn.Linear(4, 3)
        self.stem = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        shares = self.shares(x.mean((2, 3))).softmax(-1)
        kernel = (shares @ self.kernels.flatten(1)).reshape(8, 4, 3, 3)
        return nn.functional.conv2d(x, kernel)


@pytest.mark.wide
@pytest.mark.parametrize(("module", "shape"), [(Stated, (1, 8)), (Mixed, (1, 3, 10, 10))])
def test_a_read_output_and_a_computed_kernel_are_held(
    module: type[nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(shape),)
    model = quantize(CompressedModel(module().eval(), {}), "int8", example_inputs=inputs)
    parity = verify(export(model, "tflite", inputs, tmp_path / "net.tflite").path, model, inputs)
    assert parity.passed, parity.outputs


class Loud(nn.Module):
    """A fresh net that 8 bits cannot compute: what it answers is the small difference of two large numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 8, 1, bias=False)
        with torch.no_grad():
            self.stem.bias.fill_(1000.0)  # type: ignore[union-attr]
            self.head.weight[:, 32:] = -self.head.weight[:, :32]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x))  # type: ignore[no-any-return]


def test_a_fresh_net_is_written_for_size_studies_and_what_is_not_proved_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(1, 3, 16, 16),)
    model = quantize(CompressedModel(Loud().eval(), {}), "int8", example_inputs=inputs, threshold_db=-99)
    with pytest.raises(ConversionError, match="differs from the model"):
        export(model, "tflite", inputs, tmp_path / "refused.tflite")
    monkeypatch.chdir(tmp_path)
    save_checkpoint(model, tmp_path / "net.pt")
    words = ["export", "net.pt", "--to", "tflite", "--model", "tests.test_tflite_integer:Loud", "--inputs", "1x3x16x16"]
    assert _run([*words, "--no-verify", "--json"], debug=False) == 0
    said = json.loads(capsys.readouterr().out)
    assert Path("net.tflite").stat().st_size > 0
    notes = [note for note in said["notes"] if "not proved" in note]
    assert any("differs from the model" in note for note in notes), said
    assert any("were not compared" in note for note in notes)
    assert read_tflite(Path("net.tflite")).ops


def test_a_bias_that_int32_cannot_count_is_named_with_its_value(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    with torch.no_grad():
        net[2].bias[1] = -1e12  # type: ignore[union-attr,index,operator]
    inputs = (torch.randn(1, 3, 8, 8),)
    model = quantize(CompressedModel(net, {}), "int8", example_inputs=inputs)
    with pytest.raises(ConversionError, match=r"bias '2\.bias' has -1e\+12, more steps .* than int32 counts") as raised:
        export(model, "tflite", inputs, tmp_path / "net.tflite")
    assert "int8-weights" in str(raised.value)
    assert not list(tmp_path.iterdir())


class Attentive(nn.Module):
    """Attention whose scores are hidden by a mask, made in one of the ways that models make it."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.q, self.k, self.v, self.last = way, *(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        if self.way == "filled":
            scores = scores.masked_fill(hidden[:, None], float("-inf"))
        elif self.way == "given":
            scores = scores + hidden[:, None]
        elif self.way == "expanded":
            scores = scores + torch.zeros_like(hidden).float().masked_fill(hidden, float("-inf"))[:, None].expand(
                -1, 6, -1
            )
        else:
            scores = scores + hidden[:, None].float() * float(self.way)
        return self.last(scores.softmax(-1) @ self.v(x))  # type: ignore[no-any-return]


@pytest.mark.wide
@pytest.mark.parametrize("way", ["filled", "given", "expanded", "-3.4e38", "-1e9", "-1e4"])
def test_what_a_mask_hides_stays_hidden(way: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    hidden = torch.tensor([[False] * 6, [False] * 3 + [True] * 3])
    example = (
        torch.randn(2, 6, 16) * 2,
        torch.zeros(2, 6).masked_fill(hidden, torch.finfo().min) if way == "given" else hidden,
    )
    model = quantize(CompressedModel(Attentive(way).eval(), {}), "int8", example_inputs=example)
    parity = verify(export(model, "tflite", example, tmp_path / "m.tflite").path, model, example)
    assert parity.passed
    assert max(output.max_relative_error for output in parity.outputs) < 0.05


class Keypoints(nn.Module):
    """Where a heat map's mass lies, which is spread over its whole plane."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        share = self.maps(x).flatten(2).softmax(-1)
        return (share.unflatten(-1, (20, 20)).sum(2) * torch.arange(20.0)).sum(-1)


def test_a_softmax_over_many_places_is_not_rounded_to_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    example = (torch.randn(1, 3, 20, 20),)
    model = quantize(CompressedModel(Keypoints().eval(), {}), "int8", example_inputs=example)
    path = export(model, "tflite", example, tmp_path / "m.tflite").path
    assert max(output.max_relative_error for output in verify(path, model, example).outputs) < 0.05
    assert "int8" in {value.dtype for value in read_tflite(path).values.values()}


@pytest.mark.wide
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Identity])
def test_the_border_of_a_pool_stays_below_every_pixel(activation: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), activation(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 4, 3))
    example = (torch.randn(1, 3, 18, 18),)
    model = quantize(CompressedModel(net.eval(), {}), "int8", example_inputs=example)
    path = export(model, "tflite", example, tmp_path / "m.tflite").path
    kinds = [op.kind for op in read_tflite(path).ops]
    assert "PADV2" in kinds
    assert kinds.count("DEQUANTIZE") == 1  # at the end
    assert max(output.max_relative_error for output in verify(path, model, example).outputs) < 0.05


class Adapted(nn.Module):
    """A branch that begins at zero, as adapters and residual blocks are often set up; or one that was pruned whole."""

    def __init__(self, layer: nn.Module, biased: bool) -> None:
        super().__init__()
        self.layer, self.branch, self.last = layer, type(layer)(8, 8, 1), type(layer)(8, 4, 1)
        nn.init.zeros_(self.branch.weight)
        if not biased:
            nn.init.zeros_(self.branch.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.layer(x) + 100 * self.branch(50 * x)).relu())


@pytest.mark.wide
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("layer", "shape"), [(nn.Linear, (2, 8)), (nn.Conv2d, (1, 8, 6, 6))])
def test_a_layer_that_gives_nothing_but_zeros_is_held(
    layer: type[nn.Module], shape: tuple[int, ...], biased: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    example = (torch.randn(shape),)
    model = quantize(CompressedModel(Adapted(layer(8, 8, 1), biased).eval(), {}), "int8", example_inputs=example)
    assert verify(export(model, "tflite", example, tmp_path / "m.tflite").path, model, example).passed


class Turning(nn.Module):
    """Vectors whose features turn with them: their lengths are what a layer reads, and what others are divided by."""

    def __init__(self) -> None:
        super().__init__()
        self.values, self.directions, self.gates = (nn.Linear(n, 16, bias=False) for n in (4, 4, 16))

    def forward(self, v: Tensor) -> Tensor:
        q, k = self.values(v.mT).mT, self.directions(v.mT).mT
        k = k / (k.norm(dim=-1, keepdim=True) + 1e-6)
        q = q - (q * k).sum(-1, keepdim=True) * k
        return q * torch.sigmoid(self.gates(q.norm(dim=-1))).unsqueeze(-1)


def test_lengths_of_short_vectors_are_no_zeros(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(5, 4, 3),)
    model = quantize(one_shot(Model(Turning().eval()), Recipe(0.8)), "int8", example_inputs=inputs)
    parity = verify(export(model, "tflite", inputs, tmp_path / "net.tflite").path, model, inputs)
    assert max(output.max_relative_error for output in parity.outputs) < 0.1
