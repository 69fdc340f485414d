"""Where H is cheaper than the products it saves, solvers multiply with H, and find the same."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from tests.engine.exact import worst_row
from tests.engine.matrices import Both, with_damping
from workers.engine import (
    Arnoldi,
    ConjugateGradients,
    Hessian,
    Lissa,
    Problem,
    TensorRows,
    make_loss,
)
from workers.engine.inversion.lissa import STEPS_OF_ENDS
from workers.engine.operators import Explicit, explicit_where_cheaper

METHODS = [
    ConjugateGradients(rtol=1e-5, atol=1e-30),
    ConjugateGradients(rtol=1e-5, atol=1e-30, recurrence="separate"),
    Lissa(maxiter=100, scale="auto", rtol=1e-5),
    Arnoldi(20, complement=True),
]


@cache
def parts() -> tuple[nn.Module, TensorRows, Tensor]:
    """354 parameters, 900 rows."""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(20, 14), nn.Tanh(), nn.Linear(14, 4)).double().eval()
    rows = TensorRows(torch.randn(900, 20).double(), torch.arange(900) % 4)
    return module, rows, torch.randn(60, 354, dtype=torch.float64)


def hessian(dtype: torch.dtype = torch.float64, product: str | None = None) -> Both:
    module, rows, _ = parts()
    problem = Problem(module, make_loss("cross_entropy"), dtype=dtype)
    return with_damping(Hessian(problem, rows, product=product), 0.3)


@pytest.mark.parametrize("method", METHODS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_answer_that_products_give(
    method: ConjugateGradients | Lissa | Arnoldi, dtype: torch.dtype
) -> None:
    operator, rhs = hessian(dtype), parts()[2]
    found = method.solve(*operator, rhs)
    # Each right-hand side's true residual, judged by products in float64.
    by_products = hessian(product="reverse_batched")
    residual = rhs - by_products.matmat(found.x.double())
    expected = method.solve(*by_products, rhs)
    assert operator.products <= 60 < by_products.products
    assert worst_row(found.x, expected.x) < 1e-4
    norms = torch.linalg.vector_norm(residual, dim=1)
    near = 1e-6 * torch.linalg.vector_norm(rhs, dim=1)
    assert bool(((found.residual_norms.double() - norms).abs() < near).all())


def test_the_matrix_is_built_once() -> None:
    operator, rhs = hessian(), parts()[2]
    for _ in range(3):
        METHODS[0].solve(*operator, rhs)
    assert operator.passes == 1


def test_it_multiplies_as_the_operator_does() -> None:
    operator, vector = hessian(), parts()[2][:1]
    found = explicit_where_cheaper(operator.curvature, 10_000, 60)
    assert isinstance(found, Explicit)
    explicit = with_damping(found, operator.damping)
    torch.testing.assert_close(explicit.matmat(vector), operator.matmat(vector))
    picked = torch.arange(50)
    torch.testing.assert_close(
        explicit.sampled_matmat(picked, vector), operator.sampled_matmat(picked, vector)
    )


def test_a_few_products_build_nothing() -> None:
    operator = hessian()
    assert explicit_where_cheaper(operator.curvature, 2, 1) is operator.curvature
    assert operator.passes == 0


def test_a_matrix_beyond_the_budget_is_not_built() -> None:
    module, rows, _ = parts()
    operator = Hessian(Problem(module, make_loss("cross_entropy")), rows, budget_bytes=1_000_000)
    assert explicit_where_cheaper(operator, 100_000, 60) is operator


def test_random_batches_need_no_matrix() -> None:
    operator, rhs = hessian(), parts()[2]
    Lissa(maxiter=3, batch_size=100, scale=50.0).solve(*operator, rhs)
    # The true residual, and one product with one vector for each Lanczos step that looks for negative curvature.
    assert operator.passes == 1 + STEPS_OF_ENDS
    assert operator.products == 4 * 60 + STEPS_OF_ENDS
