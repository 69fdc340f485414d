"""torch's first use of its function transforms costs over a second: spent before the first job, not in it."""

from __future__ import annotations

import torch
from torch import nn

from workers.engine import Direct, Hessian, Problem, TensorRows, make_loss, row_gradients, up


def warm_up(device: torch.device) -> None:
    """The whole way of a job once, on a network of a few parameters."""
    network = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).eval()
    rows = TensorRows(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64), device=device)
    problem = Problem(network, make_loss("cross_entropy"), device=device)
    rhs = torch.cat([block for _, block in row_gradients(problem, rows)])
    # λ far above any curvature of such a network, whose weights are random: H + λI is definite.
    factors = Direct().solve(Hessian(problem, rows, 100.0), rhs).x
    for _ in up(problem, factors, rows):
        pass
