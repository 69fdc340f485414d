"""Every loss and several architectures through the whole service, held against the formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.journeys.formulas import Formula, Loss
from upweight import Client

ROWS, DAMPING = 12, 0.5

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, in its Hessian


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def classes(count: int) -> Tensor:
    return torch.arange(ROWS) % count


class TwoHeaded(nn.Module):
    """Mean and log-variance side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).tanh()


class OwnLoss(nn.Module):
    """Takes inputs and targets and returns one loss per row."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.head(x) - y).square().sum(1).log1p()


class Attention(nn.Module):
    """One encoder layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


def convolutional() -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    network.train()(torch.randn(32, 1, 6, 6, generator=torch.Generator().manual_seed(1)))
    return network


def gaussian(outputs: Tensor, targets: Tensor) -> Tensor:
    mean, log_variance = outputs.chunk(2, -1)
    return F.gaussian_nll_loss(mean, targets, log_variance.exp())


Case = tuple[Callable[[], nn.Module], Any, Loss, Tensor, Tensor]
CASES: dict[str, Case] = {
    "cross_entropy with smoothing": (
        lambda: nn.Linear(3, 4),
        {"name": "cross_entropy", "label_smoothing": 0.1},
        lambda out, y: F.cross_entropy(out, y, label_smoothing=0.1),
        normal(ROWS, 3),
        classes(4),
    ),
    "nll": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.LogSoftmax(1)),
        "nll",
        F.nll_loss,
        normal(ROWS, 3),
        classes(4),
    ),
    "bce_with_logits": (
        lambda: nn.Linear(3, 2),
        "bce_with_logits",
        F.binary_cross_entropy_with_logits,
        normal(ROWS, 3),
        torch.sigmoid(normal(ROWS, 2, seed=1)),
    ),
    "huber": (
        lambda: nn.Linear(3, 2),
        {"name": "huber", "delta": 0.7},
        lambda out, y: F.huber_loss(out, y, delta=0.7),
        normal(ROWS, 3),
        normal(ROWS, 2, seed=1),
    ),
    "poisson_nll": (
        lambda: nn.Linear(3, 2),
        "poisson_nll",
        F.poisson_nll_loss,
        normal(ROWS, 3),
        normal(ROWS, 2, seed=1).abs().round(),
    ),
    "gaussian_nll": (TwoHeaded, "gaussian_nll", gaussian, normal(ROWS, 3), normal(ROWS, 2, seed=1)),
    "convolutions with batch norm": (
        convolutional,
        "cross_entropy",
        F.cross_entropy,
        normal(ROWS, 1, 6, 6),
        classes(3),
    ),
    "attention": (Attention, "cross_entropy", F.cross_entropy, normal(ROWS, 3, 4), classes(3)),
}


def influences(client: Client, name: str, method: str) -> np.ndarray:
    result = client.compute_influences(
        name, name, name, test_rows="0:3", inversion_method=method, hessian_regularization=DAMPING,
        precision="float64",
    )  # fmt: skip
    return result.numpy()


def distance(found: np.ndarray, exact: Tensor) -> float:
    return float(np.linalg.norm(found - exact.numpy()) / np.linalg.norm(exact.numpy()))


@pytest.mark.parametrize("case", CASES)
def test_losses_and_architectures_come_out_as_the_formula_says(
    online: Client, fresh_name: str, case: str
) -> None:
    make, loss, mean_loss, x, y = CASES[case]
    torch.manual_seed(0)
    module = make().double().eval()
    online.models.register(fresh_name, module, example=x[:2], loss=loss)
    online.datasets.register(fresh_name, x=x, y=y)
    formula = Formula(module, mean_loss, x, y, DAMPING)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        exact = formula.up(formula.factors(x[:3], y[:3]), x, y)
    for method in ("direct", "cg"):
        assert distance(influences(online, fresh_name, method), exact) < 1e-6


def test_a_program_may_compute_its_own_loss(online: Client, fresh_name: str) -> None:
    torch.manual_seed(0)
    module = OwnLoss().double().eval()
    x, y = normal(ROWS, 3), normal(ROWS, 2, seed=1)
    online.models.register(fresh_name, module, example=(x[:2], y[:2]), loss="program")
    online.datasets.register(fresh_name, x=x, y=y)
    head = nn.Linear(3, 2).double()
    head.load_state_dict(module.head.state_dict())
    formula = Formula(
        head, lambda out, goal: (out - goal).square().sum(1).log1p().mean(), x, y, DAMPING
    )
    exact = formula.up(formula.factors(x[:3], y[:3]), x, y)
    assert distance(influences(online, fresh_name, "direct"), exact) < 1e-6


def test_a_factory_that_is_allowed_makes_the_model(online: Client, fresh_name: str) -> None:
    torch.manual_seed(0)
    module, x, y = nn.Linear(3, 4), normal(ROWS, 3), classes(4)
    online.models.register(
        fresh_name, factory="torch.nn:Linear", kwargs={"in_features": 3, "out_features": 4},
        weights=module.state_dict(), loss={"name": "cross_entropy", "class_weights": [1.0, 0.5, 2.0, 1.0]},
    )  # fmt: skip
    online.datasets.register(fresh_name, x=x, y=y)
    weights = torch.tensor([1.0, 0.5, 2.0, 1.0], dtype=torch.float64)

    def mean_loss(out: Tensor, goal: Tensor) -> Tensor:
        # Ours is the mean over rows of the weighted loss of each, not torch's weighted mean.
        return F.cross_entropy(out, goal, weight=weights, reduction="none").mean()

    formula = Formula(module, mean_loss, x, y, DAMPING)
    exact = formula.up(formula.factors(x[:3], y[:3]), x, y)
    assert distance(influences(online, fresh_name, "direct"), exact) < 1e-6


def test_only_some_parameters_are_taken_when_globs_say_so(online: Client, fresh_name: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double().eval()
    x, y = normal(ROWS, 3), classes(4)
    record = online.models.register(
        fresh_name, module, example=x[:2], loss="cross_entropy", parameters=["2.*"]
    )
    assert [each.name for each in record.selected] == ["2.weight", "2.bias"]
    online.datasets.register(fresh_name, x=x, y=y)
    hidden = module[1](module[0](x)).detach()
    formula = Formula(module[2], F.cross_entropy, hidden, y, DAMPING)
    exact = formula.up(formula.factors(hidden[:3], y[:3]), hidden, y)
    assert distance(influences(online, fresh_name, "direct"), exact) < 1e-6


class Sequence(nn.Module):
    """Classes last: (rows, positions, classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x).tanh())


def test_sequences_may_have_their_classes_last(online: Client, fresh_name: str) -> None:
    torch.manual_seed(0)
    module = Sequence().double().eval()
    x = torch.arange(ROWS * 5).reshape(ROWS, 5) % 6
    y = torch.arange(ROWS * 5).reshape(ROWS, 5) % 4
    loss = {"name": "cross_entropy", "class_axis": -1, "positions": "mean"}
    online.models.register(fresh_name, module, example=x[:2], loss=loss)
    online.datasets.register(fresh_name, x=x, y=y)

    def mean_loss(out: Tensor, goal: Tensor) -> Tensor:
        return F.cross_entropy(out.transpose(1, 2), goal, reduction="none").mean(1).mean()

    formula = Formula(module, mean_loss, x, y, DAMPING)
    exact = formula.up(formula.factors(x[:3], y[:3]), x, y)
    assert distance(influences(online, fresh_name, "direct"), exact) < 1e-6
