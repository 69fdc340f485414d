"""How near θ is to an optimum of its training objective, which influence functions take for granted.

At an optimum of (1/n) Σ L(z) + (w/2) ‖θ‖² the mean gradient is −wθ. Weight decay w of training belongs
into λ, and what λ has beyond it is damping: so θ is an optimum as far as ‖∇L + wθ‖ vanishes for some w in
[0, λ]. Koh & Liang 2017, section 4.2, on what non-convergence does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.errors import NotFinite
from workers.engine.model.batching import (
    DEFAULT_BUDGET,
    BatchSize,
    RowBlock,
    activation_bytes,
    over_rows,
    rows_at_once,
)
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, ChosenRows, Rows
from workers.engine.model.second_order import twice_differentiable
from workers.engine.progress import Progress, silent
from workers.engine.scores.contraction import row_gradients

# Evenly spaced rows stand for all: the mean gradient is then known to 1/√4096 = 1.6 % of a typical one.
MOST_ROWS = 4096
TYPICAL_ROWS = 64  # whose gradients are taken one by one
NORMS_PART = 4  # of the budget's parts, gradients whose norms alone are wanted may take one
SQUARED_AT_ONCE = 1 << 20  # entries


@dataclass(frozen=True)
class Optimality:
    """What θ's distance from an optimum is told from, over `rows` of the training rows.

    `gradient_norm` is ‖∇L‖ with ∇L the mean over rows, `overlap` is ∇L·θ, `length` is ‖θ‖; `typical_norm` is the
    root mean square of single rows' ‖∇L(z)‖. Gradients are in units of loss by parameter.
    """

    gradient_norm: float
    overlap: float
    length: float
    typical_norm: float
    rows: int

    def norm(self, decay: float) -> float:
        """‖∇L + wθ‖ at weight decay w."""
        square = self.gradient_norm**2 + 2 * decay * self.overlap + (decay * self.length) ** 2
        return math.sqrt(max(square, 0.0))

    def nearest_decay(self, damping: float) -> float:
        """The w in [0, λ] at which ‖∇L + wθ‖ is least."""
        if self.length == 0.0:
            return 0.0
        return min(max(-self.overlap / self.length**2, 0.0), damping)

    def ratio(self, damping: float) -> float:
        """The least ‖∇L + wθ‖ of all w in [0, λ] in units of a typical row's gradient: 0 at an optimum."""
        nearest = self.norm(self.nearest_decay(damping))
        if nearest == 0.0:
            return 0.0
        return nearest / self.typical_norm if self.typical_norm > 0.0 else math.inf


def optimality(
    problem: Problem,
    rows: Rows,
    *,
    batch_size: BatchSize = "auto",
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress = silent,
) -> Optimality:
    """How near θ is to an optimum, by at most 4,096 evenly spaced rows.

    One forward and one backward pass over them. Raises NotFinite, and what `progress` raises.
    """
    count = len(rows)
    chosen = torch.arange(0, count, -(-count // MOST_ROWS))
    gradient = _mean_gradient(problem, ChosenRows(rows, chosen), batch_size, budget_bytes, progress)
    if not bool(torch.isfinite(gradient).all()):
        raise NotFinite("the gradient of the mean loss")
    theta = problem.theta.double()
    if problem.penalty is not None:  # whose optimum θ is
        gradient = gradient + problem.penalty.double() * theta
    few = ChosenRows(rows, chosen[:: -(-len(chosen) // TYPICAL_ROWS)])
    blocks = row_gradients(
        problem,
        few,
        batch_size=batch_size,
        budget_bytes=budget_bytes // NORMS_PART,
        progress=progress,
    )
    squares = sum(_sum_of_squares(block) for _, block in blocks)
    return Optimality(
        gradient_norm=float(torch.linalg.vector_norm(gradient)),
        overlap=float(gradient @ theta),
        length=float(torch.linalg.vector_norm(theta)),
        typical_norm=math.sqrt(squares / len(few)),
        rows=len(chosen),
    )


def _sum_of_squares(block: Tensor) -> float:
    """In float64, a part at a time: a block of a large model's gradients fills the budget by itself."""
    parts = block.flatten().split(SQUARED_AT_ONCE)
    return sum(float(each.double().square_().sum()) for each in parts)


def _mean_gradient(
    problem: Problem, rows: Rows, batch_size: BatchSize, budget: int, progress: Progress
) -> Tensor:
    """(p,) in float64."""
    device = problem.device.type
    row_bytes = activation_bytes(problem, rows)
    block = RowBlock(rows_at_once(batch_size, len(rows), row_bytes, budget, device))
    total = torch.zeros(problem.size, dtype=torch.float64, device=problem.device)

    def work(batch: Batch) -> Tensor:
        theta = problem.theta.clone().requires_grad_()
        with twice_differentiable(), torch.enable_grad():
            loss = problem.losses(theta, problem.placed(batch)).sum()
            (gradient,) = torch.autograd.grad(loss, theta)
        return gradient

    for _, gradient in over_rows(rows, block, work, what="optimality", progress=progress):
        total += gradient
    return total / len(rows)
