"""Live modules that gradients do not pass through everywhere, through the whole service, against plain torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.journeys.formulas import Formula
from tests.upweight.test_proof import HELD, Net
from upweight import Client

ROWS, TEST, DAMPING = 12, 3, 2.0
pytestmark = pytest.mark.filterwarnings("ignore")
KINDS = [
    "no_grad around the body",
    "no_grad around one use of two",
    "gradients within no_grad",
    "a target of its own",
    "inference mode",
    "the data of a tensor",
    "attention under no_grad",
]


@pytest.mark.parametrize("kind", KINDS)
def test_influences_are_those_of_the_live_module(
    online: Client, fresh_name: str, kind: str
) -> None:
    net = Net(HELD[kind])
    x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(3))
    y = torch.arange(ROWS) % 3
    online.models.register(fresh_name, net, example=x[:2], loss="cross_entropy")
    online.datasets.register(fresh_name, x=x, y=y)
    result = online.compute_influences(
        fresh_name, fresh_name, fresh_name, test_rows=f"0:{TEST}", inversion_method="direct",
        hessian_regularization=DAMPING, precision="float64",
    )  # fmt: skip
    x = x.double()
    formula = Formula(net, F.cross_entropy, x, y, DAMPING)
    exact = formula.up(formula.factors(x[:TEST], y[:TEST]), x, y).detach().numpy()
    assert np.abs(result.numpy() - exact).max() < 1e-9 * np.abs(exact).max()
