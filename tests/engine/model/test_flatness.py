"""Where a loss is flat whatever the rows: what is told is so, by the dense Hessian, and nothing is told that is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn import functional as F

from workers.engine import Batch, Problem, make_loss
from workers.engine.model.flatness import Flatness, flatness

INPUTS, HIDDEN, CLASSES = 4, 5, 3
LAST_TWO = ["2.weight", "2.bias"]


class TwoHeads(nn.Module):
    """Whose second head's output is not returned."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.a, self.b = nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, 1), nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.body(x).tanh())


class Gated(nn.Module):
    """A gate that is closed at θ, and matters elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.inner = nn.Parameter(torch.zeros(1)), nn.Linear(INPUTS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :CLASSES] + self.gate * self.inner(x)


def perceptron(*more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES), *more)


SOFTMAX: dict[str, tuple[nn.Module, str, Any, Flatness]] = {
    "logits": (perceptron(), "cross_entropy", None, Flatness([], LAST_TWO, None)),
    "log-probabilities": (perceptron(nn.LogSoftmax(1)), "nll", None, Flatness([], LAST_TWO, None)),
    "half precision": (perceptron().half(), "cross_entropy", None, Flatness([], LAST_TWO, None)),
    "linear": (
        nn.Linear(INPUTS, CLASSES), "cross_entropy", None, Flatness([], ["weight", "bias"], CLASSES),
    ),
    "layer norm": (
        nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, CLASSES)),
        "mse", ["0.*"], Flatness([], ["0.weight", "0.bias"], None),
    ),
}  # fmt: skip
NOT_FLAT: dict[str, tuple[nn.Module, str, Any, Flatness]] = {
    "squares": (perceptron(), "mse", None, Flatness([], [], None)),
    "logistic": (perceptron(), "bce_with_logits", None, Flatness([], [], None)),
    "body of a classifier": (perceptron(), "cross_entropy", ["0.*"], Flatness([], [], None)),
    "head alone": (perceptron(), "mse", ["2.*"], Flatness([], [], CLASSES)),
    "linear": (nn.Linear(INPUTS, CLASSES), "mse", None, Flatness([], [], CLASSES)),
    "closed gate": (Gated(), "mse", ["inner.*", "gate"], Flatness([], [], None)),
    "saturated": (
        nn.Sequential(nn.Linear(INPUTS, CLASSES), nn.Hardtanh(1e3, 1e4)), "mse", None,
        Flatness([], [], CLASSES),
    ),
}  # fmt: skip
LOSSES = {"cross_entropy": F.cross_entropy, "nll": F.nll_loss, "mse": F.mse_loss}


def targets(loss: str, rows: int) -> Tensor:
    return (
        torch.arange(rows) % CLASSES if loss in ("cross_entropy", "nll") else torch.zeros(rows, 3)
    )


def found(module: nn.Module, loss: str, globs: Any) -> Flatness:
    x = torch.randn(6, INPUTS, generator=torch.Generator().manual_seed(0))
    problem = Problem(module.eval(), make_loss(loss), globs)
    return flatness(problem, Batch((x,), targets(loss, 6), 0))


def smallest_eigenvalue(module: nn.Module, loss: str, globs: Any) -> float:
    """Beside the largest, over many rows in float64."""
    module = module.double().eval()
    x = torch.randn(80, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    problem = Problem(module, make_loss(loss), globs)
    goals = targets(loss, 80)

    def mean(theta: Tensor) -> Tensor:
        weights = {**problem.frozen, **problem.named(theta)}
        outputs = functional_call(module, weights, (x,))
        return LOSSES[loss](outputs, goals.double() if goals.is_floating_point() else goals)

    eigenvalues = torch.linalg.eigvalsh(hessian(mean, problem.theta))
    return float(eigenvalues.abs().min() / eigenvalues.abs().max())


@pytest.mark.parametrize("case", SOFTMAX)
def test_a_loss_that_a_shift_does_not_change_is_flat_there(case: str) -> None:
    module, loss, globs, expected = SOFTMAX[case]
    assert found(module, loss, globs) == expected
    assert smallest_eigenvalue(module, loss, globs) < 1e-14


@pytest.mark.parametrize("case", NOT_FLAT)
def test_nothing_is_called_flat_that_is_not(case: str) -> None:
    assert found(*NOT_FLAT[case][:3]) == NOT_FLAT[case][3]


def test_the_head_of_a_regression_has_a_hessian_of_full_rank() -> None:
    assert smallest_eigenvalue(perceptron(), "mse", ["2.*"]) > 1e-6


def test_a_linear_model_has_no_more_rank_than_its_rows_give_it() -> None:
    module = nn.Linear(9, 2).double()
    x = torch.randn(3, 9, dtype=torch.float64)
    problem = Problem(module.eval(), make_loss("mse"))
    per_row = flatness(problem, Batch((x,), torch.zeros(3, 2), 0)).rank_per_row

    def mean(theta: Tensor) -> Tensor:
        return functional_call(module, problem.named(theta), (x,)).square().mean()

    assert per_row == 2
    assert int(torch.linalg.matrix_rank(hessian(mean, problem.theta))) <= 3 * per_row < problem.size


def test_parameters_that_no_path_leads_to_are_unused() -> None:
    x = torch.randn(6, INPUTS)
    problem = Problem(TwoHeads().eval(), make_loss("mse"))
    assert flatness(problem, Batch((x,), torch.zeros(6, 1), 0)).unused == ["b.weight", "b.bias"]
