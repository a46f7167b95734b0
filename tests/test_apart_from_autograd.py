"""Forwards that read `data`, and that keep their own weights within bounds, as networks for EEG do."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

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
from idp_deploy.quantization import quantize
from idp_deploy.verification import verify
from tests.formats_here import HERE


class Bounded(nn.Module):
    """A convolution and a linear layer, whose weights lie far beyond a norm of 1."""

    def __init__(self, run: Callable[[Bounded, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.head, self.run = nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 3), run
        with torch.no_grad():
            self.head.weight.mul_(9)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, self.norm(self.conv(x)).relu().mean((2, 3)))


def set_anew(net: Bounded, x: Tensor) -> Tensor:
    net.head.weight.data = torch.renorm(net.head.weight.data, p=2, dim=0, maxnorm=1)
    return net.head(x)


def set_from_detached(net: Bounded, x: Tensor) -> Tensor:
    net.head.weight.data = torch.renorm(net.head.weight.detach(), p=2, dim=0, maxnorm=1)
    return net.head(x)


def written_into(net: Bounded, x: Tensor) -> Tensor:
    net.head.weight.data.renorm_(2, 0, 1)
    net.head.bias.data.copy_(net.head.bias.data.clamp(-0.1, 0.1))
    return net.head(x)


def without_gradients(net: Bounded, x: Tensor) -> Tensor:
    with torch.no_grad():
        size = net.head.weight.norm(2, dim=1, keepdim=True)
        net.head.weight *= size.clamp(max=1) / (1e-8 + size)
    return net.head(x)


def read(net: Bounded, x: Tensor) -> Tensor:
    return F.linear(x.data, net.head.weight.data * 0.1) + net.norm.running_mean.data[:3]  # type: ignore[union-attr]


WAYS: tuple[Callable[[Bounded, Tensor], Tensor], ...] = (
    set_anew,
    set_from_detached,
    written_into,
    without_gradients,
    read,
)


@pytest.mark.parametrize("run", WAYS)
@pytest.mark.parametrize("free", [False, True])
def test_a_trace_computes_what_a_call_does(run: Callable[[Bounded, Tensor], Tensor], free: bool) -> None:
    torch.manual_seed(0)
    net, x = Bounded(run).eval(), torch.randn(2, 2, 5, 5)
    before = deepcopy(net.state_dict())
    captured = capture(CompressedModel(net, {}), (x,), dynamic_batch=free)
    assert captured.dynamic_batch == free
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())  # the caller's stay
    torch.testing.assert_close(captured.module(x), deepcopy(net)(x))


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("scheme", ["", "fp16", "int8-weights", "int8"])
def test_bounded_weights_are_in_the_file(format: FormatName, scheme: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(1, 2, 5, 5),)
    model = one_shot(Model(Bounded(set_anew).eval()), Recipe(0.5))
    model = quantize(model, scheme, example_inputs=inputs) if scheme else model
    parity = verify(export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path, model, inputs)
    assert parity.passed


def halved(net: Bounded, x: Tensor) -> Tensor:
    net.head.weight.data = net.head.weight.data / 2
    return net.head(x)


def doubled_meanwhile(net: Bounded, x: Tensor) -> Tensor:
    net.head.weight.data.mul_(2)
    x = net.head(x)
    net.head.weight.data.div_(2)
    return x


@pytest.mark.parametrize(
    ("run", "said"), [(halved, "changes its weight 'head.weight' with every"), (doubled_meanwhile, "changes them back")]
)
def test_weights_that_are_not_the_same_in_every_call_are_refused(
    run: Callable[[Bounded, Tensor], Tensor], said: str
) -> None:
    with pytest.raises(ConversionError, match=said) as refused:
        capture(CompressedModel(Bounded(run).eval(), {}), (torch.randn(1, 2, 5, 5),))
    assert "self.weight * factor" in str(refused.value.way_out)
