"""What a method is said to hold of vectors as long as all parameters is what the engine holds, within a fifth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.engine.alive import Alive
from upweight.schema.inversion import METHODS, VECTORS_COMPARED
from workers import engine
from workers.engine import OutOfMemory, Over, Problem, TensorRows, make_curvature, make_loss

TOLERANCE = 0.2
CG = {"maxiter": 300, "unsolved": "keep"}
CASES: list[tuple[str, dict[str, Any], int]] = [
    ("cg", {**CG, "rtol": 1e-4}, 1),
    ("cg", {**CG, "rtol": 1e-4}, 8),
    ("cg", {**CG, "rtol": 1e-7}, 1),
    ("cg", {**CG, "rtol": 1e-7}, 4),
    ("cg", {**CG, "rtol": 1e-7, "atol": 1e-12}, 4),
    ("lissa", {"maxiter": 5, "unsolved": "keep"}, 1),
    ("lissa", {"maxiter": 5, "unsolved": "keep"}, 8),
    ("arnoldi", {}, 1),
    ("arnoldi", {"rank_estimate": 4}, 8),
]


def _perceptron() -> tuple[Problem, TensorRows]:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 10)
    )
    problem = Problem(module, make_loss("cross_entropy"))
    return problem, TensorRows(torch.randn(40, 200), torch.arange(40) % 10)


@pytest.mark.parametrize(("name", "given", "count"), CASES)
def test_a_method_holds_as_many_vectors_as_it_says(
    name: str, given: dict[str, Any], count: int
) -> None:
    problem, rows = _perceptron()
    rhs = torch.randn(count, problem.size)
    method, schema = engine.METHODS[name](**given), METHODS[name](**given)
    # Next to nothing of it is kept of rows; `arnoldi` takes as many vectors as it holds.
    budget = 80 * problem.theta.nbytes if schema.least_vectors(problem.size) else 1 << 18
    over = Over(problem, rows, budget_bytes=budget)
    with Alive() as alive:
        curvature = make_curvature(over, "gauss_newton")
        fit = method.fit(curvature, 1.0)
        method.solve(curvature, 1.0, rhs, fit=fit)
    held = alive.peak / (problem.size * rhs.itemsize) + count  # those that were given
    said = schema.vectors_held(count, single=True)
    assert abs(said / held - 1.0) <= TOLERANCE, f"{held:.1f} are held, {said:.1f} were said"


@pytest.mark.parametrize("rank", [1, 5, 10])
def test_arnoldi_takes_a_smaller_basis_where_memory_is_short(rank: int) -> None:
    problem, rows = _perceptron()
    least = METHODS["arnoldi"].model_validate({"rank_estimate": rank}).least_vectors(problem.size)
    for vectors in (least, least + 6):
        over = Over(problem, rows, budget_bytes=vectors * problem.theta.nbytes)
        with Alive() as alive:
            fit = engine.Arnoldi(rank, tol=1e-3).fit(make_curvature(over, "gauss_newton"), 1.0)
        # Before the first product, however short memory is, two ways to multiply are compared.
        compared = VECTORS_COMPARED + vectors - rank - 3
        assert alive.peak <= 1.2 * max(vectors, compared) * problem.theta.nbytes
        whole = make_curvature(Over(problem, rows), "gauss_newton")
        found = engine.Arnoldi(rank, tol=1e-3).fit(whole, 1.0)
        torch.testing.assert_close(fit.eigenvalues, found.eigenvalues, rtol=1e-2, atol=0.0)


@pytest.mark.parametrize(
    ("given", "vectors", "way_out"),
    [
        ({"rank_estimate": 10}, 33, "rank_estimate at most 9"),
        ({"rank_estimate": 10, "krylov_dimension": 60}, 72, "krylov_dimension at most 59"),
        ({"rank_estimate": 1}, 6, "choose method cg"),
    ],
)
def test_arnoldi_refuses_what_no_basis_fits_into(
    given: dict[str, Any], vectors: int, way_out: str
) -> None:
    problem, rows = _perceptron()
    assert METHODS["arnoldi"](**given).least_vectors(problem.size) == vectors + 1
    curvature = make_curvature(
        Over(problem, rows, budget_bytes=vectors * problem.theta.nbytes), "gauss_newton"
    )
    with pytest.raises(OutOfMemory, match=f"{vectors + 1} vectors .* {way_out}"):
        engine.Arnoldi(**given).fit(curvature, 1.0)
