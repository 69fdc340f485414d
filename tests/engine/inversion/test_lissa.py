"""LiSSA reaches the fixed point of its step, and says so when it cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.engine.exact import worst_row
from tests.engine.matrices import Matrix, Symmetric, decaying, with_eigenvalues
from workers.engine import BadParameter, Diverged, Lissa, SingularHessian, Status

SPECTRUM = [0.2, 0.5, 1.0, 2.0, 3.0]


def rhs_for(operator: Matrix, count: int = 3) -> torch.Tensor:
    return torch.randn(count, operator.shape[0], dtype=torch.float64)


@pytest.mark.parametrize("scale", [2.0, 10.0, "auto"])
def test_without_dampening_it_inverts_the_damped_hessian(scale: float) -> None:
    operator = Matrix(with_eigenvalues(SPECTRUM), damping=0.1)
    rhs = rhs_for(operator)
    solution = Lissa(scale=scale, rtol=1e-12, maxiter=3000).solve(*operator, rhs)
    torch.testing.assert_close(solution.x, operator.inverse(rhs), rtol=1e-8, atol=1e-9)
    assert bool(solution.converged.all())


@pytest.mark.parametrize("scale", [5.0, 20.0])
def test_dampening_is_extra_damping_of_dampen_times_scale(scale: float) -> None:
    operator = Matrix(with_eigenvalues(SPECTRUM), damping=0.1)
    rhs = rhs_for(operator)
    solution = Lissa(dampen=0.05, scale=scale, rtol=1e-12, maxiter=3000).solve(*operator, rhs)
    exact = operator.inverse(rhs, extra=0.05 * scale)
    torch.testing.assert_close(solution.x, exact, rtol=1e-8, atol=1e-9)


def test_the_scale_is_estimated_where_none_is_given() -> None:
    operator = Matrix(with_eigenvalues([200.0 * each for each in SPECTRUM]), damping=20.0)
    rhs = rhs_for(operator)
    solution = Lissa(rtol=1e-10, maxiter=3000).solve(*operator, rhs)
    torch.testing.assert_close(solution.x, operator.inverse(rhs), rtol=1e-7, atol=1e-10)
    assert 620.0 / 2 < solution.info["scale"] < 620.0


def rows_of_which_one_is_large(count: int = 40) -> torch.Tensor:
    """Rows' Hessians, all of them of one direction each, and one a hundred times as large."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    directions[7] *= 10.0
    return directions[:, :, None] * directions[:, None, :]


@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_auto_converges_where_batches_have_larger_eigenvalues_than_the_mean(
    batch_size: int,
) -> None:
    operator = Matrix(rows_of_which_one_is_large(), damping=1.0)
    rhs = rhs_for(operator)
    method = Lissa(batch_size=batch_size, maxiter=6000, rtol=1e-12)
    found = method.solve(*operator, rhs)
    exact = operator.inverse(rhs)
    assert float((found.x - exact).norm() / exact.norm()) < 0.3
    mean_top = float(torch.linalg.eigvalsh(operator.mean)[-1])
    assert found.info["scale"] > mean_top + 1.0


def test_an_estimate_that_was_too_small_is_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lissa, "_safe_scale", lambda _self, *_hessian: 0.3)
    operator = Matrix(with_eigenvalues(SPECTRUM), damping=0.1)
    rhs = rhs_for(operator)
    found = Lissa(rtol=1e-10, maxiter=3000).solve(*operator, rhs)
    assert found.info["scale"] == pytest.approx(2.4)
    torch.testing.assert_close(found.x, operator.inverse(rhs), rtol=1e-7, atol=1e-8)


def test_auto_takes_the_smallest_safe_scale() -> None:
    operator = Matrix(with_eigenvalues(SPECTRUM), damping=0.1)
    scale = Lissa(scale="auto").solve(*operator, rhs_for(operator)).info["scale"]
    assert 3.1 / 2 < scale < 1.5 * 3.1 / 2


@pytest.mark.parametrize("scale", [0.5, 1.2])
def test_too_small_a_scale_is_an_error_that_names_one_that_works(scale: float) -> None:
    operator = Matrix(with_eigenvalues(SPECTRUM), damping=0.1)
    rhs = rhs_for(operator)
    with pytest.raises(Diverged) as caught:
        Lissa(scale=scale).solve(*operator, rhs)
    assert caught.value.suggested_scale is not None
    again = Lissa(scale=caught.value.suggested_scale, rtol=1e-10).solve(*operator, rhs)
    torch.testing.assert_close(again.x, operator.inverse(rhs), rtol=1e-6, atol=1e-7)


def test_where_no_scale_converges_the_error_names_a_damping() -> None:
    operator = Matrix(with_eigenvalues([-0.5, 1.0, 3.0]))
    with pytest.raises(SingularHessian, match=r"hessian_regularization of 0\.61 would do"):
        Lissa(scale=5.0).solve(*operator, rhs_for(operator))


def test_the_residual_is_the_true_one() -> None:
    operator = Matrix(with_eigenvalues(SPECTRUM), damping=0.1)
    rhs = rhs_for(operator)
    solution = Lissa(scale=10.0, maxiter=5).solve(*operator, rhs)
    true = torch.linalg.vector_norm(rhs - operator.matmat(solution.x), dim=1)
    torch.testing.assert_close(solution.residual_norms, true)
    assert set(solution.status) == {Status.MAXITER}
    assert solution.info["iterations"] == 5


def test_dead_units_and_zero_rows_do_not_stop_it_from_stopping() -> None:
    matrix = with_eigenvalues(SPECTRUM)
    padded = torch.zeros(7, 7, dtype=torch.float64)
    padded[:5, :5] = matrix
    operator = Matrix(padded, damping=0.1)
    rhs = torch.zeros(2, 7, dtype=torch.float64)
    rhs[0, :5] = 1.0
    solution = Lissa().solve(*operator, rhs)
    assert bool(solution.converged.all())
    assert solution.info["maximum_change_percent"] <= 0.01
    assert bool((solution.x[1] == 0).all())


def test_changes_are_reported_in_per_cent() -> None:
    operator = Matrix(torch.eye(1, dtype=torch.float64))
    # One step from h = b = 1 with scale 10: h = 1 + 1 − 1/10, a change of 0.9/1.9.
    info = Lissa(scale=10.0, maxiter=1).solve(*operator, torch.ones(1, 1, dtype=torch.float64)).info
    assert info["maximum_change_percent"] == pytest.approx(100 * 0.9 / 1.9)
    assert info["mean_change_percent"] == pytest.approx(100 * 0.9 / 1.9)


def test_random_batches_are_those_of_the_seed_and_near_the_answer() -> None:
    rows = torch.stack([with_eigenvalues(SPECTRUM, seed=0) * factor for factor in (0.9, 1.0, 1.1)])
    operator = Matrix(rows, damping=0.5)
    rhs = rhs_for(operator)
    method = Lissa(batch_size=2, seed=4, maxiter=200)
    first, second = method.solve(*operator, rhs), method.solve(*operator, rhs)
    assert torch.equal(first.x, second.x)
    other = Lissa(batch_size=2, seed=5, maxiter=200).solve(*operator, rhs)
    assert not torch.equal(first.x, other.x)
    exact = operator.inverse(rhs)
    assert float((first.x - exact).norm() / exact.norm()) < 0.1


def test_h0_is_a_start_in_units_of_scale_and_is_never_written_to() -> None:
    operator = Matrix(with_eigenvalues(SPECTRUM), damping=0.1)
    rhs = rhs_for(operator)
    start = 10.0 * operator.inverse(rhs)
    before = start.clone()
    solution = Lissa(scale=10.0, h0=start, rtol=1e-9).solve(*operator, rhs)
    assert solution.info["iterations"] == 1
    assert torch.equal(start, before)


def test_single_precision_stops_too() -> None:
    operator = Matrix(decaying(30, 1e-1).float(), damping=0.1)
    rhs = torch.randn(2, 30)
    solution = Lissa(rtol=1e-4).solve(*operator, rhs)
    assert bool(solution.converged.all())


def test_going_on_at_the_rounding_of_single_precision_is_no_divergence() -> None:
    operator = Matrix(with_eigenvalues(SPECTRUM).float(), damping=0.1)
    rhs = torch.randn(8, 5)
    solution = Lissa(scale=3.2, rtol=1e-12, maxiter=2000).solve(*operator, rhs)
    torch.testing.assert_close(solution.x.double(), operator.inverse(rhs), rtol=1e-4, atol=1e-5)


class Rounding(Symmetric):
    """Products in which many sums were rounded, as those of a network over many rows."""

    def matmat(self, vectors: torch.Tensor) -> torch.Tensor:
        exact = super().matmat(vectors)
        size = torch.linalg.vector_norm(exact, dim=1, keepdim=True) / exact.shape[1] ** 0.5
        return exact + 1e-5 * size * torch.randn_like(exact)


@pytest.mark.parametrize("scale", [0.56, 1.0, 3.0, "auto"])
def test_it_stops_where_rounding_is_all_that_changes_the_solution(scale: float) -> None:
    operator = Matrix(decaying(200, 1e-2).float(), damping=0.02, kind=Rounding)
    rhs = torch.randn(4, 200)
    found = Lissa(scale=scale, h0=rhs, rtol=1e-9, maxiter=20_000).solve(*operator, rhs)
    assert set(found.status) == {Status.STAGNATED}
    assert not bool(found.converged.any())
    assert found.info["iterations"] < 4000
    # No worse than what all steps would have come to.
    assert worst_row(found.x, operator.inverse(rhs.double())) < 1e-4


def test_slow_progress_in_steps_near_rounding_is_not_taken_for_rounding() -> None:
    operator = Matrix(with_eigenvalues([1e-3, 0.5, 1.0]).float())
    rhs = torch.randn(3, 3)
    # A step changes h by 5e-6 of it, not much more than its rounding, for thousands of steps.
    found = Lissa(scale=200.0, h0=rhs, rtol=1e-12, maxiter=3000).solve(*operator, rhs)
    assert set(found.status) == {Status.MAXITER}


def test_the_noise_of_random_batches_is_not_taken_for_rounding() -> None:
    rows = torch.stack([with_eigenvalues(SPECTRUM) * (1 + each * 1e-3) for each in range(-5, 6)])
    operator = Matrix(rows.float(), damping=0.5)
    found = Lissa(batch_size=3, rtol=1e-6, maxiter=500).solve(*operator, torch.randn(2, 5))
    assert found.info["iterations"] == 500
    assert set(found.status) == {Status.MAXITER}


@pytest.mark.parametrize(
    "bad",
    [
        {"maxiter": 0},
        {"dampen": -0.1},
        {"dampen": 2.0},
        {"scale": 0.0},
        {"scale": "big"},
        {"rtol": 0.0},
        {"batch_size": 0},
    ],
)
def test_impossible_parameters_are_refused_at_construction(bad: dict[str, object]) -> None:
    with pytest.raises(BadParameter):
        Lissa(**bad)  # type: ignore[arg-type]


def test_the_course_is_the_change_of_each_solution_at_doubling_steps() -> None:
    hessian = Matrix(torch.diag(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)))
    rhs = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    method = Lissa(maxiter=40, scale=8.0, rtol=1e-12)
    expected, h = [], rhs
    for step in range(1, 41):
        following = rhs + h - hessian.matmat(h) / 8.0
        change = (following - h).norm(dim=1) / following.norm(dim=1)
        h = following
        if step in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32):
            expected.append(100.0 * change)
    for solved in (method.solve(*hessian, rhs), replace(method, h0=rhs).solve(*hessian, rhs)):
        assert torch.allclose(solved.info["course_percent"], torch.stack(expected, 1), rtol=1e-6)
