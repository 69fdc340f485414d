"""Negative curvature is an error of every method, which names a λ that does; or it is kept, and said of each row."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from tests.engine.exact import worst_row
from tests.engine.matrices import Matrix, with_eigenvalues
from workers import engine
from workers.engine import (
    Arnoldi,
    ConjugateGradients,
    Direct,
    Lissa,
    SingularHessian,
    Solution,
    Status,
)

Method = Direct | ConjugateGradients | Lissa | Arnoldi
METHODS: dict[str, Callable[..., Method]] = {
    "direct": Direct,
    "cg": lambda **more: ConjugateGradients(rtol=1e-5, **more),
    "cg, separate": lambda **more: ConjugateGradients(rtol=1e-5, recurrence="separate", **more),
    "cg, jacobi": lambda **more: ConjugateGradients(
        rtol=1e-5, preconditioner=engine.METHODS["jacobi"](), **more
    ),
    "lissa": lambda **more: Lissa(scale="auto", rtol=1e-6, maxiter=20_000, **more),
    "lissa, slow": lambda **more: Lissa(scale=1e4, maxiter=40, **more),  # grows by next to nothing
    "lissa, h0": lambda **more: Lissa(scale=50.0, h0=torch.ones(3, 30), rtol=1e-5, **more),
    "lissa, sampled": lambda **more: Lissa(scale=200.0, batch_size=2, maxiter=30, **more),
    "arnoldi": lambda **more: Arnoldi(30, **more),
    "arnoldi, truncated": lambda **more: Arnoldi(28, **more),
}
SPECTRA = {
    "a negative end": [-0.4, *torch.linspace(0.05, 3.0, 29).tolist()],
    "a large negative end": [-5.0, -1.0, *torch.linspace(0.05, 3.0, 28).tolist()],
    "negative definite": (-torch.linspace(0.5, 3.0, 30)).tolist(),
}
every_method = pytest.mark.parametrize("method", METHODS)
every_spectrum = pytest.mark.parametrize("spectrum", SPECTRA)
both = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def rhs(dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 30, generator=generator, dtype=torch.float64).to(dtype)


def solved(method: str, operator: Matrix, **more: object) -> Solution:
    return METHODS[method](**more).solve(*operator, rhs(operator.dtype))


def operator_of(spectrum: str, dtype: torch.dtype, damping: float) -> Matrix:
    matrix = with_eigenvalues(SPECTRA[spectrum]).to(dtype)
    return Matrix(matrix.expand(4, 30, 30), damping)  # four rows of data, all alike


@every_method
@every_spectrum
@both
def test_it_fails_with_the_smallest_eigenvalue_and_a_damping_that_does(
    method: str, spectrum: str, dtype: torch.dtype
) -> None:
    smallest = SPECTRA[spectrum][0] if spectrum != "negative definite" else -3.0
    with pytest.raises(SingularHessian, match="indefinite") as caught:
        solved(method, operator_of(spectrum, dtype, 0.1))
    error = caught.value
    assert error.smallest_eigenvalue == pytest.approx(smallest + 0.1, rel=0.05)
    named = re.search(r"a hessian_regularization of (\S+) (would|should) do", str(error))
    assert named is not None
    assert float(named[1]) < 1.5 * abs(smallest) + 0.1
    again = operator_of(spectrum, dtype, float(named[1]))
    if method == "arnoldi, truncated":
        solved(method, again)
    elif "lissa" not in method:
        assert worst_row(solved(method, again).x, again.inverse(rhs(dtype))) < 1e-3
    else:
        assert Status.NEGATIVE_CURVATURE not in solved(method, again).status


@every_method
@both
def test_a_damping_that_is_enough_is_not_an_error(method: str, dtype: torch.dtype) -> None:
    solution = solved(method, operator_of("a negative end", dtype, 0.45))
    assert Status.NEGATIVE_CURVATURE not in solution.status


@pytest.mark.parametrize("method", ["direct", "arnoldi", "arnoldi, truncated"])
@every_spectrum
@both
def test_what_is_kept_solves_the_system_where_the_method_can(
    method: str, spectrum: str, dtype: torch.dtype
) -> None:
    operator = operator_of(spectrum, dtype, 0.1)
    solution = solved(method, operator, unsolved="keep")
    assert set(solution.status) == {Status.NEGATIVE_CURVATURE}
    assert not bool(solution.converged.any())
    if method != "arnoldi, truncated":
        assert worst_row(solution.x, operator.inverse(rhs(dtype))) < 1e-3


@pytest.mark.parametrize("method", ["cg", "cg, separate", "cg, jacobi"])
@every_spectrum
def test_what_conjugate_gradients_came_to_is_kept_with_its_status(
    method: str, spectrum: str
) -> None:
    solution = solved(method, operator_of(spectrum, torch.float64, 0.1), unsolved="keep")
    assert set(solution.status) == {Status.NEGATIVE_CURVATURE}
    assert bool(torch.isfinite(solution.x).all())


def test_what_lissa_came_to_is_kept_where_it_has_not_diverged() -> None:
    operator = operator_of("a negative end", torch.float64, 0.1)
    solution = solved("lissa, slow", operator, unsolved="keep")
    assert set(solution.status) == {Status.NEGATIVE_CURVATURE}


def test_lissa_is_told_the_damping_that_its_own_dampening_leaves_wanting() -> None:
    operator = operator_of("a negative end", torch.float64, 0.1)
    assert set(
        Lissa(scale=10.0, dampen=0.05, maxiter=5000).solve(*operator, rhs(torch.float64)).status
    ) == {Status.CONVERGED}


@pytest.mark.parametrize("recurrence", ["shared", "separate"])
def test_a_system_without_a_solution_is_not_said_to_be_solved(recurrence: str) -> None:
    operator = Matrix(torch.diag(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)))
    beside = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64)
    method = ConjugateGradients(recurrence=recurrence, maxiter=50, unsolved="keep")  # type: ignore[arg-type]
    assert method.solve(*operator, beside).status[0] is not Status.CONVERGED
    null = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    with pytest.raises(SingularHessian, match="singular"):
        ConjugateGradients(recurrence=recurrence).solve(*operator, null)  # type: ignore[arg-type]


@both
def test_a_singular_system_that_has_a_solution_is_solved(dtype: torch.dtype) -> None:
    """As twin features make one: b lies in the range of H."""
    operator = Matrix(with_eigenvalues([0.0] * 10 + [0.9**each for each in range(20)]).to(dtype))
    inside = rhs(dtype) @ operator.mean
    exact = inside.double() @ torch.linalg.pinv(operator.mean.double(), rtol=1e-5)
    for recurrence in ("shared", "separate"):
        method = ConjugateGradients(rtol=1e-5, recurrence=recurrence)  # type: ignore[arg-type]
        assert worst_row(method.solve(*operator, inside).x, exact) < 1e-3
