"""What a trace holds that no file can: buffers that forward writes to, packed sequences, steps that are no batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.capturing import capture
from idp_deploy.errors import ConversionError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName, Model, Recipe
from idp_deploy.formats import FORMATS, usual
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import quantize
from idp_deploy.reading import read
from idp_deploy.verification import verify


class Remembering(nn.Module):
    """A buffer that forward writes into, in some way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer, self.how = nn.Linear(8, 4), how
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        if self.how == "counts":
            self.count += 1
        elif self.how == "counts by name":
            self.count = self.count + 1
        elif self.how == "smooths":
            self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
            return x - self.mean
        elif self.how == "goes through another":
            self.count += 1
            self.mean.copy_(x[0] * self.count)
            return x + self.mean
        elif self.how == "takes notes":
            self.mean.copy_(x[0])
            return x + self.mean
        return x


@pytest.mark.wide
@pytest.mark.parametrize("format", usual())
@pytest.mark.parametrize("how", ["counts", "counts by name"])
def test_what_no_answer_depends_on_is_not_in_the_file(how: str, format: FormatName, tmp_path: Path) -> None:
    _holds(Remembering(how), (torch.randn(3, 8),), format, tmp_path)


@pytest.mark.parametrize(("how", "buffer"), [("smooths", "mean"), ("goes through another", "count")])
def test_a_buffer_that_answers_depend_on_is_refused_by_name(how: str, buffer: str) -> None:
    with pytest.raises(ConversionError, match=f"writes into the buffer '{buffer}'.* self.training"):
        _captured(Remembering(how), torch.randn(3, 8))


def test_a_buffer_that_is_written_anew_by_every_call_is_none_of_these() -> None:
    net, x = Remembering("takes notes").eval(), torch.randn(3, 8)
    with torch.no_grad():
        expected = net(x)
        assert torch.allclose(_captured(net, x).module(x), expected)


@pytest.mark.wide
@pytest.mark.parametrize("format", usual())
def test_statistics_that_an_instance_norm_keeps_are_those_of_the_file(format: FormatName, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv1d(6, 8, 5), nn.InstanceNorm1d(8, affine=True, track_running_stats=True))
    for _ in range(5):
        net(3 * torch.randn(4, 6, 20) + 1)
    _holds(net, (torch.randn(2, 6, 20),), format, tmp_path)


class Recurring(nn.Module):
    def __init__(self, kind: str, packed: bool = False) -> None:
        super().__init__()
        self.memory, self.head, self.packed = getattr(nn, kind)(8, 10, bidirectional=True), nn.Linear(20, 3), packed

    def forward(self, x: Tensor) -> Tensor:
        if not self.packed:
            return self.head(self.memory(x)[0][-1])
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3, 2]))
        return self.head(nn.utils.rnn.pad_packed_sequence(self.memory(packed)[0])[0])


@pytest.mark.wide
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
@pytest.mark.parametrize("shape", [(5, 3, 8), (5, 8)])
def test_steps_are_no_batch(kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    parity = _holds(Recurring(kind), (torch.randn(shape),), "onnx", tmp_path)
    assert read(parity.artifact.path).values["x"].shape[0] == 5


def test_packed_sequences_are_refused_with_what_to_write_instead() -> None:
    with pytest.raises(ConversionError, match=r"packs its sequences .* outputs.gather"):
        _captured(Recurring("LSTM", packed=True), torch.randn(5, 3, 8))


def test_a_transformer_takes_its_masks_as_they_are(tmp_path: Path) -> None:
    class Translating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Transformer(8, 2, 1, 1, 16, batch_first=True, dropout=0.0)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.net(x, y, tgt_mask=nn.Transformer.generate_square_subsequent_mask(5))

    _holds(Translating(), (torch.randn(2, 12, 8), torch.randn(2, 5, 8)), "onnx", tmp_path)


@pytest.mark.parametrize("format", usual())
def test_bfloat16_is_refused_by_name(format: FormatName, tmp_path: Path) -> None:
    model = one_shot(Model(nn.Sequential(nn.Linear(8, 8)).bfloat16().eval()), Recipe(0.5))
    with pytest.raises(ConversionError, match=r"'0.weight' is bfloat16.* module.float"):
        export(model, format, (torch.randn(2, 8, dtype=torch.bfloat16),), tmp_path / f"m{FORMATS[format].suffix}")


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_of_a_byte_are_refused_by_name(kind: torch.dtype, tmp_path: Path) -> None:
    net = nn.Linear(8, 8).eval()
    net.register_buffer("small", torch.ones(8).to(kind))
    with pytest.raises(ConversionError, match=r"'small' is float8_e"):
        export(one_shot(Model(net), Recipe(0.5)), "onnx", (torch.randn(2, 8),), tmp_path / "net.onnx")


@pytest.mark.parametrize(("format", "scheme"), [("tflite", "float"), ("tflite", "fp16"), ("onnx", "int8-weights")])
def test_float16_is_refused_by_name_where_it_cannot_be_computed(
    format: FormatName, scheme: str, tmp_path: Path
) -> None:
    model = one_shot(Model(nn.Sequential(nn.Linear(8, 8), nn.ReLU()).half().eval()), Recipe(0.5))
    inputs = (torch.randn(2, 8, dtype=torch.float16),)
    model = model if scheme == "float" else quantize(model, scheme, example_inputs=inputs)
    with pytest.raises(ConversionError, match=r"'0.weight' is float16.* module.float.* in float16 loads"):
        export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}")


@pytest.mark.wide
@pytest.mark.parametrize("format", ["coreml", "tflite"])
def test_branches_are_refused_by_name(format: FormatName, tmp_path: Path) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda x: self.layer(x), lambda x: x - 1, (x,))

    model = one_shot(Model(Branching().eval()), Recipe(0.5))
    with pytest.raises(ConversionError, match=r"no branches or loops: torch.cond.* torch.where"):
        export(model, format, (torch.randn(2, 8),), tmp_path / f"m{FORMATS[format].suffix}")


def test_integers_that_a_model_stops_at_are_no_calls(tmp_path: Path) -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.EmbeddingBag(30, 16), nn.Linear(16, 4)

        def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
            return self.head(self.table(ids, offsets))

    parity = _holds(Bags(), (torch.randint(0, 30, (14,)), torch.tensor([0, 4, 9])), "onnx", tmp_path)
    assert any("calls left out" in note for note in parity.notes)


def _holds(module: nn.Module, example: tuple[Any, ...], format: FormatName, folder: Path, scheme: str = "") -> Any:
    model = one_shot(Model(module.eval()), Recipe(0.6, allocation="uniform"))
    if scheme:
        model = quantize(model, scheme, example_inputs=example)
    parity = verify(export(model, format, example, folder / f"m{FORMATS[format].suffix}").path, model, example)
    assert parity.passed, (parity.outputs, parity.weights, parity.notes)
    return parity


def _captured(module: nn.Module, x: Tensor) -> Any:
    return capture(CompressedModel(module.eval(), {}), (x,))


class Hiding(nn.Module):
    """Attention written out, whose first row answers NaN where the padding covers the first token."""

    causal: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(30, 16), nn.Linear(16, 16)
        self.register_buffer("causal", torch.ones(6, 6, dtype=torch.bool).triu(1))

    def forward(self, ids: Tensor, padding: Tensor) -> Tensor:
        x = self.layer(self.table(ids))
        scores = (x @ x.transpose(1, 2)).masked_fill(self.causal | padding[:, None], -torch.inf)
        return scores.softmax(-1) @ x


class Padded(Hiding):
    """The same by torch's layer, which gives zeros in that row, but for its fast path."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=True)

    def forward(self, ids: Tensor, padding: Tensor) -> Tensor:
        return self.encoder(self.layer(self.table(ids)), src_mask=self.causal, src_key_padding_mask=padding)


@pytest.mark.wide
@pytest.mark.parametrize("format", usual())
@pytest.mark.parametrize("scheme", ["", "fp16", "int8-weights", "int8"])
@pytest.mark.parametrize("build", [Hiding, Padded])
def test_flags_that_a_model_gives_no_numbers_for_are_no_calls(
    build: type[Hiding], scheme: str, format: FormatName, tmp_path: Path
) -> None:
    padding = torch.tensor([[False] * 6, [False] * 3 + [True] * 3])
    parity = _holds(build(), (torch.randint(0, 30, (2, 6)), padding), format, tmp_path, scheme)
    assert scheme == "int8" or any("or gives none" in note for note in parity.notes) == (build is Hiding)


class Inverted(nn.Module):
    """A flow's mixing layer, run backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.mix = nn.Linear(6, 8), nn.Parameter(torch.randn(8, 8) + 3 * torch.eye(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        volume = torch.linalg.slogdet(self.mix.T @ self.mix)[1]
        return self.layer(x) @ torch.inverse(self.mix) + volume + self.layer(x).norm(dim=-1, keepdim=True)


@pytest.mark.wide
@pytest.mark.parametrize("format", ["onnx", "coreml", "tflite"])
def test_linear_algebra_on_weights_alone_is_computed_once(format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    example = (torch.randn(2, 6),)
    model = one_shot(Model(Inverted().eval()), Recipe(0.5))
    artifact = export(model, format, example, tmp_path / f"m{FORMATS[format].suffix}")
    parity = verify(artifact.path, model, example)
    assert parity.passed, parity.outputs


class Averaged(nn.Module):
    """A mask on a way that forks and meets at every step, from weights alone or from the input as well."""

    def __init__(self, *, of_input: bool) -> None:
        super().__init__()
        self.layer, self.mask, self.of_input = nn.Linear(4, 4), nn.Parameter(torch.zeros(3, 3)), of_input

    def forward(self, x: Tensor) -> Tensor:
        y, mask = self.layer(x), self.mask.masked_fill(torch.eye(3).bool(), -torch.inf)
        mask = mask + x[0, :, :3] if self.of_input else mask
        for _ in range(40):
            mask = torch.maximum(mask, mask.clone())
        return nn.functional.scaled_dot_product_attention(y, y, y, mask)


@pytest.mark.parametrize("of_input", [False, True])
def test_where_a_mask_comes_from_is_looked_at_once(*, of_input: bool) -> None:
    model, x = Averaged(of_input=of_input).eval(), torch.randn(1, 3, 4)
    assert torch.allclose(_captured(model, x).module(x), model(x), atol=1e-6)


class InOneChunk(nn.Module):
    """A layer called twice and, behind the one chunk that a small batch makes, a norm for each call (TabNet).

    What comes out may be written in place, as TabNet's sparse maximum does.
    """

    def __init__(self, *, writes: bool) -> None:
        super().__init__()
        self.writes = writes
        self.layer, self.norms = nn.Linear(8, 8, bias=False), nn.ModuleList(nn.BatchNorm1d(8) for _ in range(2))
        for norm in self.norms:
            norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2), norm.weight.data.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            parts = self.layer(x).chunk(-(-len(x) // 16), 0)
            x = torch.cat([norm(part) for part in parts], dim=0).tanh()
        top = x.amax(1, keepdim=True)
        return x.sub_(top) if self.writes else x - top


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("format", usual())
def test_a_norm_behind_the_only_chunk_is_behind_the_layer(format: FormatName, *, writes: bool, tmp_path: Path) -> None:
    _holds(InOneChunk(writes=writes), (torch.randn(4, 8),), format, tmp_path)


class MostLikely(nn.Module):
    """A policy that gives the mean of its distribution: no action takes part of the layer that tells how wide it is."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.width = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).relu()
        return torch.distributions.Normal(self.mean(x), self.width(x).exp()).mode.tanh()


@pytest.mark.parametrize("format", usual())
def test_a_width_that_no_action_takes_is_in_no_file(format: FormatName, tmp_path: Path) -> None:
    model = one_shot(Model(MostLikely().eval()), Recipe(0.5))
    x = torch.randn(4, 8)
    parity = verify(export(model, format, (x,), tmp_path / f"m{FORMATS[format].suffix}").path, model, (x,))
    assert parity.passed
    assert {proof.parameter for proof in parity.weights} == {"body.weight", "mean.weight"}
    assert any("'width.weight' has no part in the model's outputs" in note for note in parity.notes)


@pytest.mark.parametrize("how", ["apart", "given numbers", "into the only part", "into a copy", "after a copy"])
def test_what_is_spread_together_or_cut_in_one_keeps_its_numbers(how: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Any:
            x = self.layer(x)
            if how == "apart":
                return torch.broadcast_tensors(x[:, :1], x[:1], x.sum())
            if how == "given numbers":
                return torch.cat([x]), *x.split([4], 1), *x.tensor_split(2, 1)
            if how == "into a copy":
                return torch.cat([x]).clamp_(0, 1), x
            if how == "after a copy":
                copy = torch.cat([x])
                return copy, x.clamp_(0, 1)
            (part,) = x.chunk(1)
            part[:, 0] = 0.0
            return x, torch.cat([part])

    net, x = Net().eval(), torch.randn(3, 8)
    with torch.no_grad():
        given, wanted = capture(CompressedModel(net, {}), (x,)).module(x), net(x)
    for one, other in zip(given, wanted, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other)
