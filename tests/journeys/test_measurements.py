"""What of a test row is explained: a margin or a logit in place of the loss, against float64 autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.journeys.formulas import Formula
from tests.journeys.subjects import Subject
from upweight import Client, InvalidRequest

CLOSE = 1e-8
TEST = slice(0, 4)


def exact(subject: Subject, of_row: Any) -> Any:
    """∇m(z_test)ᵀ (H + λI)⁻¹ ∇L(z_train)."""
    return subject.formula.up(solutions(subject, of_row), subject.x_train, subject.y_train).numpy()


def solutions(subject: Subject, of_row: Any) -> Tensor:
    """(H + λI)⁻¹ ∇m(z_test)."""
    measured = Formula(subject.module, of_row, subject.x_train, subject.y_train, 0.0)
    gradients = measured.gradients(subject.x_test[TEST], subject.y_test[TEST])
    return torch.linalg.solve(subject.formula.damped, gradients.T).T


def margin(outputs: Tensor, y: Tensor) -> Tensor:
    probabilities = outputs.softmax(-1).gather(1, y[:, None])[:, 0]
    return (probabilities / (1 - probabilities)).log().mean()


def influences(client: Client, subject: Subject, **more: Any) -> Any:
    return client.compute_influences(
        *subject.names, test_rows="0:4", hessian_regularization=subject.damping, **more
    )


@pytest.mark.parametrize(
    ("measurement", "of_row"),
    [
        ("margin", margin),
        ({"name": "logit", "class": 1}, lambda outputs, y: outputs[:, 1].mean()),
        ("logit", lambda outputs, y: outputs.gather(1, y[:, None]).mean()),
    ],
)
def test_influences_on_a_measurement_are_its_gradients_met_with_those_of_the_loss(
    online: Client, iris: Subject, measurement: Any, of_row: Any
) -> None:
    result = influences(online, iris, measurement=measurement)
    expected = exact(iris, of_row)
    assert np.linalg.norm(result.numpy() - expected) < CLOSE * np.linalg.norm(expected)


def test_what_raises_the_margin_is_helpful(online: Client, iris: Subject) -> None:
    result = influences(online, iris, measurement="margin")
    row = result.numpy()[0]
    assert result.top(0, 1).items[0].column == row.argmin()
    assert result.top(0, 1, "raises").items[0].column == row.argmin()
    assert result.top(0, 1, "lowers").items[0].column == row.argmax()
    assert result.top(0, 1, "harmful").items[0].column == row.argmax()
    worst = result.suspects(1).items[0].column
    assert worst == result.numpy().mean(0).argmax()


def test_of_the_logit_of_a_class_rows_raise_or_lower_and_do_not_help(
    online: Client, iris: Subject
) -> None:
    result = influences(online, iris, measurement={"name": "logit", "class": 2})
    assert result.top(0, 1).sign == "raises"
    with pytest.raises(InvalidRequest, match="'raises' or 'lowers'"):
        result.top(0, 1, "helpful")


def test_a_loss_has_the_words_that_it_had(online: Client, iris: Subject) -> None:
    result = influences(online, iris)
    assert result.top(0, 1).sign == "helpful"
    assert result.top(0, 1).items == result.top(0, 1, "lowers").items


def test_factors_are_of_their_measurement_and_held_to_it(online: Client, iris: Subject) -> None:
    factors = online.compute_influence_factors(
        *iris.names, test_rows="0:4", hessian_regularization=iris.damping, measurement="margin"
    )
    result = online.compute_influences(iris.name, iris.train, factors=factors)
    expected = exact(iris, margin)
    assert np.linalg.norm(result.numpy() - expected) < CLOSE * np.linalg.norm(expected)
    assert result.job.request.measured.name == "margin"
    with pytest.raises(InvalidRequest, match="solved for with the margin, not with the loss"):
        online.compute_influences(iris.name, iris.train, factors=factors, measurement="loss")


def test_perturbation_moves_inputs_for_a_measurement(online: Client, iris: Subject) -> None:
    result = influences(online, iris, measurement="margin", influence_type="perturbation")
    factors = solutions(iris, margin)
    expected = iris.formula.perturbation(factors, iris.x_train[:3], iris.y_train[:3]).numpy()
    assert np.allclose(result.numpy()[:, :3], expected, rtol=1e-8)


def test_what_measures_no_test_row_refuses_a_measurement_by_name(
    online: Client, iris: Subject, regression: Subject
) -> None:
    with pytest.raises(InvalidRequest, match="meets each training row with itself"):
        online.self_influences(iris.name, iris.train, measurement="margin")
    rhs = np.zeros((1, iris.size))
    with pytest.raises(InvalidRequest, match="right-hand sides of your own"):
        online.solve_hvp("direct", iris.name, iris.train, rhs, measurement="margin")
    with pytest.raises(InvalidRequest, match="knows no classes, so it has no margin"):
        influences(online, regression, measurement="margin")
    with pytest.raises(InvalidRequest, match="classes 0 to 2, and no class 3"):
        influences(online, iris, measurement={"name": "logit", "class": 3})


class Entropy(nn.Module):
    """A measurement of one's own: the entropy of what a model predicts, a number a row."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        scores = self.inner(x)
        return -(scores.softmax(-1) * scores.log_softmax(-1)).sum(-1)


def test_a_program_measures_what_one_likes(online: Client, iris: Subject, fresh_name: str) -> None:
    """Its gradients, by C = I and λ = 0, are right-hand sides; their solutions meet the training rows."""
    program = Entropy(iris.module)
    example = (iris.x_train[:2], iris.y_train[:2])
    online.models.register(fresh_name, program, example=example, loss="program")
    gradients = online.compute_influence_factors(
        fresh_name, iris.train, iris.test, test_rows="0:4", inversion_method="identity", curvature="empirical_fisher",
        hessian_regularization=0.0,
    )  # fmt: skip
    solved = online.solve_hvp(
        "direct", iris.name, iris.train, gradients.x[:], hessian_regularization=iris.damping
    )
    result = online.compute_influences(iris.name, iris.train, factors=solved)

    def entropy(outputs: Tensor, y: Tensor) -> Tensor:
        return -(outputs.softmax(-1) * outputs.log_softmax(-1)).sum(-1).mean()

    expected = exact(iris, entropy)
    assert np.linalg.norm(result.numpy() - expected) < CLOSE * np.linalg.norm(expected)


def test_gradients_of_a_measurement_are_factors_of_the_identity(
    online: Client, iris: Subject
) -> None:
    found = online.compute_influence_factors(
        *iris.names, test_rows="0:4", inversion_method="identity", curvature="empirical_fisher",
        hessian_regularization=0.0, measurement="margin",
    )  # fmt: skip
    formula = Formula(iris.module, margin, iris.x_train, iris.y_train, 0.0)
    expected = formula.gradients(iris.x_test[TEST], iris.y_test[TEST]).numpy()
    assert np.linalg.norm(found.x[:] - expected) < CLOSE * np.linalg.norm(expected)
