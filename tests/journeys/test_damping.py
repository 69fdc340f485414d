"""λ as a number, as a part of the mean eigenvalue, and worked out: what the record says, against dense algebra."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.journeys.subjects import Subject
from upweight import Client
from upweight.errors import InvalidRequest

pytestmark = pytest.mark.filterwarnings("ignore::upweight.UntrustedResult")
SPREAD: list[dict[str, Any]] = [{}, {"blocks": {"spread": True, "rhs_rows": 2, "train_rows": 20}}]
everywhere = pytest.mark.parametrize("cut", SPREAD, ids=["one task", "spread"])
# Exact ways, so that an answer says which λ was taken.
METHODS: dict[str, dict[str, Any]] = {
    "direct": {},
    "cg": {"rtol": 1e-12},
    "lissa": {"maxiter": 20_000, "rtol": 1e-12},
    "arnoldi": {"rank_estimate": 1000, "tol": 1e-12},
    "nystroem": {"rank": 1000},
}
methods = pytest.mark.parametrize("method", METHODS)


def hessian(subject: Subject) -> torch.Tensor:
    return subject.formula.damped - subject.damping * torch.eye(subject.size, dtype=torch.float64)


def exact(subject: Subject, damping: float) -> np.ndarray[Any, Any]:
    formula = subject.formula
    damped = hessian(subject) + damping * torch.eye(subject.size, dtype=torch.float64)
    gradients = formula.gradients(subject.x_test, subject.y_test)
    solutions = torch.linalg.solve(damped, gradients.T).T
    found: np.ndarray[Any, Any] = formula.up(solutions, subject.x_train, subject.y_train).numpy()
    return found


def assert_close(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], rtol: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * np.abs(expected).max())


@methods
def test_a_part_of_the_mean_eigenvalue_is_that_part(
    online: Client, words: Subject, method: str
) -> None:
    values = torch.linalg.eigvalsh(hessian(words))
    damping = 60 * float(values.mean())
    found = online.compute_influences(
        *words.names, inversion_method=method, hessian_regularization={"relative": 60}, **METHODS[method],
    )  # fmt: skip
    told = found.job.damping
    assert told is not None
    assert told.rule == "relative"
    assert told.values == pytest.approx([damping], rel=1e-9)
    assert told.mean_eigenvalue == pytest.approx(float(values.mean()), rel=1e-9)
    assert told.share_below == [pytest.approx(float((values.abs() < damping).double().mean()))]
    assert found.info["damping"] == told.model_dump(mode="json")
    assert_close(found.numpy(), exact(words, damping), 1e-7)


@methods
@everywhere
def test_auto_is_the_default_of_the_sdk_and_solves_what_is_not_convex(
    online: Client, words: Subject, method: str, cut: dict[str, Any]
) -> None:
    values = torch.linalg.eigvalsh(hessian(words))
    smallest, mean = float(values[0]), float(values.mean())
    assert smallest < 0
    damping = max(1.1 * -smallest, 0.1 * mean)
    found = online.compute_influences(
        *words.names, inversion_method=method, **METHODS[method], **cut
    )
    assert found.job.request.hessian_regularization == "auto"
    told = found.job.damping
    assert told is not None
    assert told.rule == ("positive" if 1.1 * -smallest > 0.1 * mean else "mean")
    assert told.values == pytest.approx([damping], rel=1e-9)
    assert told.smallest_eigenvalue == pytest.approx(smallest, rel=1e-9)
    assert_close(found.numpy(), exact(words, damping), 1e-6)


def test_a_recipe_of_training_gives_its_own(online: Client, words: Subject) -> None:
    recipe = {"learning_rate": 0.1, "momentum": 0.9, "steps": 1}
    found = online.compute_influences(
        *words.names, inversion_method="direct", hessian_regularization={"auto": recipe}
    )
    told = found.job.damping
    assert told is not None
    assert told.rule == "recipe"
    assert told.values == pytest.approx([(1 - 0.9) / 0.1])
    assert_close(found.numpy(), exact(words, 1.0), 1e-9)


def test_the_service_takes_0_where_nothing_is_said(online: Client, regression: Subject) -> None:
    model, train, test = regression.names
    record = online.jobs.create(
        {
            "kind": "factors", "model": model, "train": {"dataset": train}, "test": {"dataset": test},
            "inversion": {"method": "arnoldi"},
        }
    )  # fmt: skip
    assert record.request.hessian_regularization == 0.0
    assert online.jobs.wait(record).damping is None


def test_a_number_is_recorded_as_before(online: Client, words: Subject) -> None:
    found = online.compute_influence_factors(*words.names, hessian_regularization=0.5)
    assert found.job.damping is None
    assert found.job.request.hessian_regularization == 0.5
    assert "damping" not in found.info


def test_factors_are_taken_with_what_auto_came_to(online: Client, words: Subject) -> None:
    factors = online.compute_influence_factors(*words.names)
    assert factors.job.damping is not None
    (damping,) = factors.job.damping.values
    found = online.compute_influences(words.name, words.train, factors=factors)
    assert found.job.request.hessian_regularization == damping
    assert_close(found.numpy(), exact(words, damping), 1e-9)
    again = online.compute_influences(
        words.name, words.train, factors=factors, hessian_regularization=damping
    )
    np.testing.assert_array_equal(again.numpy(), found.numpy())
    with pytest.raises(InvalidRequest, match="were solved for with λ"):
        online.compute_influences(
            words.name, words.train, factors=factors, hessian_regularization=0.5
        )


@pytest.mark.parametrize(
    ("given", "below", "said"),
    [
        (-1, "", "λ must be at least 0; it is -1"),
        (float("nan"), "", "finite"),
        (float("inf"), "", "finite"),
        ("Auto", "", "'Auto' is no λ; give 0.05"),
        ({"relativ": 1}, "", "'relativ' is nothing that λ has; give 0.05"),
        ({"relative": 0}, "/relative", "more than 0"),
        ({"auto": {"learning_rate": 0.1}}, "/auto/steps", "is missing"),
        ({"auto": {"learning_rate": 0.1, "steps": 0}}, "/auto/steps", "at least 1"),
        ([], "", "is empty"),
        (
            [0.1 * each for each in range(17)],
            "",
            "17 λ's are too many for one job; give at most 16",
        ),
        ([0.1, 0.2, 0.1], "", "0.1 is in the list twice, at 0 and 2"),
        ([0.1, "auto"], "", "'auto' at position 1"),
        ([0.1, -2], "/1", "λ must be at least 0; it is -2"),
    ],
)
def test_what_is_no_lambda_is_refused_by_name(
    online: Client, words: Subject, given: Any, below: str, said: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        online.compute_influences(*words.names, hessian_regularization=given)
    (error,) = caught.value.errors
    assert error.pointer == f"/hessian_regularization{below}"
    assert said in error.detail
