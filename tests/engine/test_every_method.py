"""Each method, of each influence type, on each kind of model: compared with plain autograd in float64."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workers.engine import (
    Arnoldi,
    ConjugateGradients,
    Direct,
    Hessian,
    Lissa,
    Problem,
    Solution,
    make_loss,
    perturbation,
    row_gradients,
    up,
)

from .exact import Exact, relative
from .matrices import Matrix, decaying, with_damping
from .models import Case, make

MODELS = ["linear_regression", "softmax_regression", "perceptron", "convolutional", "encoder"]
RTOL = 1e-10
DAMPEN, SCALE = 0.02, 20.0

every_model = pytest.mark.parametrize("name", MODELS)


@cache
def known(name: str) -> tuple[Case, Exact, Tensor, Tensor, float]:
    """Case, reference, eigenvalues and eigenvectors of H, and a λ that leaves H + λI little room."""
    case = make(name)
    exact = Exact(case)
    values, vectors = torch.linalg.eigh(exact.hessian)
    return case, exact, values, vectors, 0.2 + max(0.0, -1.1 * float(values[0]))


def solved(name: str, method: Direct | ConjugateGradients | Lissa | Arnoldi) -> Solution:
    case, _, _, _, damping = known(name)
    problem = problem_of(case)
    rhs = torch.cat([each for _, each in row_gradients(problem, case.test, batch_size=2)])
    return method.solve(*with_damping(Hessian(problem, case.train, batch_size=4), damping), rhs)


def problem_of(case: Case) -> Problem:
    return Problem(case.module, make_loss(case.loss), case.parameters)


def agree(name: str, solution: Solution, factors: Tensor, bound: float) -> None:
    """The factors, and both types of influence that come of them."""
    case, exact, _, _, _ = known(name)
    problem = problem_of(case)
    assert relative(solution.x, factors) < bound
    weighted = torch.cat([each for _, each in up(problem, solution.x, case.train)], 1)
    assert relative(weighted, factors @ exact.gradients(exact.train_rows).T) < bound
    moved = torch.cat([each for _, each in perturbation(problem, solution.x, case.train)], 1)
    assert relative(moved, exact.perturbation(factors)) < bound


@every_model
def test_direct_is_exact(name: str) -> None:
    _, exact, values, _, damping = known(name)
    solution = solved(name, Direct())
    agree(name, solution, exact.factors(damping), 1e-8)
    assert relative(solution.info["hessian"], exact.hessian) < 1e-11
    assert solution.info["smallest_eigenvalue"] == pytest.approx(float(values[0]), abs=1e-10)


@every_model
@pytest.mark.parametrize("recurrence", ["shared", "separate"])
def test_conjugate_gradients_keep_their_tolerance(name: str, recurrence: str) -> None:
    _, exact, values, _, damping = known(name)
    solution = solved(name, ConjugateGradients(rtol=RTOL, atol=0.0, recurrence=recurrence))  # type: ignore[arg-type]
    rhs = exact.gradients(exact.test_rows)
    residual = rhs - solution.x @ exact.hessian - damping * solution.x
    sizes = torch.linalg.vector_norm(rhs, dim=1)
    assert bool((torch.linalg.vector_norm(residual, dim=1) <= 1.01 * RTOL * sizes).all())
    condition = float((values[-1] + damping) / (values[0] + damping))
    agree(name, solution, exact.factors(damping), 100 * condition * RTOL)


@every_model
def test_lissa_is_at_its_fixed_point(name: str) -> None:
    _, exact, _, _, damping = known(name)
    agree(name, solved(name, Lissa(scale="auto", rtol=1e-11)), exact.factors(damping), 1e-8)
    dampened = solved(name, Lissa(scale=SCALE, dampen=DAMPEN, rtol=1e-11, maxiter=5000))
    agree(name, dampened, exact.factors(damping + DAMPEN * SCALE), 1e-8)


@every_model
def test_arnoldi_is_the_projected_inverse_and_exact_with_all_eigenpairs(name: str) -> None:
    _, exact, values, vectors, damping = known(name)
    rhs = exact.gradients(exact.test_rows)
    order = values.abs().argsort(descending=True)
    sizes = values.abs()[order]
    # Cut where it is plain which eigenvalues are the largest.
    low, high = 3, len(sizes) // 2
    rank = low + int((sizes[low - 1 : high - 1] / sizes[low:high]).argmax())
    top = order[:rank]
    inverse = vectors[:, top] / (values[top] + damping) @ vectors[:, top].T
    solution = solved(name, Arnoldi(rank, tol=1e-11))
    agree(name, solution, rhs @ inverse, 1e-8)
    torch.testing.assert_close(solution.info["eigenvalues"], values[top], rtol=1e-9, atol=1e-10)
    agree(name, solved(name, Arnoldi(len(values))), exact.factors(damping), 1e-8)
    complete = solved(name, Arnoldi(rank, tol=1e-11, complement=True))
    outside = rhs - rhs @ vectors[:, top] @ vectors[:, top].T
    agree(name, complete, rhs @ inverse + outside / damping, 1e-8)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), first=st.floats(-10, 10), second=st.floats(-10, 10))
@pytest.mark.parametrize(
    "method",
    [
        Direct(),
        ConjugateGradients(rtol=1e-11, atol=0.0),
        Lissa(maxiter=60, scale=0.7, rtol=1e-30),
        Arnoldi(8, tol=1e-11, complement=True),
    ],
    ids=lambda each: type(each).__name__,
)
def test_solutions_are_linear_and_no_neighbour_changes_one(
    method: Direct | ConjugateGradients | Lissa | Arnoldi, seed: int, first: float, second: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rhs = torch.randn(2, 30, generator=generator, dtype=torch.float64)
    both = (first * rhs[0] + second * rhs[1])[None]

    def solve(given: Tensor) -> Tensor:
        return method.solve(*Matrix(decaying(30, 1e-2), damping=0.05), given).x

    apart = torch.cat([solve(rhs[:1]), solve(rhs[1:])])
    scale = float(apart.abs().max()) * (1 + abs(first) + abs(second))
    assert float((solve(torch.cat([rhs, both]))[:2] - apart).abs().max()) < 1e-8 * scale
    assert float((solve(both)[0] - first * apart[0] - second * apart[1]).abs().max()) < 1e-8 * scale
