"""What a method is said to hold of vectors as long as all parameters is what the engine holds, within a fifth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.engine.alive import Alive
from upweight.schema.inversion import METHODS
from workers import engine
from workers.engine import Over, Problem, TensorRows, make_curvature, make_loss

TOLERANCE = 0.2
CG = {"maxiter": 300, "unsolved": "keep"}
CASES: list[tuple[str, dict[str, Any], int]] = [
    ("cg", {**CG, "rtol": 1e-4}, 1),
    ("cg", {**CG, "rtol": 1e-4}, 8),
    ("cg", {**CG, "rtol": 1e-7}, 1),
    ("cg", {**CG, "rtol": 1e-7}, 4),
    ("cg", {**CG, "rtol": 1e-7, "atol": 1e-12}, 4),
    ("lissa", {"maxiter": 5, "unsolved": "keep"}, 1),
    ("lissa", {"maxiter": 5, "unsolved": "keep"}, 8),
    ("arnoldi", {}, 1),
    ("arnoldi", {"rank_estimate": 4}, 8),
]


@pytest.mark.parametrize(("name", "given", "count"), CASES)
def test_a_method_holds_as_many_vectors_as_it_says(
    name: str, given: dict[str, Any], count: int
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 10)
    )
    problem = Problem(module, make_loss("cross_entropy"))
    rows = TensorRows(torch.randn(40, 200), torch.arange(40) % 10)
    rhs = torch.randn(count, problem.size)
    over = Over(problem, rows, budget_bytes=1 << 18)  # so that next to nothing is kept of rows
    method = engine.METHODS[name](**given)
    with Alive() as alive:
        curvature = make_curvature(over, "gauss_newton")
        fit = method.fit(curvature, 1.0)
        method.solve(curvature, 1.0, rhs, fit=fit)
    held = alive.peak / (problem.size * rhs.itemsize) + count  # those that were given
    said = METHODS[name](**given).vectors_held(count, single=True)
    assert abs(said / held - 1.0) <= TOLERANCE, f"{held:.1f} are held, {said:.1f} were said"
