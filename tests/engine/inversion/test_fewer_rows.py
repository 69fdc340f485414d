"""Late products of conjugate gradients over the rows that count: what they are, and that no promise depends on them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.engine.exact import relative, worst_row
from workers.engine import ConjugateGradients, Damped, Hessian, Recycled
from workers.engine.curvature.row_sums import RowSums
from workers.engine.inversion.fewer_rows import FewerRows
from workers.engine.inversion.recycled import MOST_SOLUTIONS

from .test_gauss_newton import hessian, trained

RTOL = 1e-6


def rhs_and_solution() -> tuple[Tensor, Tensor]:
    """Right-hand sides, and what they give by the Hessian that p products make, in float64."""
    _, _, rhs = trained()
    operator = hessian()
    units = torch.eye(operator.shape[0], dtype=torch.float64)
    return rhs, torch.linalg.solve(operator.matmat(units), rhs.T).T


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The parts of the rows that products are made with, as they come."""
    found: list[float] = []
    original = Hessian.partial_matmat

    def counted(self: Hessian, indices: Tensor, vectors: Tensor) -> Tensor:
        found.append(len(indices) / self.row_count)
        return original(self, indices, vectors)

    monkeypatch.setattr(Hessian, "partial_matmat", counted)
    return found


def test_two_parts_of_the_rows_make_up_the_product() -> None:
    operator = hessian()
    vectors = torch.randn(3, operator.shape[0], dtype=torch.float64)
    picked = torch.rand(operator.row_count, generator=torch.Generator().manual_seed(0)) < 0.3
    some, others = (which.nonzero()[:, 0] for which in (picked, ~picked))
    found = operator.partial_matmat(some, vectors) + operator.partial_matmat(others, vectors)
    expected = hessian().matmat(vectors) + operator.damping * vectors
    assert relative(found, expected) < 1e-12
    assert (operator.passes, operator.products) == (2, 3)


def test_late_products_leave_rows_out_and_the_true_residual_keeps_its_bound(
    parts: list[float],
) -> None:
    rhs, expected = rhs_and_solution()
    operator = hessian()
    found = ConjugateGradients(rtol=RTOL, atol=0.0).solve(*operator, rhs)
    assert min(parts) < 0.85
    residuals = torch.linalg.vector_norm(rhs - hessian().matmat(found.x), dim=1)
    assert worst_row(hessian().matmat(found.x), rhs) <= RTOL
    torch.testing.assert_close(found.residual_norms, residuals, rtol=1e-6, atol=0.0)
    assert bool(found.converged.all())
    assert relative(found.x, expected) < 100 * RTOL  # the condition of H + λI


def test_with_the_wrong_rows_left_out_whole_products_put_it_right(
    parts: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rhs, _ = rhs_and_solution()
    original = FewerRows.of

    def reversed_order(operator: Damped, traces: Tensor | None) -> FewerRows | None:
        assert traces is not None
        turned = torch.empty_like(traces)
        turned[traces.argsort()] = traces.sort(descending=True).values
        return original(operator, turned)

    monkeypatch.setattr(FewerRows, "of", staticmethod(reversed_order))
    found = ConjugateGradients(rtol=RTOL, atol=0.0).solve(*hessian(), rhs)
    assert parts
    assert worst_row(hessian().matmat(found.x), rhs) <= RTOL
    assert bool(found.converged.all())


def test_what_is_learned_for_the_next_solution_is_learned_from_whole_products(
    parts: list[float],
) -> None:
    rhs, _ = rhs_and_solution()
    method, recycled = ConjugateGradients(rtol=RTOL, atol=0.0), Recycled()
    for lesson in range(MOST_SOLUTIONS):
        method.solve(*hessian(), rhs + lesson, recycled=recycled)
    assert not parts
    method.solve(*hessian(), rhs.flip(1), recycled=recycled)
    assert parts


def test_where_memory_ends_all_rows_are_taken_in_smaller_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operator, few = hessian(), torch.arange(5)
    vectors = torch.randn(3, operator.shape[0], dtype=torch.float64)

    def exhausted(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setattr(RowSums, "_over", exhausted)
    assert relative(operator.partial_matmat(few, vectors), hessian().matmat(vectors)) < 1e-12


def test_rows_that_all_count_alike_are_all_met(parts: list[float]) -> None:
    operator = hessian()
    vectors = torch.randn(3, operator.shape[0], dtype=torch.float64)
    fewer = FewerRows.of(operator, torch.ones(operator.row_count))
    assert fewer is not None
    found, added = fewer.matmat(vectors, 1.0, 0.0)
    assert (added, parts) == (0.0, [])
    assert relative(found, hessian().matmat(vectors)) < 1e-12
    assert FewerRows.of(operator, torch.zeros(operator.row_count)) is None
