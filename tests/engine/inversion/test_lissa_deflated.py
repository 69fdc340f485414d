"""Beside a matrix at hand LiSSA splits its largest eigenvectors off; the iterates are still those of the recursion."""

from __future__ import annotations

import pytest
import torch

from tests.engine.exact import worst_row
from tests.engine.matrices import Both, Matrix, Symmetric, decaying, with_damping, with_eigenvalues
from workers.engine import Lissa, Recycled, SingularHessian, Status
from workers.engine.inversion import deflated
from workers.engine.inversion.deflated import Deflation

from .test_lissa_space import Counted, recursion

DTYPES = [torch.float32, torch.float64]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of some hundred rows count as large."""
    monkeypatch.setattr(deflated, "FEWEST_PARAMETERS", 200)
    monkeypatch.setattr(deflated, "DIRECTIONS", 128)
    monkeypatch.setattr(deflated, "WIDTH", 4)
    monkeypatch.setattr("workers.engine.inversion.lissa.LARGE_SPACE", 0)
    monkeypatch.setattr("workers.engine.inversion.lissa.FEW_BLOCKS", 3)


def at_hand(matrix: torch.Tensor, damping: float, dtype: torch.dtype) -> Both:
    matrix = matrix.to(dtype)
    return with_damping(Counted(Symmetric(matrix), matrix), damping)


def spread(size: int = 400) -> torch.Tensor:
    """Eigenvalues as networks have them: few large ones, many near zero, some of those negative."""
    values = torch.logspace(-2, -6, size, dtype=torch.float64)
    values[size // 2 :: 3] *= -1
    values[:20] = torch.logspace(0, -1.8, 20, dtype=torch.float64)
    return with_eigenvalues(values.tolist())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("scale", "dampen"), [(0.6, 0.0), (3.0, 0.05)])
@pytest.mark.parametrize("maxiter", [50, 1000])
def test_it_is_the_iterate_of_the_recursion(
    dtype: torch.dtype, scale: float, dampen: float, maxiter: int
) -> None:
    matrix, damping = spread(), 0.02
    rhs = torch.randn(20, 400, dtype=dtype) * torch.logspace(-3, 3, 20, dtype=dtype)[:, None]
    recycled = Recycled()
    method = Lissa(maxiter=maxiter, scale=scale, dampen=dampen, rtol=1e-30)
    found = method.solve(*at_hand(matrix, damping, dtype), rhs, recycled=recycled)
    expected, _ = recursion(matrix, rhs, damping, scale, dampen, 1e-30, maxiter)
    assert recycled.deflation is not None
    assert recycled.spectrum is None
    assert worst_row(found.x, expected) < (2e-5 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rtol", [1e-3, 1e-5])
def test_every_row_stops_where_the_recursion_does(dtype: torch.dtype, rtol: float) -> None:
    matrix, damping = spread(), 0.02
    rhs = torch.randn(20, 400, dtype=dtype)
    rhs[3], rhs[4, 100:] = 0.0, 0.0
    operator = at_hand(matrix, damping, dtype)
    found = Lissa(maxiter=2000, scale=0.8, rtol=rtol).solve(*operator, rhs)
    rounding = torch.finfo(dtype).eps
    expected, counts = recursion(matrix, rhs, damping, 0.8, 0.0, rtol, 2000, rounding)
    others = [row for row in range(20) if row != 3]
    assert worst_row(found.x[others], expected[others]) < (1e-4 if dtype == torch.float32 else 1e-9)
    assert bool((found.x[3] == 0).all())
    assert abs(found.info["iterations"] - max(counts)) <= (2 if dtype == torch.float32 else 0)
    assert 100 < max(counts) < 2000
    assert set(found.status) == {Status.CONVERGED}
    course = found.info["course_percent"]
    assert bool((course[others].diff(dim=1) <= 0).all())
    assert bool((course[3] == 0).all())


def test_eigenvectors_are_split_off_once_for_all_blocks_and_every_damping() -> None:
    matrix, rhs = spread(), torch.randn(40, 400, dtype=torch.float64)
    recycled, seen = Recycled(matrix=matrix), []
    for damping, part in ((0.02, rhs[:20]), (0.02, rhs[20:]), (0.05, rhs[:20])):
        operator = at_hand(matrix, damping, torch.float64)
        found = Lissa(maxiter=9000, scale=0.8, rtol=1e-10).solve(*operator, part, recycled=recycled)
        exact = Matrix(matrix, damping).inverse(part)
        torch.testing.assert_close(found.x, exact, rtol=1e-6, atol=1e-7)
        seen.append((recycled.deflation, sum(operator.calls)))
    assert seen[0][0] is not None
    assert seen[0][0] is seen[1][0] is seen[2][0]
    assert seen[1][1] <= seen[0][1] - 128
    assert recycled.nbytes > matrix.nbytes + seen[0][0].nbytes - 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_right_hand_sides_among_the_eigenvectors_leave_nothing(dtype: torch.dtype) -> None:
    matrix = with_eigenvalues([*torch.logspace(0, -1, 20).tolist(), *[0.0] * 280])
    damping, rhs = 0.05, torch.randn(20, 300, dtype=dtype)
    rhs[:5] = rhs[:5] @ matrix.to(dtype)  # within the range of H
    found = Lissa(maxiter=500, scale=0.8, rtol=1e-30).solve(*at_hand(matrix, damping, dtype), rhs)
    expected, _ = recursion(matrix, rhs, damping, 0.8, 0.0, 1e-30, 500)
    assert worst_row(found.x, expected) < (2e-5 if dtype == torch.float32 else 1e-10)


def test_without_damping_the_directions_that_h_does_not_know_add_up() -> None:
    matrix = with_eigenvalues([*torch.logspace(0, -1, 20).tolist(), *[0.0] * 280])
    rhs = torch.randn(20, 300, dtype=torch.float64)
    found = Lissa(maxiter=300, scale=0.8, rtol=1e-30).solve(
        *at_hand(matrix, 0.0, torch.float64), rhs
    )
    expected, _ = recursion(matrix, rhs, 0.0, 0.8, 0.0, 1e-30, 300)
    assert worst_row(found.x, expected) < 1e-9
    assert set(found.status) == {Status.MAXITER}


def test_a_small_negative_eigenvalue_that_damping_leaves_is_still_refused() -> None:
    matrix = with_eigenvalues([*torch.logspace(0, -2, 299).tolist(), -0.2])
    with pytest.raises(SingularHessian):
        Lissa(maxiter=200, scale=0.8).solve(
            *at_hand(matrix, 0.05, torch.float64), torch.randn(20, 300, dtype=torch.float64)
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_split_off_are_eigenvectors_to_rounding(dtype: torch.dtype) -> None:
    matrix = decaying(300, 1e-6)
    found = Deflation.of(at_hand(matrix, 0.1, dtype).curvature, lambda *_: None)
    assert len(found.values) > 5
    rest = found.vectors.double() @ matrix - found.values[:, None] * found.vectors.double()
    eps = torch.finfo(dtype).eps
    assert float(rest.norm(dim=1).max()) < 50 * eps
    unit = torch.eye(len(found.values), dtype=torch.float64)
    assert float((found.vectors.double() @ found.vectors.double().T - unit).abs().max()) < 50 * eps
    largest = torch.linalg.eigvalsh(matrix).flip(0)[: len(found.values)]
    torch.testing.assert_close(found.values.flip(0), largest, rtol=50 * eps, atol=50 * eps)


def test_where_own_spaces_do_not_do_a_shared_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflated, "MOST_STEPS", 4)
    matrix, rhs = spread(300), torch.randn(8, 300, dtype=torch.float64)
    found = Lissa(maxiter=300, scale=0.8, rtol=1e-30).solve(
        *at_hand(matrix, 0.02, torch.float64), rhs
    )
    expected, _ = recursion(matrix, rhs, 0.02, 0.8, 0.0, 1e-30, 300)
    assert worst_row(found.x, expected) < 1e-10


@pytest.mark.parametrize("maxiter", [5, 20_000])
def test_for_very_few_or_very_many_steps_nothing_is_split_off(maxiter: int) -> None:
    matrix, rhs = spread(300), torch.randn(8, 300, dtype=torch.float64)
    recycled, operator = Recycled(), at_hand(matrix, 0.1, torch.float64)
    found = Lissa(maxiter=maxiter, scale=0.8, rtol=1e-6).solve(*operator, rhs, recycled=recycled)
    expected, _ = recursion(matrix, rhs, 0.1, 0.8, 0.0, 1e-6, maxiter)
    assert recycled.deflation is None
    assert worst_row(found.x, expected) < 1e-9


def test_steps_are_looked_at_in_parts_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, rhs = spread(300), torch.randn(8, 300, dtype=torch.float64)
    method = Lissa(maxiter=500, scale=0.8, rtol=1e-4)
    whole = method.solve(*at_hand(matrix, 0.05, torch.float64), rhs)
    monkeypatch.setattr(deflated, "NUMBERS", 1000)
    parts = method.solve(*at_hand(matrix, 0.05, torch.float64), rhs)
    torch.testing.assert_close(whole.x, parts.x, rtol=1e-12, atol=1e-14)
    assert whole.info["iterations"] == parts.info["iterations"]
