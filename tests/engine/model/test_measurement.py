"""What of a row is measured: gradients against plain autograd of torch's own operators in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.engine import decoder
from workers.engine import (
    BadParameter,
    Batch,
    Problem,
    SpannedRows,
    TensorRows,
    make_loss,
    make_measurement,
    per_example_gradients,
    refuse_outside,
    row_gradients,
)

ROWS, CLOSE = 5, 1e-12
X = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.tensor([0, 2, 1, 2, 0])
BITS = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)


def network(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, outputs)).double().eval()


def by_autograd(
    module: nn.Module, x: Tensor, y: Tensor, of_row: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    rows = []
    for one, label in zip(x, y, strict=True):
        value = of_row(module(one[None])[0], label)
        gradients = torch.autograd.grad(value, list(module.parameters()))
        rows.append(torch.cat([each.reshape(-1) for each in gradients]))
    return torch.stack(rows)


def log_odds(scores: Tensor, label: Tensor) -> Tensor:
    probability = scores.softmax(0)[label]
    return (probability / (1 - probability)).log()


def largest(scores: Tensor, label: Tensor) -> Tensor:
    return scores.max()


@pytest.mark.parametrize(
    ("name", "which", "of_row"),
    [
        ("margin", "label", log_odds),
        ("logit", "label", lambda scores, label: scores[label]),
        ("logit", "predicted", largest),
        ("logit", 2, lambda scores, label: scores[2]),
    ],
)
@pytest.mark.parametrize("loss", ["cross_entropy", "nll"])
def test_gradients_are_those_of_what_is_measured(
    loss: str, name: str, which: int, of_row: Callable[[Tensor, Tensor], Tensor]
) -> None:
    module = network(3)
    measured = make_measurement(make_loss(loss), name, which)
    problem = Problem(module, make_loss(loss)).with_loss(measured)
    found = per_example_gradients(problem, Batch((X,), LABELS, 0))
    expected = by_autograd(module, X, LABELS, of_row)
    assert torch.linalg.norm(found - expected) < CLOSE * torch.linalg.norm(expected)


@pytest.mark.parametrize(
    ("name", "which", "signs"),
    [
        ("margin", "label", 2 * BITS - 1),
        ("logit", "label", 2 * BITS - 1),
        ("logit", 1, torch.ones(ROWS)),
        ("logit", 0, -torch.ones(ROWS)),
    ],
)
def test_one_logit_a_row_is_the_log_odds_of_class_one(name: str, which: int, signs: Tensor) -> None:
    module = network(1)
    measured = make_measurement(make_loss("bce_with_logits"), name, which)
    problem = Problem(module, make_loss("bce_with_logits")).with_loss(measured)
    found = per_example_gradients(problem, Batch((X,), BITS[:, None], 0))
    expected = signs[:, None] * by_autograd(module, X, BITS, lambda logit, _: logit[0])
    assert torch.linalg.norm(found - expected) < CLOSE * torch.linalg.norm(expected)


def test_a_confident_margin_keeps_its_gradient_in_float32() -> None:
    scores = torch.tensor([[60.0, 0.0, 1.0]], requires_grad=True)
    margin = make_measurement(make_loss("cross_entropy"), "margin")(scores, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(margin.sum(), scores)
    others = torch.tensor([0.0, 1.0]).softmax(0)
    assert torch.allclose(gradient[0], torch.tensor([1.0, -others[0], -others[1]]))


@pytest.mark.parametrize(("positions", "times"), [("mean", 1 / 3), ("sum", 1.0)])
def test_positions_are_reduced_as_the_loss_reduces_them(positions: str, times: float) -> None:
    scores = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.tensor([[1, -100, 4, 0]])
    loss = make_loss("cross_entropy", reduction=positions, class_axis=-1)
    found = make_measurement(loss, "logit", "label")(scores, labels)
    assert float(found) == pytest.approx(
        float(scores[0, 0, 1] + scores[0, 2, 4] + scores[0, 3, 0]) * times
    )


@pytest.mark.parametrize(
    ("loss", "name", "which", "outputs", "targets", "words"),
    [
        ("mse", "margin", "label", 3, X[:, :3], "no classes"),
        ("program", "logit", 0, 3, LABELS, "no classes"),
        ("cross_entropy", "logit", 3, 3, LABELS, "from 0 to 2"),
        ("cross_entropy", "margin", "label", 3, X[:, :3].softmax(1), "probabilities"),
        ("bce_with_logits", "margin", "label", 3, X[:, :3].sigmoid(), "3 logits a row"),
        ("bce_with_logits", "logit", 2, 1, BITS[:, None], "classes 0 and 1"),
    ],
)
def test_what_has_no_such_measurement_is_refused_by_name(
    loss: str, name: str, which: int, outputs: int, targets: Tensor, words: str
) -> None:
    with pytest.raises(BadParameter, match=words):
        make_measurement(make_loss(loss), name, which)(network(outputs)(X), targets)


def log_probability(module: nn.Module, x: Tensor, y: Tensor, start: int, end: int) -> Tensor:
    scores = module(x[None])[0].log_softmax(-1)
    return sum((scores[at, y[at]] for at in range(start, end)), torch.zeros(()).double())


@pytest.mark.parametrize("name", ["cross_entropy", "nll"])
def test_the_span_of_a_text_is_the_log_probability_of_its_labels(name: str) -> None:
    """Less that of another one; whatever smoothing, weights and mean the loss has."""
    options = {"label_smoothing": 0.2} if name == "cross_entropy" else {}
    loss = make_loss(name, class_axis=-1, weight=tuple(1.0 + i for i in range(7)), **options)
    module = decoder.decoder()
    if name == "nll":
        module = nn.Sequential(module, nn.LogSoftmax(-1)).eval()
    tokens, targets = decoder.texts(ROWS, 6)
    positive = [[0, 2], [1, 3], [0, 1], [2, 3], [0, 2]]
    negative = [[1, 2], [0, 1], [1, 2], [0, 2], [0, 1]]
    bounds = torch.tensor([positive, negative]).transpose(0, 1)
    refuse_outside(loss, TensorRows(tokens, targets), bounds, range(ROWS))
    measured = Problem(module, loss).with_loss(make_measurement(loss, "span"))
    rows = SpannedRows(TensorRows(tokens, targets), bounds)
    found = torch.cat([each for _, each in row_gradients(measured, rows, batch_size=2)])
    reference = []
    for x, y, more, less in zip(tokens, targets, positive, negative, strict=True):
        value = log_probability(module, x, y, *more) - log_probability(module, x, y, *less)
        gradients = torch.autograd.grad(value, list(module.parameters()))
        reference.append(torch.cat([each.reshape(-1) for each in gradients]))
    assert (found - torch.stack(reference)).abs().max() < CLOSE
    taken = per_example_gradients(measured, rows.take(torch.tensor([3, 1])))
    assert (taken - torch.stack([reference[3], reference[1]])).abs().max() < CLOSE


@pytest.mark.parametrize(
    ("span", "words"),
    [
        ((0, 7), "row 12 has the positions 0 to 5"),
        ((3, 3), "start < end"),
        ((-1, 2), "start < end"),
        ((0, 4), "position 2 of row 10 has no label"),
    ],
)
def test_a_span_outside_a_row_or_over_padding_is_refused(span: tuple[int, int], words: str) -> None:
    tokens, targets = decoder.texts(3, 6)
    bounds = torch.tensor([[[0, 1]], [[0, 1]], [[0, 1]]])
    bounds[2 if span == (0, 7) else 0, 0] = torch.tensor(span)
    with pytest.raises(BadParameter, match=words):
        refuse_outside(
            make_loss("cross_entropy", class_axis=-1),
            TensorRows(tokens, targets),
            bounds,
            [10, 11, 12],
        )
