"""The direct method is exact, reports H and its extreme eigenvalues, and refuses what is singular."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.engine.matrices import Matrix, decaying, with_damping, with_eigenvalues
from workers.engine import (
    Direct,
    Factorisation,
    Hessian,
    Problem,
    SingularHessian,
    TensorRows,
    make_loss,
)
from workers.engine.inversion.extremes import FEW


def test_it_solves_all_right_hand_sides() -> None:
    operator = Matrix(decaying(30), damping=1e-4)
    rhs = torch.randn(50, 30, dtype=torch.float64)
    solution = Direct().solve(*operator, rhs)
    torch.testing.assert_close(solution.x, operator.inverse(rhs), rtol=1e-10, atol=1e-10)
    true = torch.linalg.vector_norm(rhs - operator.matmat(solution.x), dim=1)
    assert float((solution.residual_norms - true).abs().max()) < 1e-11
    assert bool(solution.converged.all())


def test_info_has_the_hessian_without_damping_and_its_extreme_eigenvalues() -> None:
    operator = Matrix(with_eigenvalues([-0.5, 1.0, 3.0]), damping=1.0)
    info = Direct().solve(*operator, torch.ones(1, 3)).info
    assert torch.equal(info["hessian"], operator.mean)
    assert info["smallest_eigenvalue"] == pytest.approx(-0.5)
    assert info["largest_eigenvalue"] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("values", "damping"),
    [
        ([-0.5, 1.0, 3.0], 0.0),  # indefinite
        ([-0.5, 1.0, 3.0], 0.3),  # still indefinite
        ([0.0, 1.0, 3.0], 0.0),  # singular
        ([0.0, 0.0, 0.0], 0.0),  # nothing at all
        ([-0.5, 1.0, 3.0], 0.5),  # made singular by λ
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_singular_or_indefinite_hessian_names_its_eigenvalue_and_a_damping_that_works(
    values: list[float], damping: float, dtype: torch.dtype
) -> None:
    matrix = with_eigenvalues(values).to(dtype)
    with pytest.raises(SingularHessian) as caught:
        Direct().solve(*Matrix(matrix, damping), torch.ones(1, 3))
    assert caught.value.smallest_eigenvalue == pytest.approx(min(values) + damping, abs=1e-6)
    enough = caught.value.suggested_damping
    assert f"{enough:.4g}" in str(caught.value)
    operator = Matrix(matrix, enough)
    rhs = torch.ones(1, 3, dtype=dtype)
    x = Direct().solve(*operator, rhs).x
    torch.testing.assert_close(x.double(), operator.inverse(rhs), rtol=1e-2, atol=1e-6)


def spectrum(kind: str, size: int = 300) -> list[float]:
    """Those that a Hessian has: decaying, with a cluster at zero, with a few below zero."""
    values = torch.logspace(0, -6, size)
    if kind == "null space":
        values[40:] = 0.0
    if kind == "negative":
        values[-3:] = torch.tensor([-3e-3, -2e-3, -1e-3])
    if kind == "even":
        values = torch.linspace(0.01, 1.0, size)
    return (100.0 * values).tolist()


@pytest.mark.parametrize("kind", ["decaying", "null space", "negative", "even"])
@pytest.mark.parametrize("damping", [0.5, 1.0, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_eigenvalues_are_right_without_all_the_others(
    kind: str, damping: float, dtype: torch.dtype
) -> None:
    values = spectrum(kind)
    operator = Matrix(with_eigenvalues(values).to(dtype), damping)
    info = Direct("extremes").solve(*operator, torch.ones(1, 300)).info
    assert info["smallest_eigenvalue"] == pytest.approx(min(values), abs=3e-5 * max(values))
    assert info["largest_eigenvalue"] == pytest.approx(max(values), rel=3e-5)


@pytest.mark.parametrize("shift", [0.0, 1e-14])
@pytest.mark.parametrize("damping", [0.0, 0.2])
def test_a_large_matrix_is_refused_as_strictly(shift: float, damping: float) -> None:
    values = [each - damping for each in spectrum("even")]
    values[7] = -damping + shift
    with pytest.raises(SingularHessian) as caught:
        Direct("extremes").solve(*Matrix(with_eigenvalues(values), damping), torch.ones(1, 300))
    assert caught.value.smallest_eigenvalue == pytest.approx(0.0, abs=1e-12)


def test_single_precision_is_refined_to_its_last_digits() -> None:
    operator = Matrix(decaying(60, 1e-3).float())
    rhs = torch.randn(4, 60)
    exact = operator.inverse(rhs)
    error = (Direct().solve(*operator, rhs).x - exact).norm() / exact.norm()
    assert float(error) < 3e-5


def test_a_stored_factorisation_solves_without_the_data() -> None:
    operator = Matrix(decaying(20, 1e-2), damping=0.1)
    stored = {name: each.clone() for name, each in Direct().fit(*operator).tensors().items()}
    rhs = torch.randn(3, 20, dtype=torch.float64)
    solution = Factorisation.from_tensors(stored).solve(rhs)
    torch.testing.assert_close(solution.x, operator.inverse(rhs))


def test_another_damping_needs_no_pass_over_the_data() -> None:
    operator = Matrix(decaying(20, 1e-2), damping=0.1)
    fitted = Direct().fit(*operator)
    rhs = torch.randn(3, 20, dtype=torch.float64)
    exact = Matrix(operator.mean, 0.7).inverse(rhs)
    torch.testing.assert_close(fitted.damped(0.7).solve(rhs).x, exact)


@pytest.mark.parametrize(
    ("method", "size", "whole"),
    [
        (Direct(), 300, True),
        (Direct("extremes"), 300, False),
        (Direct(), FEW + 1, False),
        (Direct("all"), FEW + 1, True),
    ],
)
def test_the_whole_spectrum_is_that_of_the_exact_hessian(
    method: Direct, size: int, whole: bool
) -> None:
    matrix = with_eigenvalues(spectrum("negative", size))
    info = method.solve(*Matrix(matrix, damping=1.0), torch.ones(1, size)).info
    assert ("eigenvalues" in info) == whole
    if whole:
        expected = np.linalg.eigvalsh(matrix.numpy())
        np.testing.assert_allclose(info["eigenvalues"].numpy(), expected, rtol=1e-8, atol=1e-10)
        assert info["smallest_eigenvalue"] == pytest.approx(expected[0])


@pytest.mark.parametrize(
    "damping", [0.3000001, 0.7]
)  # the first so close that extremes would not do
def test_the_spectrum_is_kept_with_the_factorisation_whatever_the_damping(damping: float) -> None:
    matrix = with_eigenvalues([-0.3, *torch.linspace(0.1, 2.0, 299).tolist()])
    fitted = Direct("extremes").fit(*Matrix(matrix, damping=0.5)).with_all_eigenvalues()
    again = Factorisation.from_tensors(fitted.tensors()).damped(damping)
    info = again.solve(torch.ones(1, 300, dtype=torch.float64)).info
    expected = np.linalg.eigvalsh(matrix.numpy())
    np.testing.assert_allclose(info["eigenvalues"].numpy(), expected, rtol=1e-8, atol=1e-10)


def test_an_eigenvalue_within_rounding_is_not_called_negative() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 4) * torch.tensor([1.0, 1e-3, 1e3, 1.0])  # a convex problem
    problem = Problem(nn.Linear(4, 1).eval(), make_loss("mse"))
    rows = TensorRows(x, torch.randn(40, 1))
    with pytest.raises(SingularHessian, match=r"is singular .*precision 'float64' this λ may do"):
        Direct().fit(*with_damping(Hessian(problem, rows), 1e-4))
    Direct().fit(*with_damping(Hessian(problem.in_double(), rows), 1e-4))
