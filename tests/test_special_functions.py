"""Functions that no format has, said by series and by the largest so far."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.errors import ConversionError
from idp_deploy.exporting import export
from idp_deploy.flow import FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import quantize
from idp_deploy.rewriting.lines import cummax, cummin
from idp_deploy.rewriting.special import digamma, lgamma
from idp_deploy.rewriting.transposed import in_other_layers
from idp_deploy.verification import verify


def test_the_gamma_function_is_torchs() -> None:
    x = torch.cat([torch.linspace(-4.7, 60, 997), torch.tensor([1.0, 2.0, 1e-3, 1e4, 1e30])])
    for found, wanted in ((lgamma(x), x.lgamma()), (digamma(x), x.digamma())):
        assert found is not None
        torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-5)
    assert torch.equal(torch.special.gammaln(torch.zeros(1)), lgamma(torch.zeros(1)))


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize(("ours", "torchs"), [(cummax, torch.cummax), (cummin, torch.cummin)])
def test_the_largest_so_far_is_torchs_also_of_ties(ours: Callable, torchs: Callable, dim: int) -> None:
    for x in (torch.randn(3, 5, 7), torch.randint(0, 4, (3, 5, 9))):
        values, places = torchs(x, dim)
        found = ours(x, dim)
        assert torch.equal(found[0], values)
        assert torch.equal(found[1], places)


@pytest.mark.wide
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    ("kind", "sizes", "more"),
    [
        (nn.ConvTranspose3d, ((2, 1, 3), (2, 1, 3)), {}),
        (nn.ConvTranspose3d, ((2, 1, 3), (2, 3, 1), (0, 0, 1)), {"output_padding": (1, 2, 0)}),
        (nn.ConvTranspose3d, (2, 1, 2), {"bias": False}),
        (nn.ConvTranspose3d, (3, 2), {"groups": 2, "dilation": (1, 2, 1)}),
        (nn.ConvTranspose2d, (3, 2, 1), {"groups": 6, "output_padding": 1}),
        (nn.ConvTranspose2d, ((2, 4), 1, (0, 5)), {"groups": 3, "dilation": 3}),
        (nn.ConvTranspose1d, (4, 3), {"dilation": 2}),
    ],
)
def test_transposed_convolutions_in_other_layers_are_torchs(  # type: ignore[no-untyped-def]
    kind, sizes, more, batched: bool
) -> None:
    layer = kind(6, 12, *sizes, **more)
    x = torch.randn(2, 6, 4, 5, 6)[(slice(None),) * (2 + len(layer.kernel_size)) + (0,) * (3 - len(layer.kernel_size))]
    x = x if batched else x[0]
    given = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
    found = in_other_layers(x, layer.weight, layer.bias, *given)
    assert found is not None
    torch.testing.assert_close(found, layer(x), atol=1e-5, rtol=1e-5)


def test_transposed_convolutions_that_are_held_stay_as_they_are() -> None:
    layer = nn.ConvTranspose2d(3, 5, 3, 2)
    assert in_other_layers(torch.randn(1, 3, 4, 4), layer.weight, layer.bias, [2, 2]) is None


def _spread(x: Tensor) -> Tensor:
    """Shares of an image's lines, and means of its lines beside it: the axis of one entry is copied."""
    shares = F.relu(x) * (x * x[:, :1].softmax(-1)).sum(-1, keepdim=True).expand_as(x)
    return torch.cat([F.max_pool2d(shares, 2), F.avg_pool2d(x, 2).mean(3, keepdim=True).expand(-1, -1, -1, 9)], 1)


class Net(nn.Module):
    def __init__(self, rest: Callable[[Net, Tensor], object]) -> None:
        super().__init__()
        self.layer, self.wider, self.rest = nn.Linear(16, 18), nn.ConvTranspose3d(2, 4, 2, 2), rest
        self.thinner = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x: Tensor) -> object:
        return self.rest(self, self.layer(x))


KINDS: dict[str, Callable[[Net, Tensor], object]] = {
    "gamma": lambda net, x: (torch.lgamma(x.abs() + 0.1), torch.digamma(x.abs() + 0.5)),
    "the largest so far": lambda net, x: (x.cummax(1).values, x.round().cummin(-1)),
    "volumes twice as large": lambda net, x: net.wider(x.reshape(1, 2, 10, 3, 6)),
    "one over what is small": lambda net, x: (1 / (x.abs() + 1e-3), x.square().mean().add(1e-4).reciprocal()),
    "lengths in a bent space": lambda net, x: (torch.acosh(1.1 + x.abs()), torch.asinh(x)),
    "what only spreads": lambda net, x: _spread(net.thinner(x[:, None])),
    "how likely it is": lambda net, x: (
        torch.distributions.StudentT(F.softplus(x[..., :6]) + 2, x[..., 6:12], 1).log_prob(x[..., 12:]),
        torch.distributions.Categorical(logits=x).entropy(),
    ),
    "a loss": lambda net, x: F.cross_entropy(x.flatten(0, 1), torch.arange(20) % 18),
}


@pytest.mark.wide
@pytest.mark.parametrize("format", [format for format in FORMATS if format in ("onnx", "coreml", "tflite")])
@pytest.mark.parametrize("kind", KINDS)
def test_formats_hold_them(kind: str, format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    example = (torch.randn(1, 20, 16),)
    model = one_shot(Model(Net(KINDS[kind]).eval()), Recipe(0.6))
    exact = {"precision": "float32"} if format == "coreml" else {}
    path = export(model, format, example, tmp_path / f"m{FORMATS[format].suffix}", **exact).path
    parity = verify(path, model, example)
    assert parity.passed, (parity.outputs, parity.notes)


def test_volumes_twice_as_large_are_refused_in_int8_with_a_way_out_that_holds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    example = (torch.randn(1, 20, 16),)
    model = one_shot(Model(Net(KINDS["volumes twice as large"]).eval()), Recipe(0.6))
    with pytest.raises(ConversionError, match="no transposed convolution of volumes in int8") as caught:
        export(quantize(model, "int8", example_inputs=example), "tflite", example, tmp_path / "m.tflite")
    assert "--scheme int8-weights" in caught.value.way_out
    narrower = quantize(model, "int8-weights", example_inputs=example)
    path = export(narrower, "tflite", example, tmp_path / "m.tflite").path
    assert verify(path, narrower, example).passed


def test_numbers_that_have_no_sign_are_not_negated() -> None:
    """The least so far is the largest of what is negated."""
    x = torch.tensor([3, 0, 5])
    assert [part.tolist() for part in cummin(x, 0) or ()] == [[3, 0, 0], [0, 1, 1]]
    assert cummin(x.to(torch.uint8), 0) is None
