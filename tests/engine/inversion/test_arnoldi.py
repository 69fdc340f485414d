"""Arnoldi finds the eigenpairs largest in absolute value, all copies of them, and inverts those."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.engine.exact import worst_row
from tests.engine.matrices import Matrix, decaying, with_eigenvalues
from workers.engine import Arnoldi, BadParameter, LowRank, SingularHessian, Status


def projected(matrix: torch.Tensor, rank: int, damping: float, rhs: torch.Tensor) -> torch.Tensor:
    """The same low-rank inverse from a full eigendecomposition."""
    values, vectors = torch.linalg.eigh(matrix)
    top = values.abs().argsort(descending=True)[:rank]
    inside = rhs @ vectors[:, top]
    return (inside / (values[top] + damping)) @ vectors[:, top].T


@pytest.mark.parametrize("rank", [1, 5, 20, 40])
def test_it_is_the_projected_inverse(rank: int) -> None:
    matrix = decaying(40)
    rhs = torch.randn(3, 40, dtype=torch.float64)
    solution = Arnoldi(rank, tol=1e-10).solve(*Matrix(matrix, 1e-2), rhs)
    torch.testing.assert_close(solution.x, projected(matrix, rank, 1e-2, rhs), rtol=1e-6, atol=1e-6)
    assert solution.info["converged"]


def test_with_all_eigenpairs_it_is_exact() -> None:
    operator = Matrix(decaying(25), damping=1e-3)
    rhs = torch.randn(3, 25, dtype=torch.float64)
    solution = Arnoldi(25).solve(*operator, rhs)
    torch.testing.assert_close(solution.x, operator.inverse(rhs), rtol=1e-8, atol=1e-8)
    assert set(solution.status) == {Status.CONVERGED}


def test_negative_eigenvalues_count_by_their_size() -> None:
    operator = Matrix(with_eigenvalues([-3.0, 2.0, -1.0, 0.5, 0.1, 0.0, 0.01, 0.02]))
    values = Arnoldi(3, seed=1).fit(*operator).eigenvalues
    torch.testing.assert_close(values, torch.tensor([-3.0, 2.0, -1.0], dtype=torch.float64))


def test_every_copy_of_a_repeated_eigenvalue_is_found() -> None:
    # As in every linear regression with several outputs.
    spectrum = [3.0] * 4 + [2.0] * 4 + [1.0] * 4 + torch.linspace(0, 0.5, 150).tolist()
    fitted = Arnoldi(10, krylov_dimension=24).fit(*Matrix(with_eigenvalues(spectrum)))
    expected = torch.tensor([3.0] * 4 + [2.0] * 4 + [1.0] * 2, dtype=torch.float64)
    torch.testing.assert_close(fitted.eigenvalues, expected, rtol=1e-9, atol=1e-9)


def test_restarts_reach_the_tolerance_from_a_small_basis() -> None:
    matrix = decaying(300, 1e-3)
    fitted = Arnoldi(10, tol=1e-8, krylov_dimension=25).fit(*Matrix(matrix))
    exact = torch.linalg.eigvalsh(matrix).flip(0)[:10]
    assert fitted.converged
    torch.testing.assert_close(fitted.eigenvalues, exact, rtol=1e-10, atol=1e-12)
    assert bool((fitted.residuals <= 1e-7 * exact).all())
    turned = fitted.eigenvectors.T @ fitted.eigenvectors
    torch.testing.assert_close(turned, torch.eye(10, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_residuals_are_the_true_ones() -> None:
    matrix = decaying(60, 1e-3)
    fitted = Arnoldi(5, tol=1e-3).fit(*Matrix(matrix, damping=0.3))
    true = matrix @ fitted.eigenvectors - fitted.eigenvectors * fitted.eigenvalues
    torch.testing.assert_close(
        fitted.residuals, torch.linalg.vector_norm(true, dim=0), rtol=1e-3, atol=1e-13
    )


def test_what_lies_outside_is_dropped_or_divided_by_the_damping() -> None:
    matrix = torch.diag(torch.tensor([4.0, 3.0, 0.0, 0.0], dtype=torch.float64))
    rhs = torch.ones(1, 4, dtype=torch.float64)
    dropped = Arnoldi(2).solve(*Matrix(matrix, 0.5), rhs)
    expected = torch.tensor([[1 / 4.5, 1 / 3.5, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(dropped.x, expected)
    assert dropped.status == (Status.TRUNCATED,)
    assert float(dropped.residual_norms[0]) == pytest.approx(2**0.5)
    complete = Arnoldi(2, complement=True).solve(*Matrix(matrix, 0.5), rhs)
    expected[0, 2:] = 2.0
    torch.testing.assert_close(complete.x, expected)
    assert complete.status == (Status.CONVERGED,)


def test_a_shifted_eigenvalue_at_zero_is_dropped_and_named() -> None:
    operator = Matrix(with_eigenvalues([3.0, -1.0, 0.2, 0.1]), damping=1.0)
    rhs = torch.randn(2, 4, dtype=torch.float64)
    with pytest.raises(SingularHessian, match=r"a hessian_regularization of 1\.3 would do"):
        Arnoldi(3).solve(*operator, rhs)
    solution = Arnoldi(3, unsolved="keep").solve(*operator, rhs)
    torch.testing.assert_close(solution.info["dropped"], torch.tensor([-1.0], dtype=torch.float64))
    assert float(solution.x.abs().max()) < 100


def test_stored_eigenpairs_solve_without_the_data() -> None:
    operator = Matrix(decaying(30), damping=1e-2)
    rhs = torch.randn(3, 30, dtype=torch.float64)
    fitted = Arnoldi(6).fit(*operator)
    stored = {name: each.clone() for name, each in fitted.tensors().items()}
    again = LowRank.from_tensors(stored).solve(rhs)
    assert torch.equal(again.x, fitted.solve(rhs).x)
    assert bool(torch.isnan(again.residual_norms).all())  # not measured: there is no operator


def test_single_precision_converges_at_its_own_rounding() -> None:
    operator = Matrix(decaying(200, 1e-3).float())
    fitted = Arnoldi(20).fit(*operator)
    exact = torch.linalg.eigvalsh(operator.mean.double()).flip(0)[:20]
    assert fitted.converged
    assert float((fitted.eigenvalues.double() - exact).abs().max()) < 2e-6
    assert operator.passes < 600


def test_single_precision_tells_close_eigenvalues_far_below_the_largest_apart() -> None:
    """As a convolutional model has them; rounded as the largest is, neighbours get mixed."""
    around = torch.linspace(0.0889, 0.0901, 13, dtype=torch.float64).tolist()
    below = torch.linspace(0.0, 0.08, 230, dtype=torch.float64).tolist()
    # Products round what is small as something small only where the large ones leave it alone.
    large, small = with_eigenvalues([10.5, 8.5, 6.3, 4.2]), with_eigenvalues([*around, *below])
    rounded, rank = torch.block_diag(large, small).float(), 11
    rhs = torch.randn(8, len(rounded), generator=torch.Generator().manual_seed(0))
    found = Arnoldi(rank).solve(*Matrix(rounded, 0.3), rhs).x.double()
    exact = projected(rounded.double(), rank, 0.3, rhs.double())
    assert float((found - exact).norm() / exact.norm()) < 2e-5


def test_a_hessian_of_nothing_but_zeros_is_no_catastrophe() -> None:
    operator = Matrix(torch.zeros(8, 8, dtype=torch.float64), damping=0.5)
    solution = Arnoldi(2).solve(*operator, torch.ones(1, 8, dtype=torch.float64))
    assert bool(torch.isfinite(solution.x).all())


@pytest.mark.parametrize(
    "bad", [{"rank_estimate": 0}, {"tol": 0.0}, {"rank_estimate": 5, "krylov_dimension": 5}]
)
def test_impossible_parameters_are_refused_at_construction(bad: dict[str, object]) -> None:
    with pytest.raises(BadParameter):
        Arnoldi(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("damping", [1e-3, 1.0, 1e3, 1e5])
@pytest.mark.parametrize(("size", "nonzero"), [(2, 1), (8, 4), (14, 7), (14, 1), (40, 20), (60, 3)])
def test_with_all_eigenpairs_it_is_exact_whatever_the_rank_of_the_hessian(
    size: int, nonzero: int, damping: float, dtype: torch.dtype
) -> None:
    """Softmax with two classes has half rank: the Krylov space is exhausted before it is full."""
    spectrum = [0.8**each for each in range(nonzero)] + [0.0] * (size - nonzero)
    operator = Matrix(with_eigenvalues(spectrum).to(dtype), damping)
    rhs = torch.randn(3, size, dtype=dtype)
    solution = Arnoldi(size).solve(*operator, rhs)
    rounding = 20 * size * torch.finfo(dtype).eps * (1 + 1 / damping)
    assert worst_row(solution.x, operator.inverse(rhs)) < rounding
    assert solution.info["converged"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [7, 10, 13])
def test_eigenpairs_that_are_zero_leave_those_that_are_not_as_they_are(
    rank: int, dtype: torch.dtype
) -> None:
    turn, damping = with_eigenvalues([0.8**each for each in range(7)] + [0.0] * 7), 0.1
    operator = Matrix(turn.to(dtype), damping)
    rhs = torch.randn(3, 14, dtype=dtype) @ operator.mean  # in the range of H
    solution = Arnoldi(rank).solve(*operator, rhs)
    bound = 1e4 * torch.finfo(dtype).eps
    assert worst_row(solution.x, operator.inverse(rhs)) < bound


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("rank", [1, 5, 12])
def test_a_hessian_of_fewer_training_rows_than_a_block_has_vectors(
    diagonal: bool, rank: int
) -> None:
    spectrum = [3.0, 2.0] + [0.0] * 98
    matrix = torch.diag(torch.tensor(spectrum).double()) if diagonal else with_eigenvalues(spectrum)
    fitted = Arnoldi(rank).fit(*Matrix(matrix))
    expected = torch.tensor([3.0, 2.0] + [0.0] * 98, dtype=torch.float64)[:rank]
    torch.testing.assert_close(fitted.eigenvalues, expected, rtol=1e-12, atol=1e-12)
    turned = fitted.eigenvectors.T @ fitted.eigenvectors
    torch.testing.assert_close(turned, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-12)
    assert fitted.converged


@pytest.mark.parametrize("damping", [1e-2, 1e1, 1e3, 1e5])
def test_eigenpairs_have_no_rounding_of_the_damping_in_them(damping: float) -> None:
    """They are kept for jobs with other dampings."""
    matrix = decaying(55, 1e-3).float()
    fitted = replace(Arnoldi(20).fit(*Matrix(matrix, damping)), damping=1e-2)
    rhs = torch.randn(4, 55)
    exact = projected(matrix.double(), 20, 1e-2, rhs.double())
    assert worst_row(fitted.solve(rhs).x, exact) < 1e-4


def test_of_more_eigenpairs_than_there_are_parameters_all_are_taken_and_it_says_so() -> None:
    operator = Matrix(decaying(4, 0.1), damping=1e-2)
    rhs = torch.randn(3, 4, dtype=torch.float64)
    solution = Arnoldi(10).solve(*operator, rhs)
    torch.testing.assert_close(solution.x, operator.inverse(rhs))
    assert solution.info["rank"] == 4
    assert solution.info["note"] == (
        "rank_estimate 10 is more than the 4 parameters: all 4 eigenpairs were taken"
    )
    assert "note" not in Arnoldi(4).solve(*operator, rhs).info


def test_complement_without_damping_is_refused() -> None:
    with pytest.raises(BadParameter, match="positive with complement"):
        Arnoldi(2, complement=True).fit(*Matrix(decaying(4, 0.1)))


def test_a_regularisation_below_rounding_is_no_solved_system() -> None:
    values = torch.tensor([3e8, 2e8, 1.0])
    found = LowRank(values, torch.eye(3), torch.zeros(3), 1.0, False, True)
    operator = Matrix(torch.diag(values), damping=1.0)
    solution = found.solve(torch.tensor([[1e8, 1e8, 1.0]]), operator=operator)
    assert solution.status == (Status.TRUNCATED,)
    assert solution.info["dropped_count"] == 1
    assert not solution.info["converged"]


@pytest.mark.parametrize("damping", [0.1, 0.5])
def test_negative_curvature_met_beside_the_pairs_is_an_error_unless_lambda_lifts_it(
    damping: float,
) -> None:
    found = LowRank(torch.ones(1), torch.eye(3)[:, :1], None, damping, True, None, lowest=-0.3)
    if damping < 0.3:
        with pytest.raises(SingularHessian, match="at most"):
            found.solve(torch.ones(1, 3))
        kept = replace(found, unsolved="keep").solve(torch.ones(1, 3))
        assert kept.status == (Status.NEGATIVE_CURVATURE,)
    else:
        assert found.solve(torch.ones(1, 3)).status == (Status.TRUNCATED,)
