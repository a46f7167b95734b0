"""What published networks brought, one kind each: the file is right, or the refusal names what is in the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.capturing import capture
from idp_deploy.errors import ConversionError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.rewriting.products import attention
from idp_deploy.soundness import answered, remembered
from idp_deploy.verification import verify
from idp_deploy.verification.calls import seeded_calls
from tests.formats_here import HERE
from tests.test_operators import Call


def heads(m: Any, x: Tensor) -> Tensor:
    """Attention in windows, so over five axes, beside one over three."""
    q, k, v = m.qkv(x).reshape(2, 3, 4, 2, 3, 4).permute(4, 0, 1, 3, 2, 5)
    bias = m.bias.weight.reshape(1, 1, 2, 4, 4)
    wide = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return F.scaled_dot_product_attention(*(t.flatten(0, 2) for t in (wide, k, v)), scale=0.5)


BROUGHT: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "the states of two levels of an LSTM go into another": (
        lambda: Call(
            lambda m, x, y: m.last(m.writes(y, m.reads(x)[1])[0]),
            reads=nn.LSTM(8, 16, 2), writes=nn.LSTM(8, 16, 2), last=nn.Linear(16, 5),
        ),
        lambda: (torch.randn(5, 1, 8), torch.randn(3, 1, 8)),
    ),
    "an axis longer than 1 is squeezed": (
        lambda: Call(lambda m, x: m.layer(x).squeeze(1).relu(), layer=nn.Linear(8, 6)), lambda: (torch.randn(2, 8),)
    ),
    "axes longer than 1, and those of a number, are squeezed": (
        lambda: Call(lambda m, x: m.layer(x).squeeze((1, 2)).sum().squeeze(0), layer=nn.Linear(8, 6)),
        lambda: (torch.randn(1, 2, 8),),
    ),
    "windows that overlap": (
        lambda: Call(lambda m, x: m.layer(x.unfold(1, 4, 2)), layer=nn.Linear(4, 6)), lambda: (torch.randn(2, 9, 3),)
    ),
    "floats that are places in a table": (
        lambda: Call(lambda m, x: m.last(m.table(x.long()).mean(1)), table=nn.Embedding(20, 8), last=nn.Linear(8, 4)),
        lambda: (torch.arange(20.0).reshape(2, 10),),
    ),
    "attention over three axes and over five": (
        lambda: Call(heads, qkv=nn.Linear(8, 24), bias=nn.Embedding(8, 4)), lambda: (torch.randn(2, 3, 4, 8),)
    ),
}  # fmt: skip


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("kind", BROUGHT)
def test_the_file_is_right(kind: str, format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, inputs = BROUGHT[kind]
    model = one_shot(Model(build().eval()), Recipe(0.5))
    path = export(model, format, inputs(), tmp_path / f"net{FORMATS[format].suffix}").path
    parity = verify(path, model, inputs())
    assert parity.passed, parity
    assert len(parity.weights) == len(model.masks)


@pytest.mark.parametrize("shape", [(4, 8), (6, 4, 8), (2, 3, 2, 4, 8), (2, 1, 3, 2, 4, 8)])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_over_any_axes_is_torchs(shape: tuple[int, ...], masked: bool) -> None:
    q, k, v = torch.randn(3, *shape)
    mask = torch.randn(*shape[-3:-2], 4, 4) if masked else None
    given = attention(q, k, v, mask, is_causal=not masked, scale=0.3)
    assert given is not None
    wanted = F.scaled_dot_product_attention(q, k, v, mask, is_causal=not masked, scale=0.3)
    assert torch.allclose(given, wanted, atol=1e-6)
    assert attention(torch.randn(1, 2, 4, 8), k, v) is None


class Listening(nn.Module):
    """A recurrent network that keeps its state to itself, and the weights of its last attention for who asks."""

    def __init__(self, *, forgets: bool) -> None:
        super().__init__()
        self.lstm, self.forgets = nn.LSTM(8, 8), forgets
        self.state = (torch.zeros(1, 1, 8), torch.zeros(1, 1, 8))
        self.seen = torch.zeros(4, 1, 8)

    def forward(self, x: Tensor) -> Tensor:
        outputs, state = self.lstm(x, self.state)
        if not self.forgets:
            self.state = state
        self.seen = outputs.detach()
        return outputs


def test_a_state_that_is_kept_between_calls_is_named(tmp_path: Path) -> None:
    model, inputs = CompressedModel(Listening(forgets=False).eval(), {}), (torch.randn(4, 1, 8),)
    path = export(model, "onnx", inputs, tmp_path / "net.onnx").path
    with pytest.raises(ConversionError, match=r"forward keeps 'state', 'seen' from one call to the next") as caught:
        verify(path, model, inputs)
    assert "make it an input" in str(caught.value)


def test_what_is_kept_and_never_read_is_no_refusal(tmp_path: Path) -> None:
    model, inputs = CompressedModel(Listening(forgets=True).eval(), {}), (torch.randn(4, 1, 8),)
    assert verify(export(model, "onnx", inputs, tmp_path / "net.onnx").path, model, inputs).passed
    assert remembered(model.module, (torch.randn(4, 1, 8),)) == ["seen"]


def test_floats_that_are_all_whole_are_drawn_whole_and_within_their_range() -> None:
    example = (torch.tensor([[0.0, 3.0, 7.0, 5.0]]), torch.zeros(1, 4), torch.tensor([[0.5, 3.0, 7.0, 5.0]]))
    for whole, zeros, any_float in seeded_calls(example)[1:]:
        assert torch.equal(whole, whole.round())
        assert 0 <= whole.min() <= whole.max() <= 7
        assert not torch.equal(zeros, zeros.round())
        assert not torch.equal(any_float, any_float.round())


def test_calls_that_stop_the_model_are_left_out_be_they_of_floats() -> None:
    table = nn.Embedding(4, 2)
    far, near = (torch.tensor([3.5]),), (torch.tensor([1.5]),)
    assert answered(Call(lambda m, x: m.table(x.long()), table=table), [near, (torch.tensor([9.0]),), far]) == [
        near,
        far,
    ]


def test_an_axis_that_the_batch_makes_long_is_squeezed_as_before() -> None:
    graph = capture(CompressedModel(Call(lambda m, x: x.squeeze(1) + 1), {}), (torch.randn(2, 1, 8),)).module.graph
    assert any("squeeze" in str(node.target) for node in graph.nodes)
