"""What the service says of a result, from what the engine found out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from upweight.schema import JobRequest
from workers.engine import Optimality
from workers.jobs.verdict import applies, solved

REQUEST: TypeAdapter[JobRequest] = TypeAdapter(JobRequest)
FLOAT = torch.float32
AT_OPTIMUM = Optimality(gradient_norm=0.01, overlap=-0.01, length=1.0, typical_norm=2.0, rows=100)
FAR = Optimality(gradient_norm=1.5, overlap=0.0, length=1.0, typical_norm=2.0, rows=100)


def request(method: str, damping: float = 0.1, **parameters: Any) -> JobRequest:
    return REQUEST.validate_python(
        {
            "kind": "factors",
            "model": "m",
            "train": {"dataset": "d"},
            "test": {"dataset": "d"},
            "inversion": {"method": method, **parameters},
            "hessian_regularization": damping,
        }
    )


def summary(**statuses: int) -> dict[str, Any]:
    return {
        "right_hand_sides": sum(statuses.values()),
        "statuses": statuses,
        "worst_residual_norm": 2e-6,
        "iterations": 12,
    }


def test_every_right_hand_side_that_converged_is_good() -> None:
    found = solved(request("cg"), summary(converged=5), FLOAT)
    assert found.level == "good"
    assert "all 5 right-hand sides converged within 12 iterations" in found.text


@pytest.mark.parametrize(("missing", "level"), [(1, "fair"), (5, "bad"), (20, "bad")])
def test_the_more_are_unsolved_the_worse(missing: int, level: str) -> None:
    found = solved(request("cg"), summary(converged=20 - missing, maxiter=missing), FLOAT)
    assert found.level == level
    assert f"{missing} of 20 right-hand sides did not converge (raise maxiter" in found.text


def test_a_condition_number_that_eats_the_digits_is_told() -> None:
    told = summary(converged=3) | {"smallest_eigenvalue": -0.1 + 1e-7, "largest_eigenvalue": 1.0}
    assert solved(request("direct"), told, FLOAT).level == "fair"
    assert "precision float64" in solved(request("direct"), told, FLOAT).text
    assert solved(request("direct"), told, torch.float64).level == "good"


def test_low_rank_is_not_the_whole_answer_unless_nothing_was_left_out() -> None:
    arnoldi = request("arnoldi", rank_estimate=4)
    assert solved(arnoldi, summary(truncated=3), FLOAT).level == "fair"
    assert "the 4 strongest directions" in solved(arnoldi, summary(truncated=3), FLOAT).text
    assert solved(arnoldi, summary(converged=3), FLOAT).level == "good"


def test_a_lambda_below_rounding_is_told_to_be_raised_at_any_rank() -> None:
    arnoldi = request("arnoldi", rank_estimate=4)
    told = summary(truncated=3) | {"rank": 4, "dropped_count": 1}
    found = solved(arnoldi, told, FLOAT)
    assert found.level == "fair"
    assert "1 of the 4 eigenvalues" in found.text
    assert "Raise hessian_regularization, or use precision float64." in found.text
    assert "rank_estimate" not in found.text
    assert solved(arnoldi, told, torch.float64).text.endswith("Raise hessian_regularization.")


def test_a_warning_of_the_engine_is_never_good() -> None:
    told = summary(converged=3) | {"warning": "scores in bf16 correlate by 0.9"}
    found = solved(request("cg"), told, FLOAT)
    assert found.level == "bad"
    assert "bf16" in found.text


def test_near_an_optimum_influence_applies() -> None:
    found = applies(0.1, AT_OPTIMUM, summary(converged=3), None, 10)
    assert found.level == "good"
    assert "θ is near an optimum" in found.text


def test_far_from_an_optimum_it_does_not() -> None:
    found = applies(0.1, FAR, summary(converged=3), None, 10)
    assert found.level == "bad"
    assert "75.00% of a single training row's gradient" in found.text


def test_the_share_of_eigenvalues_below_lambda_is_told() -> None:
    known = torch.tensor([2.0, 0.5, 0.01, -0.02])
    found = applies(0.1, AT_OPTIMUM, {}, known, 4)
    assert found.level == "good"
    assert "2 of the 4 eigenvalues of H (50%) lie below λ" in found.text
    assert "2 of the 4 known eigenvalues" in applies(0.1, AT_OPTIMUM, {}, known, 9).text
    assert applies(5.0, AT_OPTIMUM, {}, known, 4).level == "bad"


def test_a_lambda_that_drowns_the_curvature_is_bad() -> None:
    told = summary(converged=3) | {"curvature_share": 0.002}
    assert applies(50.0, AT_OPTIMUM, told, None, 10).level == "bad"
    # What was not solved for says nothing about H.
    unsolved = summary(maxiter=3) | {"curvature_share": 0.002}
    assert applies(50.0, AT_OPTIMUM, unsolved, None, 10).level == "good"
