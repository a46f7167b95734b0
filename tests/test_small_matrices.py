"""Linear algebra on small matrices that the input makes: in torch's numbers, and in every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from idp_deploy.errors import ConversionError
from idp_deploy.exporting import export
from idp_deploy.flow import CompressedModel, FormatName, Model, Recipe
from idp_deploy.formats import FORMATS
from idp_deploy.pruning import one_shot
from idp_deploy.rewriting.solving import (
    cholesky,
    cholesky_solve,
    determinant,
    exponential,
    inverse,
    power,
    solve,
    triangular,
)
from idp_deploy.verification import verify
from tests.formats_here import HERE

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


def stack(n: int, *batch: int) -> Tensor:
    """Matrices far from singular, of which the first pivot is zero."""
    found = torch.randn(*batch, n, n) + n * torch.eye(n).roll(1, 0)
    found[..., 0, 0] = 0
    return found if n > 1 else found + 2


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_inverses_and_determinants_are_torchs(n: int) -> None:
    for a in (stack(n), stack(n, 2, 3)):
        for found, wanted in (
            (inverse(a), torch.inverse(a)), (determinant(a), torch.det(a)), (power(a, -2), a.inverse() @ a.inverse())
        ):  # fmt: skip
            assert found is not None
            torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("ones", [True, False])
def test_systems_are_solved_as_torch_does(left: bool, upper: bool, ones: bool) -> None:
    a, b = stack(4, 2), torch.randn(2, *((4, 3) if left else (3, 4)))
    torch.testing.assert_close(solve(a, b, left=left), torch.linalg.solve(a, b, left=left), **CLOSE)
    half: dict[str, Any] = {"upper": upper, "left": left, "unitriangular": ones}
    a = a + 4 * torch.eye(4)
    torch.testing.assert_close(triangular(a, b, **half), torch.linalg.solve_triangular(a, b, **half), **CLOSE)


def test_vectors_and_stacks_that_one_matrix_serves_are_solved() -> None:
    a = stack(3, 2)
    for b in (torch.randn(2, 3), torch.randn(5, 2, 3, 1)):
        torch.testing.assert_close(solve(a, b), torch.linalg.solve(a, b), **CLOSE)
    torch.testing.assert_close(solve(a[0], torch.ones(3)), torch.linalg.solve(a[0], torch.ones(3)), **CLOSE)


@pytest.mark.parametrize("upper", [True, False])
def test_halves_are_torchs(upper: bool) -> None:
    a = stack(5)
    a, b = a @ a.mT + torch.eye(5), torch.randn(5, 2)
    half = torch.linalg.cholesky(a, upper=upper)
    torch.testing.assert_close(cholesky(a, upper=upper), half, **CLOSE)
    torch.testing.assert_close(cholesky_solve(b, half, upper), torch.cholesky_solve(b, half, upper), **CLOSE)


def test_large_ones_and_those_that_are_no_squares_are_left() -> None:
    assert inverse(torch.eye(17)) is None
    assert solve(torch.randn(3, 4), torch.randn(3, 1)) is None


class Algebra(nn.Module):
    """A layer that makes small matrices, and what is computed with these."""

    def __init__(self, computed: Callable[[Tensor, Tensor], Any], size: int) -> None:
        super().__init__()
        self.layer, self.computed, self.size = nn.Linear(size, size), computed, size

    def forward(self, x: Tensor) -> Any:
        made = torch.tanh(self.layer(x))
        return self.computed(made @ made.mT + 2 * torch.eye(self.size), x)


KINDS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "inverse": lambda a, x: torch.linalg.inv(a) @ x,
    "solve": torch.linalg.solve,
    "cholesky": lambda a, x: torch.cholesky_solve(x, torch.linalg.cholesky(a)),
    "exponential": lambda a, x: torch.linalg.matrix_exp(a - a.mT + x / 2),
    "determinant": lambda a, x: (torch.det(a), torch.linalg.slogdet(a).logabsdet),
}


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("kind", KINDS)
def test_formats_hold_them(kind: str, format: FormatName, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = one_shot(Model(Algebra(KINDS[kind], 3).eval()), Recipe(0.5))
    inputs = (torch.randn(2, 3, 3),)
    path = export(model, format, inputs, tmp_path / f"m{FORMATS[format].suffix}").path
    assert verify(path, model, inputs).passed


@pytest.mark.wide
@pytest.mark.parametrize("format", HERE)
def test_large_ones_are_refused_by_name(format: FormatName, tmp_path: Path) -> None:
    model = CompressedModel(Algebra(torch.linalg.solve, 17).eval(), {})
    with pytest.raises(ConversionError) as caught:
        export(model, format, (torch.randn(1, 17, 17),), tmp_path / f"m{FORMATS[format].suffix}")
    assert caught.value.way_out


@pytest.mark.parametrize("size", [0.01, 1.0, 5.0])
def test_exponentials_are_as_exact_as_torchs(size: float) -> None:
    a = torch.randn(3, 4, 4) * size
    for matrices in (a, a - a.mT, a[0]):
        found, wanted = exponential(matrices), torch.linalg.matrix_exp(matrices.double()).float()
        assert found is not None
        assert float((found - wanted).abs().max() / wanted.abs().max()) < 2e-5
    assert exponential(torch.eye(17)) is None


INSTEAD: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "svd": (lambda a: torch.linalg.svd(a).U, "two vectors"),
    "singular values": (torch.linalg.svdvals, "two vectors"),
    "eigenvalues": (torch.linalg.eigvalsh, "two vectors"),
    "qr": (lambda a: torch.linalg.qr(a).R, "cholesky"),
    "pseudo-inverse": (torch.linalg.pinv, r"solve\(A\.mT @ A, A\.mT\)"),
    "least squares": (lambda a: torch.linalg.lstsq(a, a[..., :1]).solution, r"solve\(A\.mT @ A, A\.mT @ b\)"),
}


@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("kind", INSTEAD)
def test_decompositions_are_refused_with_what_comes_to_the_same(kind: str, format: FormatName, tmp_path: Path) -> None:
    computed, said = INSTEAD[kind]
    model = CompressedModel(Algebra(lambda a, x: computed(a), 3).eval(), {})
    with pytest.raises(ConversionError, match=said):
        export(model, format, (torch.randn(1, 3, 3),), tmp_path / f"m{FORMATS[format].suffix}")
