"""Conjugate gradients keep what rtol and atol promise, each right-hand side on its own terms."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from tests.engine.exact import worst_row
from tests.engine.matrices import Matrix, decaying, with_eigenvalues
from workers.engine import (
    METHODS,
    BadParameter,
    ConjugateGradients,
    NotFinite,
    ShapeMismatch,
    Status,
)

Recurrence = Literal["shared", "separate"]
both = pytest.mark.parametrize("recurrence", ["shared", "separate"])


@both
@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-10])
def test_the_true_residual_is_within_rtol(recurrence: Recurrence, rtol: float) -> None:
    operator = Matrix(decaying(40), damping=1e-3)
    rhs = torch.randn(6, 40, dtype=torch.float64) * torch.logspace(-3, 3, 6)[:, None]
    solution = ConjugateGradients(rtol=rtol, atol=0.0, recurrence=recurrence).solve(*operator, rhs)
    true = torch.linalg.vector_norm(rhs - operator.matmat(solution.x), dim=1)
    assert bool((true <= rtol * torch.linalg.vector_norm(rhs, dim=1)).all())
    torch.testing.assert_close(solution.residual_norms, true, rtol=1e-6, atol=1e-14)
    assert bool(solution.converged.all())


@both
def test_atol_is_compared_unsquared(recurrence: Recurrence) -> None:
    operator = Matrix(decaying(40), damping=1e-2)
    rhs = torch.randn(3, 40, dtype=torch.float64)
    solution = ConjugateGradients(rtol=0.0, atol=1e-2, recurrence=recurrence).solve(*operator, rhs)
    assert bool((solution.residual_norms <= 1e-2).all())
    assert float(solution.residual_norms.max()) > 1e-6  # squared by mistake it would be far below


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_however_small_or_large_a_row_is_it_is_solved_to_the_same_relative_accuracy(
    recurrence: Recurrence, dtype: torch.dtype
) -> None:
    """In float32 the squares of what is below 1e-19 are 0, and of what is above 1e19 infinite."""
    operator = Matrix(decaying(30, 1e-2).to(dtype), damping=1e-2)
    sizes = torch.tensor([1e-30, 1e-22, 1e-9, 1e-6, 1.0, 1e22, 1e30], dtype=dtype)
    rhs = torch.randn(len(sizes), 30, dtype=dtype) * sizes[:, None]
    solution = ConjugateGradients(rtol=1e-5, recurrence=recurrence).solve(*operator, rhs)
    assert bool(solution.converged.all())
    assert worst_row(solution.x, operator.inverse(rhs)) < 1e-3


@both
def test_the_solution_for_nothing_is_nothing_whatever_the_start(recurrence: Recurrence) -> None:
    operator = Matrix(decaying(10, 1e-1))
    rhs = torch.zeros(2, 10, dtype=torch.float64)
    rhs[1] = 1.0
    start = torch.ones(2, 10, dtype=torch.float64)
    solution = ConjugateGradients(x0=start, recurrence=recurrence).solve(*operator, rhs)
    assert bool((solution.x[0] == 0).all())
    assert bool(solution.converged.all())


def test_it_keeps_conjugacy_and_so_ends_after_p_steps() -> None:
    operator = Matrix(decaying(50, 1e-3))
    rhs = torch.randn(1, 50, dtype=torch.float64)
    method = ConjugateGradients(rtol=1e-8, atol=0.0, recurrence="separate")
    solution = method.solve(*operator, rhs)
    # The textbook algorithm takes 92 on a condition of 1e3; a lost direction never gets there.
    assert int(solution.info["iterations"][0]) <= 100
    torch.testing.assert_close(solution.x, operator.inverse(rhs), rtol=1e-4, atol=1e-5)


@both
def test_right_hand_sides_beyond_p_are_solved_too(recurrence: Recurrence) -> None:
    operator = Matrix(with_eigenvalues([1.0, 2.0, 3.0, 4.0]))
    rhs = torch.randn(30, 4, dtype=torch.float64)
    solution = ConjugateGradients(rtol=1e-10, atol=0.0, recurrence=recurrence).solve(*operator, rhs)
    torch.testing.assert_close(solution.x, operator.inverse(rhs), rtol=1e-8, atol=1e-9)


def test_more_right_hand_sides_than_one_shared_space_holds() -> None:
    operator = Matrix(decaying(12, 1e-2))
    rhs = torch.randn(300, 12, dtype=torch.float64)
    solution = ConjugateGradients(rtol=1e-9, atol=0.0).solve(*operator, rhs)
    torch.testing.assert_close(solution.x, operator.inverse(rhs), rtol=1e-6, atol=1e-6)


@both
def test_a_row_does_not_depend_on_its_neighbours_beyond_the_tolerance(
    recurrence: Recurrence,
) -> None:
    operator = Matrix(decaying(30, 1e-2))
    rhs = torch.randn(5, 30, dtype=torch.float64)
    method = ConjugateGradients(rtol=1e-11, atol=0.0, recurrence=recurrence)
    together = method.solve(*operator, rhs).x
    alone = torch.cat([method.solve(*operator, row[None]).x for row in rhs])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-7)


@both
def test_a_zero_row_never_enters_a_product(recurrence: Recurrence) -> None:
    operator = Matrix(decaying(10, 1e-1))
    rhs = torch.zeros(3, 10, dtype=torch.float64)
    rhs[1] = 1.0
    solution = ConjugateGradients(recurrence=recurrence).solve(*operator, rhs)
    assert max(operator.widths) == 1
    assert solution.info["iterations"].tolist()[::2] == [0, 0]
    assert bool((solution.x[::2] == 0).all())
    assert bool(solution.converged.all())


def test_a_converged_row_leaves_the_batch() -> None:
    matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64))
    operator = Matrix(matrix)
    rhs = torch.ones(2, 5, dtype=torch.float64)
    rhs[0, 1:] = 0.0  # an eigenvector: one step
    solution = ConjugateGradients(rtol=1e-12, recurrence="separate").solve(*operator, rhs)
    assert solution.info["iterations"].tolist() == [1, 5]
    assert operator.widths == [2, 1, 1, 1, 1, 2]  # the last one recomputes the residuals


@both
def test_negative_curvature_is_reported_of_the_rows_it_concerns(recurrence: Recurrence) -> None:
    operator = Matrix(torch.diag(torch.tensor([-1.0, 1.0, 2.0, 3.0], dtype=torch.float64)))
    rhs = torch.tensor([[1.0, 0.5, 0, 0], [0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    method = ConjugateGradients(recurrence=recurrence, unsolved="keep")
    solution = method.solve(*operator, rhs)
    assert solution.status == (Status.NEGATIVE_CURVATURE, Status.CONVERGED)
    assert solution.converged.tolist() == [False, True]
    assert bool(torch.isfinite(solution.x).all())


@both
def test_running_out_of_iterations_is_reported_with_the_true_residual(
    recurrence: Recurrence,
) -> None:
    operator = Matrix(decaying(40))
    rhs = torch.randn(2, 40, dtype=torch.float64)
    solution = ConjugateGradients(maxiter=3, recurrence=recurrence).solve(*operator, rhs)
    assert solution.status == (Status.MAXITER, Status.MAXITER)
    assert solution.info["iterations"].tolist() == [3, 3]
    true = torch.linalg.vector_norm(rhs - operator.matmat(solution.x), dim=1)
    torch.testing.assert_close(solution.residual_norms, true)


@both
def test_single_precision_says_when_rounding_allows_no_more(recurrence: Recurrence) -> None:
    operator = Matrix(decaying(40, 1e-3).float())
    rhs = torch.randn(3, 40)
    solution = ConjugateGradients(rtol=1e-12, atol=0.0, recurrence=recurrence).solve(*operator, rhs)
    assert set(solution.status) == {Status.STAGNATED}
    assert float(solution.residual_norms.max()) < 1e-4 * float(rhs.norm())
    assert operator.passes < 200  # and does not run on to maxiter


@both
def test_single_precision_reaches_what_it_can(recurrence: Recurrence) -> None:
    operator = Matrix(decaying(40, 1e-2).float())
    rhs = torch.randn(3, 40)
    solution = ConjugateGradients(rtol=1e-5, atol=0.0, recurrence=recurrence).solve(*operator, rhs)
    assert bool(solution.converged.all())
    error = (solution.x - operator.inverse(rhs)).norm() / operator.inverse(rhs).norm()
    assert float(error) < 1e-4


@both
def test_x0_is_a_start_and_is_never_written_to(recurrence: Recurrence) -> None:
    operator = Matrix(decaying(20, 1e-2))
    rhs = torch.randn(2, 20, dtype=torch.float64)
    start = operator.inverse(rhs)
    before = start.clone()
    solution = ConjugateGradients(x0=start, recurrence=recurrence).solve(*operator, rhs)
    assert solution.info["iterations"].tolist() == [0, 0]
    ConjugateGradients(x0=start, recurrence=recurrence).solve(*operator, 2 * rhs)
    assert torch.equal(start, before)


def test_rhs_is_never_written_to() -> None:
    rhs = torch.randn(2, 20, dtype=torch.float64)
    before = rhs.clone()
    ConjugateGradients().solve(*Matrix(decaying(20, 1e-2)), rhs)
    assert torch.equal(rhs, before)


@both
@pytest.mark.parametrize(
    "method",
    [
        {"preconditioner": METHODS["jacobi"]()},
        {"preconditioner": METHODS["nystroem"](rank=15)},
        {"preconditioner": METHODS["nystroem"](rank=500)},
        {"preconditioner": METHODS["direct"]()},
        {"preconditioner": METHODS["arnoldi"](rank_estimate=15)},
    ],
    ids=lambda each: type(each["preconditioner"]).__name__,
)
def test_a_preconditioner_changes_the_way_and_not_the_answer(
    recurrence: Recurrence, method: dict[str, object]
) -> None:
    operator = Matrix(decaying(80), damping=1e-3)
    rhs = torch.randn(3, 80, dtype=torch.float64)
    solution = ConjugateGradients(rtol=1e-10, atol=0, recurrence=recurrence, **method).solve(  # type: ignore[arg-type]
        *operator, rhs
    )
    assert bool(solution.converged.all())
    torch.testing.assert_close(solution.x, operator.inverse(rhs), rtol=1e-6, atol=1e-6)


def test_nystroem_saves_iterations() -> None:
    operator = Matrix(decaying(80), damping=1e-3)
    rhs = torch.randn(1, 80, dtype=torch.float64)
    plain = ConjugateGradients().solve(*operator, rhs).info["iterations"][0]
    helped = ConjugateGradients(preconditioner=METHODS["nystroem"](rank=40)).solve(*operator, rhs)
    assert int(helped.info["iterations"][0]) < int(plain) / 2


def test_jacobi_removes_bad_scaling() -> None:
    scales = torch.logspace(0, 6, 60, dtype=torch.float64)
    operator = Matrix(torch.diag(scales))
    rhs = torch.randn(1, 60, dtype=torch.float64)
    solution = ConjugateGradients(preconditioner=METHODS["jacobi"]()).solve(*operator, rhs)
    assert int(solution.info["iterations"][0]) <= 2


def test_a_shared_space_needs_fewer_products() -> None:
    rhs = torch.randn(20, 100, dtype=torch.float64)
    counts = {}
    for recurrence in ("shared", "separate"):
        operator = Matrix(decaying(100), damping=1e-4)
        ConjugateGradients(recurrence=recurrence).solve(*operator, rhs)
        counts[recurrence] = sum(operator.widths)
    assert counts["shared"] < counts["separate"] / 3


def test_passes_are_reported() -> None:
    operator = Matrix(decaying(20, 1e-2))
    solution = ConjugateGradients().solve(*operator, torch.randn(2, 20, dtype=torch.float64))
    assert solution.info["passes"] == operator.passes > 0


@pytest.mark.parametrize(
    "bad",
    [
        {"rtol": -1.0},
        {"rtol": float("nan")},
        {"rtol": 0.0, "atol": 0.0},
        {"maxiter": 0},
        {"preconditioner": "ilu"},
        {"preconditioner": "nystroem"},
        {"recurrence": "none"},
    ],
)
def test_impossible_parameters_are_refused_at_construction(bad: dict[str, object]) -> None:
    with pytest.raises(BadParameter):
        ConjugateGradients(**bad)  # type: ignore[arg-type]


def test_a_preconditioner_of_no_rank_is_refused() -> None:
    with pytest.raises(BadParameter):
        METHODS["nystroem"](rank=0)


def test_a_method_that_finds_out_nothing_first_is_no_preconditioner() -> None:
    operator = Matrix(decaying(4, 0.1))
    with pytest.raises(BadParameter, match="lissa"):
        ConjugateGradients(preconditioner=METHODS["lissa"]()).solve(*operator, torch.ones(1, 4))


def test_right_hand_sides_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ShapeMismatch):
        ConjugateGradients().solve(*Matrix(decaying(4, 0.1)), torch.ones(2, 5))


def test_a_nan_in_a_right_hand_side_names_the_row() -> None:
    rhs = torch.ones(3, 4, dtype=torch.float64)
    rhs[2, 1] = float("nan")
    with pytest.raises(NotFinite) as caught:
        ConjugateGradients().solve(*Matrix(decaying(4, 0.1)), rhs)
    assert caught.value.row == 2
