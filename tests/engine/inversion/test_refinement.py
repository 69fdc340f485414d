"""What float32 cannot be asked for is reached with residuals in float64, or said not to be."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from tests.engine.exact import Exact
from tests.engine.matrices import Both, Matrix, Symmetric, decaying, with_damping
from tests.engine.models import make
from workers.engine import METHODS, ConjugateGradients, Hessian, Problem, Status, make_loss
from workers.engine.inversion.refinement import refine

DAMPING = 10.0  # more than the most negative eigenvalue of any of them
MODELS = ["softmax_regression", "perceptron", "convolutional", "encoder"]


class Double(Symmetric):
    """A matrix in float32 whose float64 original can be had."""

    def __init__(self, original: Tensor) -> None:
        super().__init__(original.float())
        self.original = Symmetric(original)

    def in_double(self) -> Symmetric:
        return self.original


@cache
def exact(name: str) -> tuple[Tensor, Tensor]:
    """H + λI and the right-hand sides of the case with its weights and data rounded to float32."""
    case = make(name)
    module = case.module.float().double()
    case = make(name).__class__(
        **{**vars(case), "module": module, "inputs": tuple(_rounded(each) for each in case.inputs)}
    )
    reference = Exact(case, module)
    damped = reference.hessian + DAMPING * torch.eye(len(reference.theta), dtype=torch.float64)
    return damped, reference.gradients(reference.test_rows)


def _rounded(value: Tensor) -> Tensor:
    return value.float().double() if value.is_floating_point() else value


def single(name: str) -> Both:
    case = make(name)
    problem = Problem(case.module, make_loss(case.loss), case.parameters, dtype=torch.float32)
    return with_damping(Hessian(problem, case.train), DAMPING)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rtol", [1e-7, 1e-10])
def test_single_precision_keeps_a_tolerance_beyond_its_own_rounding(name: str, rtol: float) -> None:
    damped, rhs = exact(name)
    solution = ConjugateGradients(rtol=rtol, atol=0.0).solve(*single(name), rhs.float())
    assert set(solution.status) == {Status.CONVERGED}
    assert solution.info["refined"]
    assert solution.x.dtype == torch.float64
    true = torch.linalg.vector_norm(rhs.float().double() - solution.x @ damped, dim=1)
    sizes = torch.linalg.vector_norm(rhs, dim=1)
    # The data of the engine are not rounded before they are made wider: that much room.
    assert bool((true <= 1.1 * rtol * sizes).all())
    assert bool((solution.residual_norms <= rtol * sizes).all())


def test_what_single_precision_can_tell_stays_in_it() -> None:
    solution = ConjugateGradients(rtol=1e-4, atol=0.0).solve(
        *single("perceptron"), exact("perceptron")[1].float()
    )
    assert solution.x.dtype == torch.float32
    assert not solution.info["refined"]
    assert bool(solution.converged.all())


@pytest.mark.parametrize("recurrence", ["shared", "separate"])
@pytest.mark.parametrize("preconditioner", [{}, {"preconditioner": METHODS["nystroem"](rank=20)}])
def test_every_way_of_iterating_is_refined(
    recurrence: str, preconditioner: dict[str, object]
) -> None:
    operator = Matrix(decaying(60, 1e-3), 1e-3, kind=Double)
    rhs = torch.randn(5, 60) * torch.logspace(-4, 4, 5)[:, None]
    method = ConjugateGradients(rtol=1e-11, atol=0.0, recurrence=recurrence, **preconditioner)  # type: ignore[arg-type]
    solution = method.solve(*operator, rhs)
    assert bool(solution.converged.all())
    expected = Matrix(operator.original.rows, operator.damping).inverse(rhs)
    torch.testing.assert_close(solution.x, expected, rtol=1e-7, atol=1e-9)
    # The rows with the larger tolerance did not pay for it, and a product in float64 was no habit.
    assert operator.original.passes <= 6


def test_a_zero_row_and_rows_within_atol_are_not_refined() -> None:
    operator = Matrix(decaying(30, 1e-2), 1e-2, kind=Double)
    rhs = torch.stack([torch.zeros(30), 1e-9 * torch.ones(30), torch.ones(30)])
    solution = ConjugateGradients(rtol=1e-10, atol=1e-7).solve(*operator, rhs)
    assert bool(solution.converged.all())
    assert operator.original.widths[0] == 1
    assert float(solution.x[:2].abs().max()) == 0.0


def test_a_tolerance_beyond_double_precision_is_said_to_be_missed() -> None:
    operator = Matrix(decaying(30, 1e-2), 1e-2, kind=Double)
    rhs = torch.randn(3, 30)
    solution = ConjugateGradients(rtol=1e-18, atol=0.0).solve(*operator, rhs)
    assert set(solution.status) == {Status.STAGNATED}
    assert float((solution.residual_norms / rhs.norm(dim=1)).max()) < 1e-14


def test_negative_curvature_is_still_reported() -> None:
    matrix = torch.diag(torch.tensor([-1.0, 1.0, 2.0, 3.0], dtype=torch.float64))
    rhs = torch.tensor([[1.0, 0.5, 0, 0], [0, 1.0, 1.0, 1.0]])
    method = ConjugateGradients(rtol=1e-9, unsolved="keep")
    solution = method.solve(*Matrix(matrix, 0.0, kind=Double), rhs)
    assert solution.status == (Status.NEGATIVE_CURVATURE, Status.CONVERGED)


def test_a_correction_that_makes_it_worse_is_taken_back() -> None:
    operator = Matrix(decaying(10, 0.1))
    rhs = torch.randn(2, 10, dtype=torch.float64)
    start = 0.9 * operator.inverse(rhs)
    x, norms = refine(
        operator, rhs, start, torch.full((2,), 1e-12), lambda _rows, residuals, _to: -9 * residuals
    )
    torch.testing.assert_close(x, start)
    torch.testing.assert_close(norms, torch.linalg.vector_norm(rhs - operator.matmat(x), dim=1))
