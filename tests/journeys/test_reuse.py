"""What a warm worker knows of a model and its training set is not computed again; low precision is judged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.journeys.subjects import Subject
from upweight import Client, InfluenceResult
from upweight.errors import InvalidRequest


def direct(client: Client, subject: Subject, **values: Any) -> InfluenceResult:
    values = {"inversion_method": "direct", "hessian_regularization": subject.damping} | values
    return client.compute_influences(*subject.names, **values)


def passes(result: InfluenceResult) -> float:
    assert result.job.cost is not None
    return float(result.job.cost.hessian_passes)


@pytest.mark.parametrize(
    "method",
    [
        {"inversion_method": "direct"},
        {
            "inversion_method": "arnoldi",
            "rank_estimate": 6,
            "complement": True,
            "precision": "float64",
        },
    ],
)
def test_a_fit_is_made_once_and_gives_the_same_numbers(
    online: Client, iris: Subject, method: dict[str, Any]
) -> None:
    fresh = direct(online, iris, reuse=False, **method)
    first = direct(online, iris, **method)
    again = direct(online, iris, **method)
    assert passes(again) < passes(fresh)
    assert np.array_equal(again.numpy(), first.numpy())
    assert np.allclose(again.numpy(), fresh.numpy(), rtol=1e-4, atol=1e-5)


def test_another_damping_needs_no_pass_over_the_data(online: Client, iris: Subject) -> None:
    direct(online, iris)
    found = direct(online, iris, hessian_regularization=0.5)
    assert passes(found) == 0
    alone = direct(online, iris, hessian_regularization=0.5, reuse=False)
    assert passes(alone) > 0
    assert np.allclose(found.numpy(), alone.numpy(), rtol=1e-4, atol=1e-5)


def test_conjugate_gradients_gain_from_an_earlier_job_and_keep_their_tolerance(
    online: Client, iris: Subject
) -> None:
    method = {"inversion_method": "cg", "rtol": 1e-7, "atol": 0.0, "precision": "float64"}
    direct(online, iris, test_rows="0:10", **method)
    again = direct(online, iris, test_rows="20:21", **method)
    fresh = direct(online, iris, test_rows="20:21", reuse=False, **method)
    assert passes(again) < passes(fresh)
    assert again.info["statuses"] == fresh.info["statuses"] == {"converged": 1}
    assert np.allclose(again.numpy(), fresh.numpy(), rtol=1e-4, atol=1e-6)


def test_other_training_rows_for_the_hessian_are_another_fit(online: Client, iris: Subject) -> None:
    whole = direct(online, iris)
    half = direct(online, iris, hessian_on={"dataset": iris.train, "rows": "0:57"})
    assert passes(half) > 0
    assert not np.allclose(whole.numpy(), half.numpy(), rtol=1e-2)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_low_precision_is_judged_against_full(
    online: Client, iris: Subject, precision: str
) -> None:
    low = direct(online, iris, precision=precision)
    full = direct(online, iris)
    correlation = np.corrcoef(low.numpy().ravel(), full.numpy().ravel())[0, 1]
    assert low.info["low_precision_correlation"] > 0.99
    assert correlation > 0.99
    assert "low_precision_correlation" not in full.info


def test_low_precision_without_a_use_is_refused(online: Client, iris: Subject) -> None:
    with pytest.raises(InvalidRequest, match="'up'"):
        direct(online, iris, precision="bf16", influence_type="perturbation")
