"""Places of several axes, of flat tensors and of memory; segments, bits and polynomials: the numbers are PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idp_deploy.exporting import export
from idp_deploy.flow import FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.rewriting.placing import as_strided, as_strided_scatter, put_at
from idp_deploy.rewriting.polynomials import POLYNOMIALS
from idp_deploy.rewriting.segments import mode, segment_reduce
from idp_deploy.verification import verify
from tests.formats_here import HERE

I, J = torch.tensor([0, 2, -1, 1]), torch.tensor([[1], [0], [2]])


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(
    "indices", [[None, I, I + 1], [I[:3], None, I[:3]], [None, J, None, I], [J, I], [None, None, I, J], [J, None, J]]
)
def test_several_axes_are_put_to_as_torch_does(indices: list[Tensor | None], accumulate: bool) -> None:
    x = torch.randn(3, 4, 5, 6)
    there = torch.ops.aten.index(x, indices)
    for values in (torch.randn(there.shape), torch.tensor(1.5), torch.randn(there.shape)[..., :1]):
        found = put_at(x, indices, values, accumulate)
        assert found is not None
        if accumulate or len({*indices}) > 3:
            assert torch.allclose(found, torch.ops.aten.index_put(x, indices, values, accumulate), atol=1e-5)
        assert accumulate or torch.equal(torch.ops.aten.index(found, indices), values.expand(there.shape))


@pytest.mark.parametrize("turn", [lambda x: x, lambda x: x.mT, lambda x: x[1], lambda x: x.permute(2, 0, 1)])
def test_memory_is_read_in_the_order_of_strides(turn: Callable[[Tensor], Tensor]) -> None:
    x = turn(torch.randn(2, 4, 6))
    for size, stride, start in (((2, 3), (6, 1), 0), ((2, 2, 2), (5, 3, 1), 2), ((8,), (3,), None)):
        start = None if start is None else x.storage_offset() + start
        wanted = x.as_strided(size, stride, start)
        assert torch.equal(as_strided(x, [*size], [*stride], start), wanted)  # type: ignore[arg-type]
        if len(size) < 3:  # places of the third meet
            source = torch.randn(size)
            found = as_strided_scatter(x, source, [*size], [*stride], start)
            assert torch.equal(found, x.as_strided_scatter(source, size, stride, start))  # type: ignore[arg-type]
    gaps = torch.randn(4, 6)[:, ::2]
    assert as_strided(gaps, [2], [1]) is None
    assert as_strided(x, [99], [1]) is None  # beyond its end, into what it is a part of


@pytest.mark.parametrize("initial", [None, 0.0, 0.5])
@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min", "prod"])
def test_segments_are_reduced_as_torch_does(reduce: str, initial: float | None) -> None:
    x = torch.randn(5, 4)
    for lengths in ([2, 0, 3], [5], [0, 5]):
        how: dict[str, Any] = {"lengths": torch.tensor(lengths), "initial": initial}
        wanted = torch.segment_reduce(x, reduce, **how)
        assert torch.allclose(segment_reduce(x, reduce, **how), wanted, equal_nan=True)  # type: ignore[arg-type]


def test_what_occurs_most_is_the_smallest_of_several() -> None:
    for x in (torch.randint(0, 4, (6, 7)), torch.randint(0, 4, (6, 7)).float()):
        for dim, kept in ((1, False), (0, True)):
            found = mode(x, dim, kept)
            assert found is not None
            assert torch.equal(found[0], x.mode(dim, kept)[0])


@pytest.mark.parametrize("operator", POLYNOMIALS, ids=str)
def test_polynomials_are_torchs(operator: Any) -> None:
    x = torch.randn(20)
    for degree in (-1, 0, 1, 2, 5, 8):
        wanted = operator(x, degree)
        assert torch.allclose(POLYNOMIALS[operator](x, degree), wanted, rtol=1e-3, atol=1e-3)


class Net(nn.Module):
    def __init__(self, rest: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.rest = nn.Linear(6, 6), rest

    def forward(self, x: Tensor) -> Any:
        return self.rest(self.linear(x), x)


def put(h: Tensor, x: Tensor) -> Any:
    y = h.clone()
    y[:, I, torch.arange(4)] = 1.5
    y[[0, 1], [2, 3]] = x[0, 0]
    y[:, :, torch.tensor([True, False, True, False, False, True])] += 0.25
    y[:, x[0, :, 0] > 0] = 1.0
    return y.put_(torch.tensor([0, 5, 7]), torch.tensor([1.0, 2.0, 3.0]))


def added(h: Tensor, x: Tensor) -> Any:
    there = h.index_put((torch.arange(2)[:, None], I[None]), x, accumulate=True)
    hows, places = ("amax", "amin", "mean", "prod"), I.abs()
    reduced = [h.index_reduce(1, places, x, how, include_self=how != "mean") for how in hows]
    return there.put(torch.tensor([0, 5, 5, -1]), x.flatten()[:4], accumulate=True), reduced


def laid(h: Tensor, x: Tensor) -> Any:
    return h.as_strided((2, 2, 2, 6), (24, 6, 6, 1)), h.mT.as_strided_scatter(x[:, :, 0], (2, 4), (24, 6), 1)


def counted(h: Tensor, x: Tensor) -> Any:
    pairs = torch.combinations(torch.arange(4), 2)
    often, lengths = (x * 2).round().mode(-1).values, torch.tensor([1, 3])
    parts = torch.segment_reduce(h[0], "max", lengths=lengths), torch.histc(x, 5), torch.isclose(x, x + 1e-9)
    return h[:, pairs[:, 0]], often, parts, torch.corrcoef(h[0]), h[1].cov(), h.narrow_copy(1, 1, 2)


def ordered(h: Tensor, x: Tensor) -> Any:
    places = torch.searchsorted(x, x * 0.7, sorter=x.argsort(-1))
    return h + torch.special.legendre_polynomial_p(h.tanh(), 3), places


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("rest", [put, added, laid, counted, ordered])
def test_the_file_is_right(rest: Callable[[Tensor, Tensor], Any], format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, model = torch.randn(2, 4, 6), one_shot(Model(Net(rest).eval()), Recipe(0.5))
    parity = verify(export(model, format, (x,), tmp_path / f"m{FORMATS[format].suffix}").path, model, (x,))
    assert parity.passed, [p for p in (*parity.outputs, *parity.weights) if not p.passed]


def bits(h: Tensor, x: Tensor) -> Any:
    numbers, others = (x * 8).long(), (x[:, :1] * 5).int()
    return h, numbers & 3, numbers & 5, numbers | 1, numbers ^ others, ~numbers, others & others, ~(x > 0), others | 6


def hashed(h: Tensor, x: Tensor) -> Any:
    places = (x[..., :3].abs() * 16).floor().int()
    found = (places[..., 0] ^ (places[..., 1] * 26544) ^ (places[..., 2] * 8054)) & 63
    return F.embedding(found.long(), torch.arange(128.0).reshape(64, 2) / 64) * h[..., :2]


@pytest.mark.wide
@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize("rest", [bits, hashed])
def test_bits_of_integers(rest: Callable[[Tensor, Tensor], Any], format: FormatName, tmp_path: Path) -> None:
    test_the_file_is_right(rest, format, tmp_path)
