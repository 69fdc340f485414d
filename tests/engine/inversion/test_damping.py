"""What a λ is chosen by, against matrices whose spectrum is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.engine.matrices import Symmetric, with_eigenvalues
from workers.engine import Arnoldi, ConjugateGradients, Direct, Lissa, SingularHessian
from workers.engine.inversion.damping import Measured, measured
from workers.engine.inversion.extremes import FEW
from workers.engine.inversion.jacobi import Jacobi
from workers.engine.inversion.nystroem import Nystroem
from workers.engine.operators import Curvature, Explicit

MANY = FEW + 100  # more than are diagonalised
SPREAD_OUT = torch.linspace(-0.3, 5.0, MANY, dtype=torch.float64)


def look(curvature: Curvature, *, ends: bool = True, budget: int = 1 << 28) -> Measured:
    return measured(curvature, ends=ends, seed=3, budget_bytes=budget)


@pytest.fixture(scope="module")
def large() -> Tensor:
    return with_eigenvalues(SPREAD_OUT.tolist())


def test_few_parameters_are_looked_at_exactly() -> None:
    values = [-0.5, 0.0, 0.25, 1.0, 4.0]
    found = look(Symmetric(with_eigenvalues(values)))
    assert found.is_exact
    assert found.mean == pytest.approx(4.75 / 5, rel=1e-12)
    assert found.smallest == pytest.approx(-0.5, rel=1e-12)
    assert [found.share_below(each) for each in (0.1, 0.3, 0.6, 5.0)] == pytest.approx(
        [0.2, 0.4, 0.6, 1.0]
    )


def test_many_are_estimated_within_the_error_that_is_told(large: Tensor) -> None:
    found = look(Symmetric(large))
    exact = float(SPREAD_OUT.mean())
    assert 0 < found.mean_error < 0.05 * exact
    assert abs(found.mean - exact) < 4 * found.mean_error
    assert found.smallest is not None
    assert -0.3 - 1e-9 <= found.smallest < -0.29
    assert found.smallest - found.smallest_error < -0.3 + 1e-9
    for damping in (0.5, 1.0, 3.0):
        share = float((SPREAD_OUT.abs() < damping).double().mean())
        assert found.share_below(damping) == pytest.approx(share, abs=0.1)
    assert "Hutchinson" in found.how
    assert "Lanczos" in found.how


def test_a_matrix_at_hand_gives_its_trace_without_a_pass(large: Tensor) -> None:
    curvature = Symmetric(large)
    found = look(Explicit(curvature, large))
    assert curvature.passes == 0
    assert found.mean == pytest.approx(float(SPREAD_OUT.mean()), rel=1e-12)
    assert found.mean_error == 0.0
    assert found.smallest == pytest.approx(-0.3, rel=1e-3)


def test_the_mean_alone_takes_one_product(large: Tensor) -> None:
    curvature = Symmetric(large)
    found = look(curvature, ends=False)
    assert curvature.passes == 1
    assert found.smallest is None
    assert found.share_below(1.0) is None


def test_an_invariant_space_ends_the_steps() -> None:
    found = look(Symmetric(with_eigenvalues([3.0, 2.0, 1.0] + [0.0] * (MANY - 3))))
    assert found.smallest == pytest.approx(0.0, abs=1e-10)
    assert found.nodes is not None
    assert len(found.nodes) < 20


def test_little_memory_takes_fewer_steps(large: Tensor) -> None:
    found = look(Symmetric(large), budget=4 * 20 * MANY * 8)
    assert found.nodes is not None
    assert len(found.nodes) == 20


@pytest.mark.parametrize(
    ("values", "damping", "rule"),
    [
        ([-0.5, 0.0, 1.0], 0.55, "positive"),
        ([-0.01, 1.0, 2.0], 0.1 * 2.99 / 3, "mean"),
        ([0.5, 1.0, 3.0], 0.15, "mean"),
        ([-2.0, -1.0, 0.0], 2.2, "positive"),
    ],
)
def test_auto_lifts_what_is_negative_and_takes_a_tenth_of_the_mean_at_least(
    values: list[float], damping: float, rule: str
) -> None:
    found, by = look(Symmetric(with_eigenvalues(values))).safe
    assert found == pytest.approx(damping, rel=1e-12)
    assert by == rule


def test_the_same_seed_gives_the_same_bits(large: Tensor) -> None:
    first, second = look(Symmetric(large)), look(Symmetric(large))
    assert first.mean == second.mean
    assert first.safe == second.safe


DAMPINGS = [0.3, 1e-3, 0.05, 2.0]
LISTED = {
    "direct": (Direct(), 1e-12),
    "arnoldi": (Arnoldi(rank_estimate=8), 1e-10),
    "arnoldi with complement": (Arnoldi(rank_estimate=8, complement=True), 1e-10),
    "nystroem": (Nystroem(rank=8), 1e-10),
    "nystroem of all": (Nystroem(rank=40), 1e-10),
    "cg": (ConjugateGradients(rtol=1e-11), 1e-8),
    "cg row by row": (ConjugateGradients(rtol=1e-11, recurrence="separate"), 1e-8),
    "cg with a sketch": (ConjugateGradients(rtol=1e-11, preconditioner=Nystroem(rank=8)), 1e-8),
    "cg with a factor": (ConjugateGradients(rtol=1e-11, preconditioner=Direct()), 1e-8),
    "cg with a diagonal": (ConjugateGradients(rtol=1e-11, preconditioner=Jacobi()), 1e-8),
    "lissa": (Lissa(rtol=1e-10, maxiter=200_000), 1e-6),
}


@pytest.mark.parametrize("way", LISTED)
def test_a_list_is_what_each_lambda_alone_gives(way: str) -> None:
    method, tolerance = LISTED[way]
    matrix = with_eigenvalues([4.0 / (each + 1) ** 2 for each in range(40)])
    rhs = torch.randn(5, 40, dtype=torch.float64)
    rhs[2] = 0.0
    found = method.solve_each(Symmetric(matrix), DAMPINGS, rhs)
    for damping, solution in zip(DAMPINGS, found, strict=True):
        alone = method.solve(Symmetric(matrix), damping, rhs)
        scale = float(alone.x.abs().max())
        assert float((solution.x - alone.x).abs().max()) <= tolerance * scale
        damped = matrix + damping * torch.eye(40, dtype=torch.float64)
        true = torch.linalg.vector_norm(rhs - solution.x @ damped, dim=1)
        torch.testing.assert_close(solution.residual_norms, true, rtol=1e-3, atol=1e-11)
        assert solution.status == alone.status


def test_a_list_takes_the_passes_of_one_fit() -> None:
    matrix, rhs = with_eigenvalues([1.0 / (each + 1) for each in range(40)]), torch.randn(5, 40)
    rhs = rhs.double()
    for method, passes in (
        (Direct(), 0),  # dense() of this one is no pass
        (Nystroem(rank=8), 3),  # the sketch; H U and H of what lies outside
        (Nystroem(rank=30), 2),  # the sketch; H times all solutions
    ):
        curvature = Symmetric(matrix)
        method.solve_each(curvature, DAMPINGS, rhs)
        assert curvature.passes == passes
    alone = [Symmetric(matrix) for _ in DAMPINGS]
    for curvature, damping in zip(alone, DAMPINGS, strict=True):
        Arnoldi(rank_estimate=8).solve(curvature, damping, rhs)
    listed = Symmetric(matrix)
    Arnoldi(rank_estimate=8).solve_each(listed, DAMPINGS, rhs)
    assert listed.passes == alone[0].passes


def test_warm_starts_and_what_is_recycled_save_products() -> None:
    matrix = with_eigenvalues([4.0 / (each + 1) ** 2 for each in range(300)])
    rhs = torch.randn(3, 300, dtype=torch.float64)
    dampings = [10.0**-each for each in range(1, 7)]
    method = ConjugateGradients(rtol=1e-8)
    alone = 0
    for damping in dampings:
        curvature = Symmetric(matrix)
        method.solve(curvature, damping, rhs)
        alone += sum(curvature.widths)
    listed = Symmetric(matrix)
    method.solve_each(listed, dampings, rhs)
    assert sum(listed.widths) < 0.7 * alone


def test_a_negative_lambda_in_a_list_is_named() -> None:
    matrix = with_eigenvalues([-0.5, 0.2, 1.0, 2.0])
    rhs = torch.randn(2, 4, dtype=torch.float64)
    for method in (Direct(), ConjugateGradients(), Arnoldi(rank_estimate=4), Nystroem(rank=4)):
        with pytest.raises(SingularHessian) as caught:
            method.solve_each(Symmetric(matrix), [1.0, 0.1], rhs)
        assert caught.value.damping == 0.1
