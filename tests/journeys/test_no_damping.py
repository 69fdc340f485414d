"""λ = 0: refused before anything is computed where it is known to fail, and computed where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.journeys.formulas import Formula
from upweight import Client
from upweight.errors import ComputationFailed, InvalidRequest

ROWS = 40
pytestmark = pytest.mark.filterwarnings("ignore::upweight.UntrustedResult")


def linear(online: Client, name: str, inputs: int, loss: str, rows: int = ROWS) -> Formula:
    """A linear model with data of its own, all under this name."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inputs, generator=draw, dtype=torch.float64)
    y = torch.arange(rows) % 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Linear(inputs, 3).double()
    goals = y if loss == "cross_entropy" else F.one_hot(y, 3).double()
    online.models.register(name, net, example=x[:4], loss=loss)
    online.datasets.register(name, x=x, y=goals)
    return Formula(net, F.cross_entropy if loss == "cross_entropy" else F.mse_loss, x, goals, 0.0)


def refused(online: Client, name: str, **options: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        online.compute_influences(name, name, name, **{"inversion_method": "direct", **options})
    (error,) = caught.value.errors
    assert error.pointer == "/hessian_regularization"
    return error.detail


def by_pseudo_inverse(formula: Formula) -> np.ndarray[Any, Any]:
    gradients = torch.stack(
        [formula.gradient(x, y) for x, y in zip(formula.x, formula.y, strict=True)]
    ).detach()
    inverse = torch.linalg.pinv(formula.damped, hermitian=True, rtol=1e-10)
    found: np.ndarray[Any, Any] = (gradients @ inverse @ gradients.T).numpy()
    return found


def test_a_softmax_is_refused_and_other_methods_solve_it(online: Client, fresh_name: str) -> None:
    given = {"hessian_regularization": 0}
    formula = linear(online, fresh_name, 4, "cross_entropy")
    words = refused(online, fresh_name, **given)
    assert "H is singular: the same can be added to all entries of 'weight', 'bias'" in words
    assert "or take method 'arnoldi'" in words
    within_cg = {"inversion_method": "cg", "preconditioner": {"method": "direct"}}
    assert "H is singular" in refused(online, fresh_name, **given, **within_cg)
    exact = by_pseudo_inverse(formula)
    for method, options in (("arnoldi", {"rank_estimate": 15}), ("cg", {"rtol": 1e-10})):
        found = online.compute_influences(
            *[fresh_name] * 3, inversion_method=method, hessian_regularization=0, **options
        )
        np.testing.assert_allclose(found.numpy(), exact, rtol=1e-6, atol=1e-8 * np.abs(exact).max())


def test_fewer_rows_than_a_linear_model_needs_are_refused(online: Client, fresh_name: str) -> None:
    linear(online, fresh_name, 14, "mse", rows=14)
    words = refused(online, fresh_name, hessian_regularization=0)
    assert (
        "linear in the 45 parameters, so that 14 rows with 3 outputs each give it a rank of 42"
        in words
    )


def test_a_hessian_of_full_rank_is_solved_without_lambda(online: Client, fresh_name: str) -> None:
    formula = linear(online, fresh_name, 14, "mse", rows=15)
    found = online.compute_influences(
        *[fresh_name] * 3, inversion_method="direct", hessian_regularization=0
    )
    exact = by_pseudo_inverse(formula)
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-6, atol=1e-6 * np.abs(exact).max())


def test_auto_gives_a_softmax_a_lambda_of_its_own(online: Client, fresh_name: str) -> None:
    formula = linear(online, fresh_name, 4, "cross_entropy")
    mean = float(formula.damped.diagonal().mean())
    found = online.compute_influences(*[fresh_name] * 3, inversion_method="direct")
    assert found.job.damping is not None
    assert found.job.damping.rule == "mean"
    assert found.job.damping.values == pytest.approx([0.1 * mean], rel=1e-9)


def test_a_curvature_of_zeros_names_no_way_out_that_was_taken(
    online: Client, fresh_name: str
) -> None:
    """Of rows that are all 0 "auto" has nothing to take a part of, and knows no number either."""
    net = nn.Linear(4, 1, bias=False).double()
    online.models.register(fresh_name, net, example=torch.randn(3, 4).double(), loss="mse")
    online.datasets.register(fresh_name, x=np.zeros((8, 4)), y=np.zeros((8, 1)))
    asked = (fresh_name, fresh_name, fresh_name)
    told = []
    for damping in ("auto", {"relative": 0.1}, 0):
        with pytest.raises(ComputationFailed) as caught:
            online.compute_influences(*asked, hessian_regularization=damping)
        told.append(caught.value.errors[0].detail)
    assert told[0].endswith("no λ above 0: give hessian_regularization as a number")
    assert 'as a number, or take "auto"' in told[1]
    assert "a hessian_regularization of 0.0001 would do" in told[2]
