"""Each method of inversion on each kind of curvature, on models that are not linear, against a dense solution."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from tests.curvatures import CURVATURES
from tests.curvatures import Row as Kind
from tests.engine.exact import Exact, relative
from tests.engine.models import Case, make
from tests.methods import METHODS
from tests.methods import Row as Method
from workers.engine import (
    BadParameter,
    Over,
    Problem,
    SingularHessian,
    Solution,
    Status,
    make_curvature,
    make_loss,
    row_gradients,
)
from workers.fits.fits import engine_method

SEED = 2
every_kind = pytest.mark.parametrize("kind", CURVATURES.values(), ids=lambda kind: kind.kind)
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)


def over(case: Case, dtype: torch.dtype) -> Over:
    return Over(
        Problem(case.module, make_loss(case.loss), case.parameters, dtype=dtype),
        case.train,
        seed=SEED,
        batch_size=7,
    )


@cache
def known(name: str, kind: str) -> tuple[Case, Tensor, Tensor, float]:
    """The case, the dense matrix and right-hand sides by plain torch, and a λ that leaves little room."""
    case, row = make(name), CURVATURES[kind]
    labels = over(case, torch.float64).drawn.labels if row.facts.draws_labels else None
    exact = Exact(case)
    matrix = row.matrix(exact, labels)
    smallest = float(torch.linalg.eigvalsh(matrix)[0])
    return case, matrix, exact.gradients(exact.test_rows), 0.05 + max(0.0, -1.2 * smallest)


def solved(name: str, kind: Kind, method: Method, dtype: torch.dtype) -> Solution:
    case, matrix, _, damping = known(name, kind.kind)
    given = over(case, dtype)
    rhs = torch.cat([block for _, block in row_gradients(given.problem, case.test)])
    parameters = method.full(len(matrix), dtype == torch.float64)
    inversion = engine_method(method.schema(**parameters), seed=0)
    curvature = make_curvature(given, kind.kind)
    return inversion.solve(
        curvature, damping, rhs, fit=inversion.fit(make_curvature(given, kind.kind), damping)
    )


@every_method
@every_kind
@pytest.mark.parametrize("name", ["perceptron", "convolutional"])
def test_a_solution_is_that_with_the_dense_matrix(name: str, kind: Kind, method: Method) -> None:
    _, matrix, rhs, damping = known(name, kind.kind)
    exact = torch.linalg.solve(
        matrix + damping * torch.eye(len(matrix), dtype=torch.float64), rhs.T
    ).T
    solution = solved(name, kind, method, torch.float64)
    assert relative(solution.x, exact) < 1e-7
    assert set(solution.status) == {Status.CONVERGED}
    single = solved(name, kind, method, torch.float32)
    assert relative(single.x, exact) < 1e-4


@every_kind
def test_without_damping_a_matrix_of_less_than_full_rank_is_refused(kind: Kind) -> None:
    """Softmax regression: the same can be added to all logits."""
    case, matrix, rhs, _ = known("softmax_regression", kind.kind)
    assert int(torch.linalg.matrix_rank(matrix)) < len(matrix)
    with pytest.raises(SingularHessian):
        engine_method(METHODS["direct"].schema(), 0).solve(
            make_curvature(over(case, torch.float64), kind.kind), 0.0, rhs
        )


@pytest.mark.parametrize("kind", ["gauss_newton", "fisher", "empirical_fisher"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_small_damping_suffices_where_the_hessian_needs_a_large_one(
    kind: str, dtype: torch.dtype
) -> None:
    case, hessian, rhs, _ = known("perceptron", "hessian")
    damping = 1e-3
    assert float(torch.linalg.eigvalsh(hessian)[0]) < -10 * damping
    matrix = known("perceptron", kind)[1] + damping * torch.eye(len(hessian), dtype=torch.float64)
    exact = torch.linalg.solve(matrix, rhs.T).T
    for name in ("direct", "cg"):
        method = engine_method(
            METHODS[name].schema(**METHODS[name].full(len(matrix), dtype == torch.float64)), 0
        )
        found = method.solve(make_curvature(over(case, dtype), kind), damping, rhs.to(dtype))
        assert Status.NEGATIVE_CURVATURE not in found.status
        assert relative(found.x, exact) < (1e-7 if dtype == torch.float64 else 1e-3)


def test_a_loss_without_a_distribution_has_no_fisher_matrix() -> None:
    case = make("linear_regression")
    problem = Problem(case.module, make_loss("huber"))
    with pytest.raises(BadParameter, match=r"huber is no likelihood.*empirical_fisher"):
        make_curvature(Over(problem, case.train), "fisher")
