"""Without sampling, LiSSA's iterates come from a small space, and are those of the recursion."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from tests.engine.exact import worst_row
from tests.engine.matrices import Matrix, Symmetric, decaying, with_damping, with_eigenvalues
from workers.engine import Diverged, Lissa, Status
from workers.engine.inversion import stationary
from workers.engine.inversion.krylov import BlockKrylov
from workers.engine.operators import Explicit


def recursion(
    matrix: Tensor,
    rhs: Tensor,
    damping: float,
    scale: float,
    dampen: float,
    rtol: float,
    most: int,
    rounding: float = 0.0,
) -> tuple[Tensor, list[int]]:
    """The formula, step by step in float64, and the steps of each row; `rounding` of its largest entry is no change."""
    matrix, rhs = matrix.double(), rhs.double()
    damped = matrix + damping * torch.eye(len(matrix), dtype=torch.float64)
    x, counts = rhs.clone(), torch.zeros(len(rhs), dtype=torch.int64)
    going = torch.arange(len(rhs))
    for _ in range(most):
        before = x[going]
        h = rhs[going] + (1 - dampen) * before - before @ damped.T / scale
        x[going], counts[going] = h, counts[going] + 1
        allowed = (rtol * h.abs()).clamp(min=rounding * h.abs().amax(dim=1, keepdim=True))
        going = going[((h - before).abs() > allowed).any(dim=1)]
        if len(going) == 0:
            break
    return x / scale, counts.tolist()


@dataclass(frozen=True)
class Counted(Explicit):
    """A matrix at hand that counts its products."""

    calls: list[int] = field(default_factory=list)

    def matmat(self, vectors: Tensor) -> Tensor:
        self.calls.append(len(vectors))
        return super().matmat(vectors)

    def damped_matmat(self, vectors: Tensor, damping: float) -> Tensor:
        self.calls.append(len(vectors))
        return super().damped_matmat(vectors, damping)

    @property
    def products(self) -> int:
        return len(self.calls)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("scale", "dampen"), [(0.6, 0.0), (3.0, 0.05)])
@pytest.mark.parametrize("maxiter", [13, 100, 3000])
def test_it_is_the_iterate_of_the_recursion(
    dtype: torch.dtype, scale: float, dampen: float, maxiter: int
) -> None:
    matrix = decaying(300)
    operator = Matrix(matrix.to(dtype), damping=0.05)
    rhs = torch.randn(6, 300, dtype=dtype) * torch.logspace(-3, 3, 6, dtype=dtype)[:, None]
    method = Lissa(maxiter=maxiter, scale=scale, dampen=dampen, rtol=1e-30)
    found = method.solve(*operator, rhs)
    expected, _ = recursion(matrix, rhs, 0.05, scale, dampen, 1e-30, maxiter)
    assert worst_row(found.x, expected) < (2e-5 if dtype == torch.float32 else 1e-10)
    if maxiter >= 100:
        assert operator.passes < maxiter / 3


@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-6])
def test_every_row_stops_where_the_recursion_does(rtol: float) -> None:
    matrix = decaying(120, 1e-3)
    operator = Matrix(matrix, damping=0.02)
    rhs = torch.randn(5, 120, dtype=torch.float64)
    rhs[3] = 0.0
    rhs[4, 60:] = 0.0
    found = Lissa(maxiter=2000, scale=0.8, rtol=rtol).solve(*operator, rhs)
    expected, counts = recursion(matrix, rhs, 0.02, 0.8, 0.0, rtol, 2000)
    torch.testing.assert_close(found.x, expected, rtol=1e-8, atol=1e-9)
    assert found.info["iterations"] == max(counts) < 2000
    assert set(found.status) == {Status.CONVERGED}
    assert found.info["maximum_change_percent"] <= 100 * rtol
    assert operator.passes < 40


@dataclass
class Looked(stationary.InOneSpace):
    """Counts the steps at which whole rows are looked at."""

    looks: int = 0

    def iterate(self, steps: Tensor, rows: Tensor) -> Tensor:
        self.looks += 1
        return super().iterate(steps, rows)


@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-5])
def test_the_first_step_that_changes_every_entry_little_is_found_by_few_looks(rtol: float) -> None:
    vectors = torch.linalg.qr(torch.randn(500, 500, dtype=torch.float64)).Q.float()
    weights = torch.randn(8, 500, dtype=torch.float64) * torch.logspace(0, -4, 500).double()
    multipliers = torch.linspace(0.99, -0.5, 500, dtype=torch.float64)
    found, steps = Looked(multipliers, weights, vectors), 1500
    expected = torch.full((8,), float(steps), dtype=torch.float64)
    for number in range(steps, 0, -1):
        at, rows = torch.full((8,), float(number), dtype=torch.float64), torch.arange(8)
        h, step = (each(at, rows).abs() for each in (found.iterate, found.step))
        rounding = torch.finfo(torch.float32).eps * h.amax(1, keepdim=True)
        expected[(step <= torch.maximum(rtol * h, rounding)).all(1)] = number
    found.looks = 0
    assert torch.equal(stationary.stops(found, rtol, steps), expected)
    assert 50 < float(expected.max()) < steps
    assert found.looks < 25


def test_rows_that_have_not_settled_say_so() -> None:
    operator = Matrix(decaying(120), damping=1e-3)
    rhs = torch.randn(3, 120, dtype=torch.float64)
    found = Lissa(maxiter=40, scale=0.8, rtol=1e-6).solve(*operator, rhs)
    assert found.info["iterations"] == 40
    assert set(found.status) == {Status.MAXITER}
    assert found.info["maximum_change_percent"] > 1e-4


def test_more_rows_than_one_space_holds() -> None:
    matrix = decaying(40, 1e-2)
    rhs = torch.randn(300, 40, dtype=torch.float64)
    found = Lissa(maxiter=100, scale=0.7, rtol=1e-30).solve(*Matrix(matrix, damping=0.1), rhs)
    expected, _ = recursion(matrix, rhs, 0.1, 0.7, 0.0, 1e-30, 100)
    assert worst_row(found.x, expected) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_that_would_be_large_the_spectrum_of_a_matrix_at_hand_serves(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(stationary, "MOST_DIRECTIONS", 12)
    matrix = with_eigenvalues(torch.linspace(0.0, 1.0, 150).tolist())
    operator = with_damping(Counted(Matrix(matrix.to(dtype)).curvature, matrix.to(dtype)), 1e-2)
    rhs = torch.randn(6, 150, dtype=dtype)
    found = Lissa(maxiter=2000, scale=0.6, rtol=1e-3).solve(*operator, rhs)
    expected, counts = recursion(matrix, rhs, 1e-2, 0.6, 0.0, 1e-3, 2000)
    assert worst_row(found.x, expected) < (1e-4 if dtype == torch.float32 else 1e-10)
    assert 100 < max(counts) < 2000
    assert abs(found.info["iterations"] - max(counts)) <= (2 if dtype == torch.float32 else 0)
    assert operator.products == 1  # for the residual


def test_a_recursion_that_diverges_is_still_found_out() -> None:
    operator = Matrix(with_eigenvalues([0.1] * 50 + [3.0]), damping=0.1)
    with pytest.raises(Diverged):
        Lissa(scale=1.2).solve(*operator, torch.randn(2, 51, dtype=torch.float64))


def test_it_hears_of_a_cancellation_before_every_product() -> None:
    class Cancelled(Exception):
        pass

    operator = Matrix(decaying(100))

    def stop(_what: str, done: int, _total: int, _unit: str) -> None:
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        Lissa(scale=1.0).solve(*operator, torch.randn(2, 100, dtype=torch.float64), stop)
    assert operator.passes == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_space_is_orthonormal_and_knows_what_leads_out_of_it(dtype: torch.dtype) -> None:
    matrix = decaying(50).to(dtype)
    rhs = torch.randn(4, 50, dtype=dtype)
    rhs[1] = 2 * rhs[0]  # not of full rank
    space = BlockKrylov(Symmetric(matrix), rhs)
    rounding = 50 * torch.finfo(dtype).eps
    for _ in range(4):
        space.grow()
        basis = space.basis
        unit = torch.eye(len(basis), dtype=dtype)
        assert float((basis @ basis.T - unit).abs().max()) < rounding
        image = basis @ matrix
        assert float((image @ basis.T - space.projected).abs().max()) < rounding
        outside = image[-space.width :] - space.projected[-space.width :].to(dtype) @ basis
        found = space.leading_out(torch.eye(space.width, dtype=torch.float64))
        norms = torch.linalg.vector_norm(outside, dim=1).double()
        torch.testing.assert_close(found, norms, rtol=1e-3, atol=10 * rounding)
    assert float((rhs - (rhs @ space.basis.T) @ space.basis).norm()) < 10 * rounding
