"""Rows that see each other only where the data is what the user has: a job finds it on its own first rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from upweight import Client
from upweight.errors import ComputationFailed


class Warmer(nn.Module):
    """Adds what is above 100 of the other rows: nothing, for the numbers that anyone makes up."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x / 100 + (x - 100).relu().sum(0))


def test_a_job_refuses_rows_that_see_each_other_by_its_own_values(online: Client) -> None:
    torch.manual_seed(0)
    online.models.register("warmer", Warmer(), example=torch.randn(4, 3), loss="mse")
    values = np.random.default_rng(0).normal(size=(40, 3)).astype("f4")
    online.datasets.register("cold", {"x": values, "y": values[:, :1]})
    online.datasets.register("warm", {"x": values + 100, "y": values[:, :1]})
    cold = online.compute_influences("warmer", "cold", "cold", hessian_regularization=1.0)
    assert cold.numpy().shape == (40, 40)
    for test, train in (("cold", "warm"), ("warm", "cold")):
        with pytest.raises(ComputationFailed, match=r"depends on the other rows.*sum") as caught:
            online.compute_influences("warmer", test, train, hessian_regularization=1.0)
        assert caught.value.errors[0].pointer == "/model"


class WarmerNeighbour(nn.Module):
    """The same of the second of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 1)

    def forward(self, here: Tensor, there: Tensor) -> Tensor:
        return self.last(here / 100 + (there - 100).relu().sum(0))


def test_rows_are_looked_at_anew_where_their_columns_are_arranged_otherwise(online: Client) -> None:
    torch.manual_seed(0)
    example = (torch.randn(4, 3), torch.randn(4, 3))
    online.models.register("warmer-neighbour", WarmerNeighbour(), example=example, loss="mse")
    values = np.random.default_rng(0).normal(size=(40, 3)).astype("f4")
    online.datasets.register("both", {"a": values, "b": values + 100, "y": values[:, :1]})
    data = ("warmer-neighbour", "both", "both")
    good, bad = {"here": "b", "there": "a"}, {"here": "a", "there": "b"}
    found = online.compute_influences(*data, hessian_regularization=1.0, columns=good)
    assert found.numpy().shape == (40, 40)
    with pytest.raises(ComputationFailed, match=r"depends on the other rows.*sum"):
        online.compute_influences(*data, hessian_regularization=1.0, columns=bad)
