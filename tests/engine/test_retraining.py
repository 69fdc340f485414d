"""What influences are for: they predict what retraining does, with the sign and scale promised."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.engine import (
    Direct,
    Hessian,
    Problem,
    TensorRows,
    make_loss,
    perturbation,
    row_gradients,
    up,
)

from .matrices import with_damping

DAMPING = 1e-2
N, D, C = 60, 3, 3


def trained(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Softmax regression (C·D + C,) with an L2 term, to the last digit, by Newton's method."""
    theta = torch.zeros(C * D + C, dtype=torch.float64)

    def objective(theta: Tensor) -> Tensor:
        losses = F.cross_entropy(scores(theta, x), y, reduction="none")
        return (weights * losses).sum() / N + DAMPING / 2 * theta.square().sum()

    for _ in range(30):
        gradient = torch.autograd.functional.jacobian(objective, theta)
        if float(gradient.norm()) < 1e-14:
            break
        theta = theta - torch.linalg.solve(
            torch.autograd.functional.hessian(objective, theta), gradient
        )
    return theta


def scores(theta: Tensor, x: Tensor) -> Tensor:
    return x @ theta[: C * D].view(C, D).T + theta[C * D :]


@pytest.fixture
def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = torch.randn(N + 5, D, dtype=torch.float64), torch.arange(N + 5) % C
    return x[:N], y[:N], x[N:], y[N:]


def solved(data: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Problem, Tensor, TensorRows]:
    x, y, x_test, y_test = data
    theta = trained(x, y, torch.ones(N, dtype=torch.float64))
    module = nn.Linear(D, C).double().eval()
    module.load_state_dict({"weight": theta[: C * D].view(C, D), "bias": theta[C * D :]})
    problem = Problem(module, make_loss("cross_entropy"))
    rows = TensorRows(x, y)
    rhs = torch.cat([each for _, each in row_gradients(problem, TensorRows(x_test, y_test))])
    return problem, Direct().solve(*with_damping(Hessian(problem, rows), DAMPING), rhs).x, rows


def test_lowering_the_weight_of_a_row_changes_the_test_loss_as_predicted(
    data: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    x, y, x_test, y_test = data
    problem, factors, rows = solved(data)
    predicted = torch.cat([each for _, each in up(problem, factors, rows)], 1)
    step = 1e-5
    for row in (0, 11, 59):
        losses = []
        for sign in (1.0, -1.0):
            weights = torch.ones(N, dtype=torch.float64)
            weights[row] -= sign * step
            theta = trained(x, y, weights)
            losses.append(F.cross_entropy(scores(theta, x_test), y_test, reduction="none"))
        change = N * (losses[0] - losses[1]) / (2 * step)
        torch.testing.assert_close(predicted[:, row], change, rtol=1e-6, atol=1e-8)


def test_leaving_rows_out_is_predicted_to_first_order(
    data: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    x, y, x_test, y_test = data
    problem, factors, rows = solved(data)
    predicted = torch.cat([each for _, each in up(problem, factors, rows)], 1) / N
    everything = trained(x, y, torch.ones(N, dtype=torch.float64))
    before = F.cross_entropy(scores(everything, x_test), y_test, reduction="none")
    actual = torch.empty_like(predicted)
    for row in range(N):
        weights = torch.ones(N, dtype=torch.float64)
        weights[row] = 0.0
        theta = trained(x, y, weights)
        after = F.cross_entropy(scores(theta, x_test), y_test, reduction="none")
        actual[:, row] = after - before
    both = torch.stack([predicted.flatten(), actual.flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.99


def test_moving_a_feature_changes_the_test_loss_by_minus_the_perturbation_influence(
    data: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    x, y, x_test, y_test = data
    problem, factors, rows = solved(data)
    predicted = torch.cat([each for _, each in perturbation(problem, factors, rows)], 1)
    step = 1e-5
    for row, feature in ((0, 0), (11, 2), (29, 1)):
        losses = []
        for sign in (1.0, -1.0):
            moved = x.clone()
            moved[row, feature] += sign * step
            theta = trained(moved, y, torch.ones(N, dtype=torch.float64))
            losses.append(F.cross_entropy(scores(theta, x_test), y_test, reduction="none"))
        change = N * (losses[0] - losses[1]) / (2 * step)
        torch.testing.assert_close(-predicted[:, row, feature], change, rtol=1e-6, atol=1e-8)
