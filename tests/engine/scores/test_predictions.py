"""Losses, predictions and targets of single rows, against torch's own losses in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workers.engine import Problem, TensorRows, make_loss, row_predictions
from workers.engine.scores.predictions import Predictions

ROWS = 11


def of_rows(module: nn.Module, loss: Any, x: Tensor, y: Tensor, batch: int = 4) -> Predictions:
    problem = Problem(module.eval(), loss, dtype=torch.float64)
    found = [each for _, each in row_predictions(problem, TensorRows(x, y), batch_size=batch)]
    assert len(found) == -(-ROWS // batch)

    def joined(name: str) -> Tensor | None:
        parts = [getattr(each, name) for each in found]
        return None if parts[0] is None else torch.cat(parts)

    return Predictions(*(joined(name) for name in ("losses", "predictions", "targets", "errors")))  # type: ignore[arg-type]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(ROWS, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_of_a_classifier(x: Tensor) -> None:
    net, y = nn.Linear(3, 4), torch.arange(ROWS) % 4
    found = of_rows(net, make_loss("cross_entropy"), x, y)
    logits = net.double()(x).detach()
    assert torch.allclose(found.losses, F.cross_entropy(logits, y, reduction="none"), atol=1e-12)
    assert found.predictions is not None
    assert torch.equal(found.predictions, logits.argmax(1))
    assert found.targets is not None
    assert torch.equal(found.targets, y)
    assert found.errors is not None
    assert torch.equal(found.errors, (logits.argmax(1) != y).double())


def test_of_probabilities_as_targets(x: Tensor) -> None:
    net, y = nn.Linear(3, 4), torch.softmax(torch.randn(ROWS, 4).double() * 3, 1)
    found = of_rows(net, make_loss("cross_entropy"), x, y)
    assert found.targets is not None
    assert torch.equal(found.targets, y.argmax(1))


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).unflatten(1, (5, 2))  # (B, classes, positions)


def test_of_positions_the_share_that_is_wrong_without_those_ignored(x: Tensor) -> None:
    net, y = Positions(), torch.randint(0, 5, (ROWS, 2), generator=torch.Generator().manual_seed(1))
    y[0, 1] = y[1, 0] = y[1, 1] = -100
    found = of_rows(net, make_loss("cross_entropy"), x, y)
    assert found.predictions is None
    assert found.targets is None
    wrong = (net.double()(x).argmax(1) != y).double()
    expected = wrong.mean(1)
    expected[0], expected[1] = wrong[0, 0], 0.0
    assert found.errors is not None
    assert torch.equal(found.errors, expected)


@pytest.mark.parametrize("width", [1, 3])
def test_of_logits(x: Tensor, width: int) -> None:
    net = nn.Linear(3, width)
    y = (torch.rand(ROWS, width, generator=torch.Generator().manual_seed(2)) > 0.5).double()
    found = of_rows(net, make_loss("bce_with_logits"), x, y)
    wrong = ((net.double()(x) > 0) != (y > 0.5)).double().mean(1)
    assert found.errors is not None
    assert torch.equal(found.errors, wrong)
    assert (found.predictions is not None) == (width == 1)


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("mse", 1, lambda out: out[:, 0]),
        ("huber", 1, lambda out: out[:, 0]),
        ("poisson_nll", 1, lambda out: out[:, 0].exp()),
        ("gaussian_nll", 2, lambda out: out[:, 0]),
    ],
)
def test_of_a_regression(x: Tensor, name: str, width: int, expected: Any) -> None:
    net, y = nn.Linear(3, width), x[:, :1].abs()
    found = of_rows(net, make_loss(name), x, y)
    assert found.predictions is not None
    assert torch.allclose(found.predictions, expected(net.double()(x)), atol=1e-12)
    assert found.targets is not None
    assert torch.equal(found.targets, y[:, 0])
    assert found.errors is None


def test_of_several_outputs_the_loss_alone(x: Tensor) -> None:
    net = nn.Linear(3, 3)
    found = of_rows(net, make_loss("mse"), x, x)
    assert torch.allclose(found.losses, (net.double()(x) - x).square().mean(1), atol=1e-12)
    assert list(found.tensors()) == ["losses"]


class Squeezing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).squeeze()


def test_a_last_batch_of_one_row_of_a_model_that_squeezes_it_away(x: Tensor) -> None:
    found = of_rows(Squeezing(), make_loss("mse"), x, x[:, 0], batch=5)
    assert found.predictions is not None
    assert len(found.predictions) == len(found.losses) == ROWS
