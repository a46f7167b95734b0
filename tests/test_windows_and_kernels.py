"""Pools of lines, images and volumes, with borders and parts of windows; kernels that are computed: every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.exporting import export
from idp_deploy.flow import FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.quantization import quantize
from idp_deploy.rewriting.images import means
from idp_deploy.rewriting.indexing import grid_sample
from idp_deploy.rewriting.pooling import by_planes
from idp_deploy.verification import verify
from tests.formats_here import HERE

SHAPES = {1: (1, 2, 13), 2: (1, 2, 11, 14), 3: (1, 2, 6, 7, 9)}
WINDOWS = [  # size, stride, padding, ceil_mode, count_include_pad
    (2, 2, 0, False, True),
    (3, 2, 1, False, True),
    (3, 1, 1, False, False),
    (3, 2, 1, True, True),
    (2, 2, 0, True, False),
    (3, 3, 1, True, False),
]


@pytest.mark.parametrize("axes", SHAPES)
@pytest.mark.parametrize("divisor", [None, 5])
def test_means_of_windows_are_torchs(axes: int, divisor: int | None) -> None:
    batch, pool = torch.randn(SHAPES[axes]), getattr(F, f"avg_pool{axes}d")
    given = {"divisor_override": divisor} if axes > 1 else {}
    for x, window, stride, padding, ceil, counted in ((x, *w) for w in WINDOWS for x in (batch, batch[0].double())):
        wanted = pool(x, window, stride, padding, ceil, counted, **given)
        for planes in {False, axes == 3}:
            found = means(
                axes, x, [window], [stride], [padding], ceil, counted, *given.values(),
                borders_too=True, by_planes=planes,
            )  # fmt: skip
            assert found is None or torch.allclose(found, wanted, atol=1e-6 if x is batch else 1e-12)


@pytest.mark.parametrize("x", [torch.randn(SHAPES[3]), torch.randn(SHAPES[3][1:])])
@pytest.mark.parametrize("dilation", [1, 2])
def test_largest_of_volumes_are_torchs(x: Tensor, dilation: int) -> None:
    for window, stride, padding, ceil, _ in WINDOWS:
        wanted = F.max_pool3d(x, window, stride, padding, dilation, ceil)
        assert torch.equal(by_planes(x, [window], [stride], [padding], [dilation] * 3, ceil), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_means_stay_in_their_kind(dtype: torch.dtype) -> None:
    x = torch.randn(SHAPES[2], dtype=dtype)
    found = means(2, x, [3], [2], [1], True, False, borders_too=True)
    assert found is not None
    torch.testing.assert_close(found, F.avg_pool2d(x, 3, 2, 1, True, False))


class Pools(nn.Module):
    def __init__(self, axes: int) -> None:
        super().__init__()
        layer = getattr(nn, f"Conv{axes}d")
        self.conv, self.out = layer(2, 4, 3, padding=1), layer(4, 3, 1)
        self.mean, self.most = getattr(F, f"avg_pool{axes}d"), getattr(F, f"max_pool{axes}d")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.conv(x).relu()
        means = [self.mean(y, *window) for window in WINDOWS]
        most = [self.most(y, 3, 2, 1), self.most(y, 3, 2, 1, ceil_mode=True), self.most(y, 2, 1, 0, 2)]
        return tuple(self.out(each) for each in (*means, *most))


def checked(module: nn.Module, format: FormatName, inputs: tuple[Tensor, ...], folder: Path, scheme: str = "") -> None:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = one_shot(Model(module.eval()), Recipe(0.5))
    model = quantize(model, scheme, example_inputs=inputs) if scheme else model
    parity = verify(export(model, format, inputs, folder / f"m{FORMATS[format].suffix}").path, model, inputs)
    assert parity.passed, [part for part in (*parity.outputs, *parity.weights) if not part.passed]
    assert parity.weights


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("axes", SHAPES)
@pytest.mark.parametrize("scheme", ["", "int8"])
def test_pools_of_every_kind(axes: int, scheme: str, format: FormatName, tmp_path: Path) -> None:
    checked(Pools(axes), format, (torch.randn(SHAPES[axes]),), tmp_path, scheme)


class Search(nn.Module):
    """A picture looked for in another one: what is made of the first is the kernel of the second."""

    def __init__(self, groups: bool) -> None:
        super().__init__()
        self.layer, self.groups = nn.Conv2d(3, 8, 3), groups

    def forward(self, sought: Tensor, image: Tensor) -> Tensor:
        kernel, image = self.layer(sought).relu(), self.layer(image).relu()
        if not self.groups:
            return F.conv2d(image, kernel)
        return F.conv2d(image, kernel.transpose(0, 1), groups=8)


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("groups", [False, True])
def test_kernels_may_be_computed(groups: bool, format: FormatName, tmp_path: Path) -> None:
    checked(Search(groups), format, (torch.randn(1, 3, 6, 6), torch.randn(1, 3, 11, 9)), tmp_path)


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_volumes_are_sampled_as_torch_does(mode: int, padding: int) -> None:
    x, grid = torch.randn(2, 3, 4, 6, 5), 1.5 * torch.randn(2, 3, 4, 7, 3)
    for corners in (True, False):
        found = grid_sample(x, grid, mode, padding, corners)
        assert found is not None
        assert torch.allclose(found, torch.grid_sampler(x, grid, mode, padding, corners), atol=1e-5)


class Warped(nn.Module):
    def __init__(self, rest: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.rest = nn.Conv3d(1, 2, 1), rest

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        return self.rest(self.layer(x), grid)


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
def test_volumes_are_sampled_in_files(format: FormatName, tmp_path: Path) -> None:
    def rest(y: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(y, grid.tanh() * 1.2, padding_mode="border", align_corners=False)

    checked(Warped(rest), format, (torch.randn(1, 1, 3, 4, 5), torch.randn(1, 2, 3, 3, 3)), tmp_path)
