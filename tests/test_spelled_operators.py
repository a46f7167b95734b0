"""Operators that converters lack, said in others: distances, bilinear layers, overlapping windows, orders."""

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
from idp_deploy.rewriting.images import col2im
from idp_deploy.rewriting.indexing import affine_grid, bordered, diagonal, einsum, grid_sample
from idp_deploy.rewriting.lines import logcumsumexp, sort, topk
from idp_deploy.rewriting.pooling import _unpooled, adaptive_with_places, with_places
from idp_deploy.rewriting.products import bilinear, cdist, tensordot
from idp_deploy.verification import verify

FOLDS = [
    ((6, 8), 3, 1, 1, 1),
    ((7, 9), 3, 1, 0, 2),
    ((8, 8), (4, 2), 1, 1, 2),
    ((9, 7), 3, 2, 1, 1),
    ((6, 6), 2, 1, 0, 2),
]


@pytest.mark.parametrize(("size", "kernel", "dilation", "padding", "stride"), FOLDS)
@pytest.mark.parametrize("batched", [True, False])
def test_windows_are_added_up_as_torch_does(size, kernel, dilation, padding, stride, batched: bool) -> None:  # type: ignore[no-untyped-def]
    fold = nn.Fold(size, kernel, dilation, padding, stride)
    windows = F.unfold(torch.randn(2, 3, *size), kernel, dilation, padding, stride)
    windows = windows if batched else windows[0]
    pairs = [list(torch.nn.modules.utils._pair(v)) for v in (kernel, dilation, padding, stride)]
    assert torch.allclose(col2im(windows, list(size), *pairs), fold(windows), atol=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
def test_distances_and_bilinear_forms_are_torchs(p: float) -> None:
    x, y, layer = torch.randn(2, 5, 4), torch.randn(2, 3, 4), nn.Bilinear(4, 6, 3)
    assert torch.allclose(cdist(x, y, p), torch.cdist(x, y, p), atol=1e-5)
    other = torch.randn(2, 5, 6)
    assert torch.allclose(bilinear(x, other, layer.weight, layer.bias), layer(x, other), atol=1e-6)
    assert cdist(x, y, 3.0) is None


@pytest.mark.wide
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("first", [True, False])
def test_orders_are_torchs(dim: int, first: bool) -> None:
    x = torch.randn(5, 4, 6)
    for given, wanted in (
        (sort(x, dim, first), torch.sort(x, dim, first)),
        (topk(x, 3, dim, first), torch.topk(x, 3, dim, first)),
    ):
        assert all(torch.equal(a, b) for a, b in zip(given, wanted, strict=True))


@pytest.mark.wide
@pytest.mark.parametrize(("axes", "shape"), [(1, (2, 3, 13)), (2, (2, 3, 9, 11)), (3, (1, 2, 6, 7, 8))])
@pytest.mark.parametrize(
    ("window", "stride", "padding", "dilation", "ceil"),
    [(2, 2, 0, 1, False), (3, 2, 1, 1, False), (2, 2, 0, 1, True), (2, 3, 0, 1, True), (3, 2, 1, 2, True)],
)
def test_places_of_the_largest_are_torchs_also_of_ties(  # type: ignore[no-untyped-def]
    axes: int, shape: tuple[int, ...], window, stride, padding, dilation, ceil
) -> None:
    x = torch.randn(shape).relu()
    pool, adaptive = getattr(F, f"max_pool{axes}d"), getattr(F, f"adaptive_max_pool{axes}d")
    wanted = pool(x, window, stride, padding, dilation, ceil, return_indices=True)
    found = with_places(axes, x, [window], [stride], [padding], [dilation], ceil)
    assert found is not None
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    for size in (1, 3, 4):
        wanted, found = adaptive(x, size, return_indices=True), adaptive_with_places(axes, x, [size])
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(
    ("plane", "window", "stride", "padding"),
    [
        ((8, 10), (2, 2), (2, 2), 0),
        ((9, 11), (2, 2), (2, 3), 0),
        ((9, 11), (3, 3), (3, 3), 1),
        ((1, 12), (1, 3), (1, 3), 0),
    ],
)
def test_values_go_back_where_torch_puts_them(  # type: ignore[no-untyped-def]
    plane: tuple[int, int], window, stride, padding: int
) -> None:
    values, places = F.max_pool2d(torch.randn(2, 3, *plane), window, stride, padding, return_indices=True)
    for size in (list(plane), [plane[0] + 1, plane[1]], [plane[0], plane[1] + 1]):
        wanted = torch.ops.aten.max_unpool2d(values, places, size)
        assert torch.equal(_unpooled(list(plane), window, stride, [padding] * 2, values, places, size), wanted)


def test_sums_over_several_axes_are_torchs() -> None:
    x, y = torch.randn(3, 4, 5), torch.randn(5, 6, 3)
    assert torch.allclose(tensordot(x, y, [0, -1], [2, 0]), torch.tensordot(x, y, ([0, 2], [2, 0])), atol=1e-5)


def test_running_sums_of_exponentials_are_torchs() -> None:
    x = torch.randn(2, 5, 7) * 30
    found = logcumsumexp(x, 1)
    assert found is not None
    assert torch.allclose(found, x.logcumsumexp(1))


@pytest.mark.parametrize(("offset", "axes"), [(0, (0, 1)), (1, (1, 3)), (-2, (-1, 0)), (4, (1, 3))])
def test_diagonals_are_torchs(offset: int, axes: tuple[int, int]) -> None:
    x = torch.randn(5, 4, 5, 7)
    found = diagonal(x, offset, *axes)
    assert found is not None
    assert torch.equal(found, x.diagonal(offset, *axes))


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("...ij,jk->...ik", [(2, 3, 8), (8, 5)]),
        ("a...,b...->ab...", [(3, 4, 5), (2, 5)]),
        ("...ii->...i", [(2, 3, 3)]),
        ("iij,j", [(3, 3, 4), (4,)]),
        ("bij,k->k", [(2, 3, 8), (4,)]),
        ("ii", [(3, 3)]),
        ("bij->", [(2, 3, 8)]),
        ("btnj,jnk->btk", [(2, 3, 4, 8), (8, 4, 5)]),
    ],
)
def test_letters_of_every_kind_are_summed_as_torch_does(equation: str, shapes: list[tuple[int, ...]]) -> None:
    operands = [torch.randn(shape) for shape in shapes]
    found = einsum(equation, operands)
    assert found is not None
    assert torch.allclose(found, torch.einsum(equation, *operands), atol=1e-5)
    assert einsum("ij,jk->ik", [torch.ones(2, 3), torch.ones(3, 4)]) is None  # converters hold it


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("corners", [True, False])
def test_pixels_are_sampled_as_torch_does(mode: int, padding: int, corners: bool) -> None:
    x, grid = torch.randn(2, 3, 6, 5), 2 * torch.randn(2, 4, 7, 2)
    for image in (x, x[..., :1]):
        found = grid_sample(image, grid, mode, padding, corners)
        assert found is not None
        assert torch.allclose(found, torch.grid_sampler(image, grid, mode, padding, corners), atol=1e-5)
    theta, size = torch.randn(2, 2, 3), [2, 3, 4, 5]
    spread = affine_grid(theta, size, corners)
    assert spread is not None
    assert torch.allclose(spread, F.affine_grid(theta, size, align_corners=corners), atol=1e-6)


def test_borders_below_zero_cut() -> None:
    x = torch.randn(2, 3, 4, 5)
    for pads in ([-1, 2, 1, -2], [-1, -1], [0, 1, -3, 0]):
        found = bordered(x, pads, "constant", 7.0)
        assert found is not None
        assert torch.equal(found, F.pad(x, pads, value=7.0))
    assert bordered(x, [1, 1]) is None


class Head(nn.Module):
    def __init__(self, rest: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.layer, self.both, self.rest = nn.Linear(16, 18), nn.Bilinear(18, 18, 5), rest
        self.places = nn.Parameter(torch.randn(7, 18))

    def forward(self, x: Tensor) -> object:
        return self.rest(self, self.layer(x))


HEADS: dict[str, tuple[Callable[[Head, Tensor], object], tuple[FormatName, ...]]] = {
    "distances": (lambda net, x: torch.cdist(x, net.places[None]), ("onnx", "coreml", "tflite")),
    "bilinear": (lambda net, x: net.both(x, x.relu()), ("onnx", "coreml", "tflite")),
    "fold": (lambda net, x: F.fold(x.transpose(1, 2), (4, 5), 3, padding=1), ("onnx", "coreml", "tflite")),
    "sums of windows": (
        lambda net, x: F.avg_pool2d(x[:, None], 3, 2, padding=1, divisor_override=2),
        ("onnx", "tflite"),
    ),
    "a border of zeros": (
        lambda net, x: F.max_pool2d(F.pad(x[:, None] - 9, (1, 1, 1, 1)), 2),
        ("onnx", "coreml", "tflite"),
    ),
    "halved": (lambda net, x: F.interpolate(F.relu(x)[:, None], scale_factor=0.5), ("onnx", "coreml", "tflite")),
    "resized": (lambda net, x: F.interpolate(x.reshape(1, 2, 10, 18), size=(15, 7)), ("onnx", "coreml", "tflite")),
    "by a factor of an odd line": (
        lambda net, x: F.interpolate(x, scale_factor=0.7, mode="linear"),
        ("onnx", "coreml", "tflite"),
    ),
    "by a factor of an odd image": (
        lambda net, x: F.interpolate(
            F.interpolate(x[:, None], scale_factor=1.3, mode="bilinear"), None, (0.5, 0.7), "bilinear"
        ),
        ("onnx", "coreml", "tflite"),
    ),
    "cut": (lambda net, x: F.pad(x, (-1, 2, 1, -3)), ("onnx", "coreml", "tflite")),
    "one less an image": (
        lambda net, x: 1 - F.avg_pool2d(x[:, None], 2) * net.places[0, 0],
        ("onnx", "coreml", "tflite"),
    ),
    "a weight less an image": (lambda net, x: net.places[0, 0] - F.max_pool2d(x[:, None], 2), ("coreml", "tflite")),
    "share of an image": (lambda net, x: net.places[0, 0] / (F.max_pool2d(x[:, None], 2).abs() + 1), ("tflite",)),
    "less than nothing": (lambda net, x: -x, ("onnx", "coreml", "tflite")),
    "a middle one": (lambda net, x: (x.kthvalue(3, 1).values, x.median(2).values), ("onnx", "coreml", "tflite")),
    "picked": (lambda net, x: torch.take_along_dim(x, x.argmax(1, keepdim=True), 1), ("onnx", "coreml", "tflite")),
    "letters": (
        lambda net, x: (
            torch.einsum("...ij,kj->...ik", x, net.places),
            torch.einsum("bii->bi", x[:, :18, :18]),
            torch.einsum("bij->", x),
            torch.einsum("bnj,jnk->bk", x[:, :7], net.places.reshape(7, 9, 2).permute(1, 0, 2).repeat(2, 1, 1)),
        ),
        ("onnx", "coreml", "tflite"),
    ),
    "alike": (lambda net, x: F.cosine_similarity(x, net.places[:1], -1), ("onnx", "coreml", "tflite")),
    "sampled": (
        lambda net, x: F.grid_sample(
            x[:, None],
            F.affine_grid(torch.eye(2, 3)[None] * (1 + net.places[0, 0]), [1, 1, 5, 6], align_corners=False),
            align_corners=False,
        ),
        ("coreml", "tflite"),
    ),
    "added at places": (
        lambda net, x: x.clone().scatter_add_(1, torch.zeros(1, 1, 18, dtype=torch.int64), x[:, :1]),
        ("onnx", "coreml"),
    ),
    "whole numbers": (
        lambda net, x: x.gather(
            1,
            (x.argmax(1, keepdim=True) * 4099 + 3).clamp(min=9).div(-7, rounding_mode="trunc").abs().clamp(max=570)
            // 31,
        ),
        ("coreml",),
    ),
    "running products": (
        lambda net, x: (x.sigmoid().cumprod(1), torch.cumprod(1 + x * 0.1, -1)),
        ("onnx", "coreml", "tflite"),
    ),
    "plainer words": (
        lambda net, x: (
            torch.hypot(x, x + 1) + torch.logaddexp(x, -x) + torch.special.expit(x) + F.rrelu(x),
            torch.sinc(x),
            torch.tensordot(x, net.places, dims=([2], [1])),
            torch.msort(x[0]),
        ),
        ("onnx", "coreml", "tflite"),
    ),
    "put back": (
        lambda net, x: F.max_unpool2d(*F.max_pool2d(x[:, None], 2, return_indices=True), 2),
        ("onnx", "coreml", "tflite"),
    ),
    "put back in a line": (
        lambda net, x: F.max_unpool1d(*F.max_pool1d(x, 3, return_indices=True), 3),
        ("onnx", "coreml", "tflite"),
    ),
    "places": (
        lambda net, x: (
            x.flatten(1).gather(1, F.max_pool2d(x[:, None], 3, 2, 1, return_indices=True)[1].flatten(1)),
            x.flatten(1).gather(1, F.adaptive_max_pool2d(x[:, None], (3, 5), return_indices=True)[1].flatten(1)),
        ),
        ("onnx", "coreml", "tflite"),
    ),
    "running sums of exponentials": (
        lambda net, x: (x.logcumsumexp(1), x.cumsum(-1).logcumsumexp(-1), x.cumsum(-2)),
        ("onnx", "coreml", "tflite"),
    ),
    "joined with nothing": (
        lambda net, x: torch.cat([x[:, 20:], x, x[:, :0]], 1) + torch.cat([x[..., :9], x[..., 18:], x[..., 9:]], -1),
        ("onnx", "coreml", "tflite"),
    ),
    "an image seen as a row": (
        lambda net, x: (x[:, None] * F.max_pool2d(x[:, None], 3, 1, 1)).view(1, -1).topk(4).values,
        ("onnx", "coreml", "tflite"),
    ),
    "truths counted": (
        lambda net, x: (
            x.gather(1, (x > x.mean(1, keepdim=True)).sum(1, keepdim=True) - 1)
            + (x > x.mean()).count_nonzero(dim=1)[:, None]
        ),
        ("coreml",),
    ),
    "added at their places": (
        lambda net, x: (
            torch.zeros_like(x).scatter_add_(1, x.argmax(1, keepdim=True).expand_as(x), x) + x,
            torch.ones(20, 18).index_add(0, x[0].argmax(1) % 5, x[0], alpha=2.0),
            torch.zeros(1, 5, 18).index_add(-2, x[0].argmax(1) % 5, x),
            torch.zeros(20, 18).index_put((x[0].argmax(1),), x[0], accumulate=True),
        ),
        ("onnx", "coreml", "tflite"),
    ),
    "the largest at their places": (
        lambda net, x: torch.zeros_like(x).scatter_reduce(1, x.argmax(1, keepdim=True).expand_as(x), x, "amax"),
        ("onnx", "coreml", "tflite"),
    ),
    "a power of five dimensions": (
        lambda net, x: (x.reshape(1, 2, 10, 3, 6) * net.places.reshape(1, 7, 1, 3, 6)[:, :2]).pow(3).sum((2, 3)),
        ("tflite",),
    ),
    "bins": (
        lambda net, x: (
            x.gather(1, torch.bucketize(x.argmax(1, keepdim=True), torch.arange(6) * 4 + 0.5))
            + torch.searchsorted(torch.arange(6) * 4 + 0.5, x.argmin(1).float(), right=True).unsqueeze(1)
        ),
        ("onnx", "coreml", "tflite"),
    ),
    "numbers in the place of none": (
        lambda net, x: torch.nan_to_num(1 / x.relu(), posinf=3.0, neginf=-2.0) + torch.nan_to_num(x.log(), 0.5, 1.0),
        ("tflite",),
    ),
    "quotients": (lambda net, x: torch.div((x * 1e3).int() + 10**9, 7, rounding_mode="trunc") - 142_857_142, ("onnx",)),
    "smallest": (lambda net, x: x.topk(3, 1, largest=False), ("tflite",)),
    "sorted": (lambda net, x: x.sort(-1).values, ("tflite",)),
    "largest values": (lambda net, x: x.topk(2).values, ("tflite",)),
    "order": (lambda net, x: x.argsort(-1, descending=True), ("tflite",)),
}


@pytest.mark.wide
@pytest.mark.parametrize(("name", "format"), [(name, format) for name, (_, held) in HEADS.items() for format in held])
def test_formats_hold_them(name: str, format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    example = (torch.randn(1, 20, 16),)
    model = one_shot(Model(Head(HEADS[name][0]).eval()), Recipe(0.6))
    exact = {"precision": "float32"} if format == "coreml" and "put back" in name else {}  # of ties in float16
    path = export(model, format, example, tmp_path / f"m{FORMATS[format].suffix}", **exact).path
    parity = verify(path, model, example)
    assert parity.passed, (parity.outputs, parity.notes)


def test_a_batch_that_an_operator_wants_as_a_number_is_fixed(tmp_path: Path) -> None:
    """Kernels of each image's own, as many groups as there are images."""
    model = one_shot(Model(PerImage().eval()), Recipe(0.5))
    example = (torch.randn(2, 3, 8, 8),)
    artifact = export(model, "onnx", example, tmp_path / "m.onnx")
    assert "the model fixes its batch: the file does too" in artifact.notes
    assert verify(artifact.path, model, example).passed


class PerImage(nn.Module):
    """Kernels that every image makes of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.kernels = nn.Conv2d(3, 4, 1), nn.Linear(4, 4 * 9)

    def forward(self, image: Tensor) -> Tensor:
        x = self.layer(image)
        batch, channels, height, width = x.shape
        kernels = self.kernels(x.mean((2, 3))).reshape(batch * channels, 1, 3, 3)
        return F.conv2d(x.reshape(1, -1, height, width), kernels, groups=batch * channels).reshape(batch, channels, -1)


class Bytes(nn.Module):
    """An image of bytes, with a gain that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 16, 3)

    def forward(self, image: Tensor, options: dict[str, float]) -> Tensor:
        return self.layer(image.float() / 255) * options["gain"]


def test_core_ml_names_the_input_that_it_cannot_take(tmp_path: Path) -> None:
    model = one_shot(Model(Bytes().eval()), Recipe(0.5))
    said = "input 'image' is uint8, and Core ML takes .* — give int32 numbers as example"
    with pytest.raises(ConversionError, match=said):
        export(
            model,
            "coreml",
            (torch.ones(1, 3, 8, 8, dtype=torch.uint8), {"gain": torch.ones(1)}),
            tmp_path / "m.mlpackage",
        )
    assert not list(tmp_path.iterdir())
    example = (torch.ones(1, 3, 8, 8, dtype=torch.int32), {"gain": torch.ones(1)})
    assert verify(export(model, "coreml", example, tmp_path / "m.mlpackage").path, model, example).passed


def test_a_model_that_fails_by_itself_is_called_that(tmp_path: Path) -> None:
    """Windows that overlap tell places beyond the plane that their size alone makes."""

    def beyond(net: Head, x: Tensor) -> Tensor:
        return F.max_unpool2d(*F.max_pool2d(x[:, None], 3, 2, return_indices=True), 3, 2)

    example = (torch.randn(1, 20, 16),)
    model = one_shot(Model(Head(beyond).eval()), Recipe(0.6))
    with pytest.raises(ConversionError, match="the model fails on its inputs"):
        export(model, "tflite", example, tmp_path / "m.tflite")
