"""Loss modules of torch.nn, given as they are: influences are those of torch's own loss, row by row."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.journeys.formulas import Formula
from upweight import Client, InvalidRequest, UpweightError

ROWS, DAMPING = 12, 1.0
CLOSE = 1e-9  # of the norm, in float64
X = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CLASSES = torch.arange(ROWS) % 3
SOME_IGNORED = torch.where(torch.arange(ROWS) % 4 == 1, 7, CLASSES)
MASKED = torch.where(torch.arange(ROWS) % 4 == 1, -100, CLASSES)
NUMBERS = torch.linspace(-4, 4, 3 * ROWS, dtype=torch.float64).reshape(ROWS, 3)
COUNTS = (torch.arange(3 * ROWS) % 4).double().reshape(ROWS, 3)
WEIGHTS = torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)
pytestmark = pytest.mark.filterwarnings("ignore")

CASES = {
    "smoothed": (nn.CrossEntropyLoss(label_smoothing=0.2), CLASSES),
    "weighted": (nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1), CLASSES),
    "ignoring": (nn.CrossEntropyLoss(ignore_index=7), SOME_IGNORED),
    "masked by torch's default": (nn.CrossEntropyLoss(), MASKED),
    "bce": (nn.BCEWithLogitsLoss(), COUNTS / 3),
    "bce with weights": (nn.BCEWithLogitsLoss(pos_weight=WEIGHTS), COUNTS / 3),
    "bce with one weight": (nn.BCEWithLogitsLoss(pos_weight=WEIGHTS[1]), COUNTS / 3),
    "bce with weights of outputs": (nn.BCEWithLogitsLoss(WEIGHTS), COUNTS / 3),
    "probabilities": (nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1), NUMBERS.softmax(1)),
    "mse": (nn.MSELoss(), NUMBERS),
    "summed": (nn.MSELoss(reduction="sum"), NUMBERS),
    "bce summed": (nn.BCEWithLogitsLoss(reduction="sum"), COUNTS / 3),
    "classes summed": (nn.CrossEntropyLoss(reduction="sum"), CLASSES),
    "huber": (nn.HuberLoss(delta=0.7), NUMBERS),
    "smooth l1": (nn.SmoothL1Loss(), NUMBERS),
    "nll": (nn.NLLLoss(WEIGHTS), CLASSES),
    "poisson": (nn.PoissonNLLLoss(full=True), COUNTS),
    "a function": (nn.functional.cross_entropy, CLASSES),
}


class Spread(nn.Module):
    """A mean and a variance."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), nn.functional.softplus(self.spread(x))


def by_row(loss: Any) -> Any:
    """Torch's loss, a row's the mean over its outputs, and of the rows the mean."""
    if not isinstance(loss, nn.Module):
        return lambda outputs, y: loss(outputs, y, reduction="none").mean()
    single = copy.deepcopy(loss)
    single.reduction = "none"
    if loss.reduction == "sum":
        return lambda outputs, y: single(outputs, y).reshape(len(y), -1).sum(1).mean()

    def mean(outputs: Any, y: Tensor) -> Tensor:
        if isinstance(outputs, tuple):
            return single(outputs[0], y, outputs[1]).reshape(len(y), -1).mean(1).mean()
        return single(outputs, y).reshape(len(y), -1).mean(1).mean()

    return mean


def distance(client: Client, name: str, formula: Formula) -> float:
    result = client.compute_influences(
        name, name, name, test_rows="0:3", hessian_regularization=DAMPING, precision="float64"
    )
    x, y = formula.x, formula.y
    exact = formula.up(formula.factors(x[:3], y[:3]), x, y).numpy()
    return float(np.linalg.norm(result.numpy() - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize("case", CASES)
def test_a_loss_module_means_what_it_means_in_torch(
    online: Client, fresh_name: str, case: str
) -> None:
    loss, y = CASES[case]
    torch.manual_seed(0)
    module: nn.Module = nn.Linear(4, 3).double()
    if isinstance(loss, nn.NLLLoss):
        module = nn.Sequential(module, nn.LogSoftmax(-1))
    online.models.register(fresh_name, module, example=X[:2], loss=loss)
    online.datasets.register(fresh_name, x=X.numpy(), y=y.numpy())
    assert distance(online, fresh_name, Formula(module, by_row(loss), X, y, DAMPING)) < CLOSE


def test_gaussian_nll_takes_the_mean_and_the_variance_that_are_named(
    online: Client, fresh_name: str
) -> None:
    torch.manual_seed(0)
    module, loss = Spread().double(), nn.GaussianNLLLoss(full=True)
    online.models.register(fresh_name, module, example=X[:2], loss=loss, output=[0, 1])
    online.datasets.register(fresh_name, x=X.numpy(), y=NUMBERS.numpy())
    assert distance(online, fresh_name, Formula(module, by_row(loss), X, NUMBERS, DAMPING)) < CLOSE


def test_targets_that_are_no_probabilities_are_refused_with_their_row(
    online: Client, fresh_name: str
) -> None:
    y = NUMBERS.softmax(1)
    y[5] *= 2
    online.models.register(
        fresh_name, nn.Linear(4, 3).double(), example=X[:2], loss="cross_entropy"
    )
    online.datasets.register(fresh_name, x=X.numpy(), y=y.numpy())
    with pytest.raises(UpweightError, match=r"row 5 .* are no probabilities.*add up to 1"):
        online.compute_influences(fresh_name, fresh_name, fresh_name)


@pytest.mark.parametrize(
    ("loss", "y", "words"),
    [
        ("cross_entropy", NUMBERS[:, :2].softmax(1), r"a probability for each output, \(3,\)"),
        ({"name": "nll"}, NUMBERS.softmax(1), "'nll' takes class indices"),
    ],
)
def test_floats_that_no_loss_of_classes_takes_are_refused(
    online: Client, fresh_name: str, loss: Any, y: Tensor, words: str
) -> None:
    online.models.register(fresh_name, nn.Linear(4, 3).double(), example=X[:2], loss=loss)
    online.datasets.register(fresh_name, x=X.numpy(), y=y.numpy())
    with pytest.raises(InvalidRequest, match=words):
        online.compute_influences(fresh_name, fresh_name, fresh_name)


def test_a_weight_of_positives_is_never_broadcast_over_the_rows(
    online: Client, fresh_name: str
) -> None:
    loss = {"name": "bce_with_logits", "pos_weight": [1.0, 2.0]}
    with pytest.raises(UpweightError, match="pos_weight"):
        online.models.register(fresh_name, nn.Linear(4, 3).double(), example=X[:2], loss=loss)
