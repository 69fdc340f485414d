"""Losses are torch's, a number a row, never broadcast, and exact on confident points."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.engine.exact import worst_row
from workers.engine import (
    BadParameter,
    Batch,
    Hessian,
    Problem,
    ShapeMismatch,
    TensorRows,
    check_problem,
    make_loss,
    per_example_gradients,
)

LOGITS = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
CLASSES = torch.tensor([0, 1, 2, 3, 0, -100, 2])
WEIGHT = (0.5, 1.0, 2.0, 0.1)
REAL = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(
    ("name", "parameters", "targets", "torch_loss"),
    [
        ("cross_entropy", {}, CLASSES, lambda o, t: F.cross_entropy(o, t, reduction="none")),
        (
            "cross_entropy",
            {"label_smoothing": 0.2},
            CLASSES,
            lambda o, t: F.cross_entropy(o, t, reduction="none", label_smoothing=0.2),
        ),
        (
            "cross_entropy",
            {"weight": WEIGHT, "label_smoothing": 0.3},
            CLASSES,
            lambda o, t: F.cross_entropy(
                o, t, torch.tensor(WEIGHT).double(), reduction="none", label_smoothing=0.3
            ),
        ),
        (
            "cross_entropy",
            {"ignore_index": 2},
            CLASSES.clamp(min=0),
            lambda o, t: F.cross_entropy(o, t, reduction="none", ignore_index=2),
        ),
        (
            "cross_entropy",
            {"label_smoothing": 0.1},
            REAL.softmax(1),
            lambda o, t: F.cross_entropy(o, t, reduction="none", label_smoothing=0.1),
        ),
        (
            "nll",
            {"weight": WEIGHT},
            CLASSES,
            lambda o, t: F.nll_loss(o, t, torch.tensor(WEIGHT).double(), reduction="none"),
        ),
        (
            "bce_with_logits",
            {"pos_weight": (1.0, 2.0, 3.0, 4.0)},
            REAL.sigmoid(),
            lambda o, t: F.binary_cross_entropy_with_logits(
                o, t, reduction="none", pos_weight=torch.tensor([1.0, 2, 3, 4]).double()
            ).mean(1),
        ),
        ("mse", {}, REAL, lambda o, t: F.mse_loss(o, t, reduction="none").mean(1)),
        ("mse", {"reduction": "sum"}, REAL, lambda o, t: (o - t).square().sum(1)),
        (
            "huber",
            {"delta": 0.7},
            REAL,
            lambda o, t: F.huber_loss(o, t, reduction="none", delta=0.7).mean(1),
        ),
        (
            "poisson_nll",
            {"full": True},
            REAL.abs() * 3,
            lambda o, t: F.poisson_nll_loss(o, t, full=True, reduction="none").mean(1),
        ),
    ],
)
def test_values_and_gradients_are_those_of_torch(
    name: str,
    parameters: dict[str, object],
    targets: Tensor,
    torch_loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    loss = make_loss(name, **parameters)
    ours, theirs = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    found, expected = loss(ours, targets), torch_loss(theirs, targets)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_gaussian_nll_takes_mean_and_log_variance_from_one_tensor() -> None:
    variance = LOGITS.square() + 0.5
    loss = make_loss("gaussian_nll")
    pair = loss((LOGITS, variance), REAL)
    assert torch.allclose(loss(torch.cat([LOGITS, variance.log()], 1), REAL), pair)
    one = torch.stack([LOGITS[:, 0], variance[:, 0].log()], 1)
    assert torch.allclose(
        loss(one, REAL[:, 0]), loss((LOGITS[:, :1], variance[:, :1]), REAL[:, :1])
    )
    with pytest.raises(ShapeMismatch, match="even"):
        loss(LOGITS[:, :3], REAL)


def test_gaussian_nll_takes_mean_and_variance_from_the_model() -> None:
    variance = REAL.exp()
    found = make_loss("gaussian_nll", full=True)((LOGITS, variance), REAL)
    expected = F.gaussian_nll_loss(LOGITS, REAL, variance, full=True, reduction="none").mean(1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_sequence_is_one_row_and_its_positions_are_reduced(reduction: str) -> None:
    scores, classes = torch.randn(3, 5, 6), torch.randint(5, (3, 6))
    classes[0, 2:] = -100
    classes[1] = -100
    found = make_loss("cross_entropy", reduction=reduction)(scores, classes)
    every = F.cross_entropy(scores, classes, reduction="none")
    kept = (classes != -100).sum(1).clamp(min=1) if reduction == "mean" else 1
    torch.testing.assert_close(found, every.sum(1) / kept)
    last = make_loss("cross_entropy", reduction=reduction, class_axis=-1)
    torch.testing.assert_close(last(scores.movedim(1, -1), classes), found)


@pytest.mark.parametrize("name", ["mse", "huber", "bce_with_logits", "poisson_nll"])
def test_targets_n_against_outputs_n_1_are_an_error(name: str) -> None:
    with pytest.raises(ShapeMismatch, match="never broadcast"):
        make_loss(name)(torch.randn(6, 1), torch.rand(6))


def test_classes_of_the_wrong_shape_are_an_error() -> None:
    with pytest.raises(ShapeMismatch):
        make_loss("cross_entropy")(torch.randn(6, 3), torch.zeros(6, 1, dtype=torch.int64))


def test_classes_out_of_range_are_found_before_they_are_used() -> None:
    with pytest.raises(BadParameter, match="from 0 to 2"):
        make_loss("cross_entropy").check(torch.randn(2, 3), torch.tensor([0, 3]))


def test_l1_is_refused_because_it_has_no_second_derivative() -> None:
    with pytest.raises(BadParameter, match="second derivative"):
        make_loss("l1")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("hinge", {}),
        ("mse", {"delta": 1.0}),
        ("mse", {"reduction": "none"}),
        ("huber", {"delta": 0.0}),
        ("cross_entropy", {"label_smoothing": 1.0}),
    ],
)
def test_unknown_losses_and_parameters_are_refused(
    name: str, parameters: dict[str, object]
) -> None:
    with pytest.raises(BadParameter):
        make_loss(name, **parameters)


def confident_classifier() -> tuple[nn.Module, Tensor, Tensor]:
    """Points classified with margins up to 30: 1 − p from 1e-1 to 1e-13."""
    module = nn.Linear(3, 3).double().eval()
    with torch.no_grad():
        module.weight.copy_(torch.eye(3) * 1.0)
        module.bias.zero_()
    classes = torch.arange(24) % 3
    inputs = torch.eye(3, dtype=torch.float64)[classes] * torch.linspace(2, 30, 24)[:, None]
    return module, inputs + 0.1 * torch.randn(24, 3, dtype=torch.float64), classes


def test_no_row_loses_its_digits_in_single_precision() -> None:
    module, inputs, classes = confident_classifier()
    batch = Batch((inputs,), classes, 0)
    # The inputs rounded to float32 first: the formula is judged, not the data's rounding.
    batch = Batch((inputs.float().double(),), classes, 0)
    exact = per_example_gradients(Problem(module, make_loss("cross_entropy")), batch)
    single = per_example_gradients(
        Problem(module, make_loss("cross_entropy"), dtype=torch.float32), batch
    )
    assert worst_row(single, exact) < 1e-4
    naive = F.cross_entropy(inputs.float().requires_grad_(), classes, reduction="none")
    assert float(naive.detach()[-1]) == 0.0  # torch's own form has nothing left here


def test_binary_rows_keep_their_digits_too() -> None:
    module = nn.Linear(1, 1).double().eval()
    with torch.no_grad():
        module.weight.fill_(1.0)
        module.bias.zero_()
    inputs = torch.linspace(-40, 40, 33, dtype=torch.float64)[:, None]
    batch = Batch((inputs,), (inputs > 0).double(), 0)
    exact = per_example_gradients(Problem(module, make_loss("bce_with_logits")), batch)
    single = per_example_gradients(
        Problem(module, make_loss("bce_with_logits"), dtype=torch.float32), batch
    )
    assert worst_row(single, exact) < 1e-4


@pytest.mark.parametrize("row", [0, 12, 23])
def test_second_derivatives_of_a_confident_row_keep_their_digits(row: int) -> None:
    module, inputs, classes = confident_classifier()
    rows = TensorRows(inputs.float().double()[row : row + 1], classes[row : row + 1])
    loss = make_loss("cross_entropy")
    exact = Hessian(Problem(module, loss), rows).dense()
    single = Hessian(Problem(module, loss, dtype=torch.float32), rows).dense()
    assert float((single.double() - exact).norm() / exact.norm()) < 1e-4


def test_a_program_returns_its_own_losses() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (self.linear(x)[:, 0] - y).abs().cosh()

    x, y = torch.randn(5, 2), torch.randn(5)
    module = WithLoss().eval()
    problem = Problem(module, make_loss("program"))
    check_problem(problem, Batch((x,), y, 0))
    torch.testing.assert_close(
        problem.losses(problem.theta, Batch((x,), y, 0)), module(x, y).detach()
    )
    assert per_example_gradients(problem, Batch((x,), y, 0)).shape == (5, 3)
