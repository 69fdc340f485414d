"""Layers before all selected parameters are computed once a job, and the numbers are those of the head alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.journeys.formulas import Formula
from upweight import Client

ROWS, DAMPING = 12, 0.5

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("method", ["direct", "cg"])
def test_influences_of_a_head_on_a_frozen_trunk(
    online: Client, fresh_name: str, method: str
) -> None:
    torch.manual_seed(2)
    trunk = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten())
    head = nn.Linear(20, 2)
    module = nn.Sequential(trunk, head).double().eval()
    x, y = torch.randn(ROWS, 2, 5).double(), torch.randn(ROWS, 2).double()
    online.models.register(fresh_name, module, example=x[:2], loss="mse", parameters=["1.*"])
    online.datasets.register(fresh_name, x=x, y=y)
    result = online.compute_influences(
        fresh_name,
        fresh_name,
        fresh_name,
        train_rows="1:12",
        test_rows="0:3",
        inversion_method=method,
        hessian_regularization=DAMPING,
        precision="float64",
        progress=False,
    )
    with torch.no_grad():
        features = trunk(x)
    formula = Formula(head, F.mse_loss, features, y, DAMPING)
    exact = formula.up(formula.factors(features[:3], y[:3]), features[1:], y[1:]).numpy()
    np.testing.assert_allclose(result.numpy(), exact, rtol=1e-4, atol=1e-7)
    assert result.info["frozen_rows"] == ROWS + (ROWS - 1) + 3
