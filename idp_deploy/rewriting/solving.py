"""solving: linear algebra on small matrices that the input makes, in plain steps: no format has operators for it.

The steps stand one after the other in the file, so matrices of more than `_MOST` rows are left to be refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from idp_deploy.rewriting.spelling import Row

aten = torch.ops.aten
_MOST = 16
_TERMS = 11  # of the series, the last less than float32 tells from 1
_SQUARED = 8  # times at most: a size of 256 is beyond what e to its power holds


def _fits(a: Tensor) -> bool:
    n = a.shape[-1]
    return a.is_floating_point() and isinstance(n, int) and a.shape[-2] == n and 0 < n <= _MOST


def _eliminated(m: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """[A | B] → ([I | A⁻¹·B], the determinant of A) by Gauss and Jordan, largest pivots first.

    Rows change places by choosing, not by adding, so that no digit is lost there.
    """
    places = torch.arange(rows)
    determinant = torch.ones_like(m[..., 0, 0])
    for k in range(rows):
        column = torch.abs(m[..., k])
        if k:
            column = torch.where(places < k, torch.full_like(column, -1.0), column)
        chosen = (places == column.argmax(-1, keepdim=True)).unsqueeze(-1)  # (…, rows, 1)
        own = (places == k).unsqueeze(-1)
        pivot_row = torch.where(chosen, m, torch.zeros_like(m)).sum(-2, keepdim=True)
        swapped = torch.where(chosen, m[..., k : k + 1, :], m)
        pivot = pivot_row[..., k : k + 1]
        moved = torch.where(chosen[..., k : k + 1, :], torch.ones_like(pivot), torch.full_like(pivot, -1.0))
        determinant = determinant * (pivot * moved)[..., 0, 0]
        row = pivot_row / pivot
        m = torch.where(own, row, swapped - swapped[..., k : k + 1] * row)
    return m, determinant


def _one(like: Tensor) -> Tensor:
    """I in the shape of a stack of matrices; from numbers, since litert-torch makes of torch.eye what LiteRT lacks."""
    n = like.shape[-1]
    rows = [[float(i == j) for j in range(n)] for i in range(n)]
    return torch.zeros_like(like) + torch.tensor(rows, dtype=like.dtype)  # a batch may be free


def solve(a: Tensor, b: Tensor, *, left: bool = True) -> Tensor | None:
    """X with A·X = B, or with X·A = B."""
    if not _fits(a):
        return None
    if not left:
        found = solve(a.transpose(-1, -2), b.transpose(-1, -2))
        return None if found is None else found.transpose(-1, -2)
    vector = b.dim() == 1 or (b.dim() == a.dim() - 1 and b.shape == a.shape[:-1])
    if vector:
        b = b.unsqueeze(-1)
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = a.expand(*batch, *a.shape[-2:]), b.expand(*batch, *b.shape[-2:])
    found = _eliminated(torch.cat([a, b], -1), a.shape[-1])[0][..., a.shape[-1] :]
    return found.squeeze(-1) if vector else found


def inverse(a: Tensor) -> Tensor | None:
    """What is left of [A | I] where A has become I."""
    if not _fits(a):
        return None
    return _eliminated(torch.cat([a, _one(a)], -1), a.shape[-1])[0][..., a.shape[-1] :]


def determinant(a: Tensor) -> Tensor | None:
    """The product of the pivots, with a sign for every change of rows."""
    return _eliminated(a, a.shape[-1])[1] if _fits(a) else None


def sign_and_logarithm(a: Tensor) -> tuple[Tensor, Tensor] | None:
    """Sign and logarithm of the size of the determinant."""
    found = determinant(a)
    return None if found is None else (torch.sign(found), torch.log(torch.abs(found)))


def logarithm_of_determinant(a: Tensor) -> Tensor | None:
    """log det A: not a number where that is negative."""
    found = determinant(a)
    return None if found is None else torch.log(found)


def triangular(a: Tensor, b: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Tensor | None:
    """X with A·X = B where A has one half alone: row by row, from the row that has one entry."""
    if not _fits(a):
        return None
    if not left:
        turned = triangular(a.mT, b.mT, upper=not upper, unitriangular=unitriangular)
        return None if turned is None else turned.mT
    n = a.shape[-1]
    rows: dict[int, Tensor] = {}
    for k in reversed(range(n)) if upper else range(n):
        row = b[..., k : k + 1, :]
        for j, known in rows.items():
            row = row - a[..., k : k + 1, j : j + 1] * known
        rows[k] = row if unitriangular else row / a[..., k : k + 1, k : k + 1]
    return torch.cat([rows[k] for k in range(n)], -2)


def cholesky(a: Tensor, *, upper: bool = False) -> Tensor | None:
    """L with L·Lᵀ = A, column by column; its transpose where the upper half is asked for."""
    if not _fits(a):
        return None
    columns: list[Tensor] = []
    for k in range(a.shape[-1]):
        rest = a[..., k, k:] if upper else a[..., k:, k]
        for known in columns:
            rest = rest - known[..., k:] * known[..., k : k + 1]
        column = rest / torch.sqrt(rest[..., :1] if k < a.shape[-1] - 1 else rest)
        columns.append(F.pad(column, (k, 0)) if k else column)
    return torch.stack(columns, -2 if upper else -1)


def cholesky_solve(b: Tensor, half: Tensor, upper: bool = False) -> Tensor | None:
    """X with L·Lᵀ·X = B: one half after the other."""
    lower = half.mT if upper else half
    first = triangular(lower, b, upper=False)
    return None if first is None else triangular(lower.mT, first, upper=True)


def cholesky_inverse(half: Tensor, upper: bool = False) -> Tensor | None:
    """The inverse of L·Lᵀ."""
    if not _fits(half):
        return None
    return cholesky_solve(_one(half), half, upper)


def power(a: Tensor, n: int) -> Tensor | None:
    """Aⁿ below zero: the inverse, multiplied with itself; converters have the others."""
    inverted = inverse(a) if n < 0 else None
    return None if inverted is None else torch.linalg.matrix_power(inverted, -n)


def exponential(a: Tensor) -> Tensor | None:
    """e to the power of a matrix: a series for A / 2ˢ of size 1 at most, whose sum is squared s times."""
    if not _fits(a):
        return None
    one, size = _one(a), a.abs().sum(-2).amax(-1)[..., None, None]
    large = [size > 2.0**k for k in range(_SQUARED)]
    for beyond in large:
        a = torch.where(beyond, a / 2, a)
    result = one
    for k in range(_TERMS, 0, -1):  # 1 + A·(1 + A/2·(1 + A/3·(…)))
        result = one + torch.matmul(a, result) / k
    for beyond in large:
        result = torch.where(beyond, torch.matmul(result, result), result)
    return result


def _without_error(row: Row) -> Row:
    """The same with a word on each matrix that it went well."""

    def told(a: Tensor, *arguments: Any, check_errors: bool = False, **how: Any) -> tuple[Tensor, Tensor] | None:
        found = row(a, *arguments, **how)
        return None if found is None else (found, torch.zeros(a.shape[:-2], dtype=torch.int32))

    return told


SOLVING: dict[Any, Row] = {
    aten.cholesky.default: lambda a, upper=False: cholesky(a, upper=upper),
    aten.cholesky_inverse.default: cholesky_inverse,
    aten.cholesky_solve.default: cholesky_solve,
    aten.det.default: determinant,
    aten.inverse.default: inverse,
    aten.linalg_cholesky.default: cholesky,
    aten.linalg_cholesky_ex.default: _without_error(cholesky),
    aten.linalg_det.default: determinant,
    aten.linalg_inv.default: inverse,
    aten.linalg_inv_ex.default: _without_error(inverse),
    aten.linalg_matrix_exp.default: exponential,
    aten.linalg_matrix_power.default: power,
    aten.linalg_slogdet.default: sign_and_logarithm,
    aten.linalg_solve.default: solve,
    aten.linalg_solve_triangular.default: triangular,
    aten.matrix_exp.default: exponential,
    aten.logdet.default: logarithm_of_determinant,
    aten.slogdet.default: sign_and_logarithm,
}
