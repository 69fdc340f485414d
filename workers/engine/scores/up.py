"""The influence of weighting a training row up: factors times the gradients of the training rows.

Factors are (H + λI)⁻¹ ∇θ L(z_test), a row a test point. In every result a row is a test point and a
column a training row; POSITIVE means helpful: the training row lowers the test loss. There is no
1/n in it: training without row z changes the test loss by about influence / n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from workers.engine.autodiff.gradients import per_example_gradients
from workers.engine.autodiff.jvp import AnalyticJvp, analytic_jvp
from workers.engine.autodiff.select import PROBE_ROWS
from workers.engine.inversion.solution import Solution
from workers.engine.model.batching import (
    DEFAULT_BUDGET,
    FEWEST_ROWS,
    FEWEST_VECTORS,
    BatchSize,
    RowBlock,
    activation_bytes,
    cached_bytes,
    over_rows,
    rows_at_once,
    vectors_at_once,
)
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.second_order import twice_differentiable
from workers.engine.progress import Progress, silent
from workers.engine.scores.contraction import (
    columns_of,
    finite_or_located,
    fitting_factors,
    over_gradients,
)
from workers.engine.scores.precision import Agreement, Precision, agreement, checked, product

# Up to so many factors, a JVP along each costs less than gradients of so many numbers.
# `python -m benchmarks.peers --case wide-cg` shows the difference.
MOST_TANGENTS = 128
LONG_GRADIENT = 1 << 15
MANY_GRADIENTS = 1 << 23  # numbers of all rows: of fewer, gradients cost less than a comparison
# What low precision is judged by.
SAMPLED_ROWS = 64
SAMPLED_FACTORS = 64


def up(
    problem: Problem,
    factors: Tensor,
    rows: Rows,
    *,
    precision: Precision = "full",
    batch_size: BatchSize = "auto",
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """∇θ L(z_test)ᵀ (H + λI)⁻¹ ∇θ L(z_train): yields (slice of columns, (m, b)).

    `factors` (m, p). `precision` is that of the product alone, for problems in float32; see
    `low_precision_agreement`. Few factors meet the rows layer by layer where the model's graph is
    known; else, gradients are multiplied. Raises ShapeMismatch, NotFinite.
    """
    factors, precision = fitting_factors(problem, factors), checked(precision)
    many = problem.size >= LONG_GRADIENT and len(rows) * problem.size >= MANY_GRADIENTS
    if precision == "full" and many and 0 < len(factors) <= MOST_TANGENTS:
        jvp = analytic_jvp(problem, next(iter(rows.batches(PROBE_ROWS))))
        if jvp is not None:
            yield from _along(problem, jvp, factors, rows, batch_size, budget_bytes, progress)
            return

    def scores(gradients: Tensor) -> Tensor:
        return product(factors, gradients, precision)

    yield from over_gradients(
        problem, rows, scores, "up", batch_size, budget_bytes, progress, result_width=len(factors)
    )


def _along(
    problem: Problem,
    jvp: AnalyticJvp,
    factors: Tensor,
    rows: Rows,
    batch_size: BatchSize,
    budget: int,
    progress: Progress | None,
) -> Iterator[tuple[slice, Tensor]]:
    kind = problem.device.type
    row_bytes = activation_bytes(problem, rows)
    most = max(FEWEST_VECTORS, cached_bytes(kind) // (row_bytes * FEWEST_ROWS))
    vectors = min(len(factors), vectors_at_once(kind), most)
    cost = row_bytes * (1 + vectors)
    budget = min(budget, max(FEWEST_ROWS * cost, cached_bytes(kind)))
    block = RowBlock(rows_at_once(batch_size, len(rows), cost, budget, kind), vectors)

    def work(batch: Batch) -> Tensor:
        with twice_differentiable():
            apply = jvp.prepare(problem, problem.placed(batch))
            return torch.cat([apply(part) for part in torch.split(factors, block.vectors)])

    for batch, result in over_rows(rows, block, work, what="up", progress=progress or silent):
        yield columns_of(batch), finite_or_located(problem, batch, result, "up")


def low_precision_agreement(
    problem: Problem, factors: Tensor, rows: Rows, precision: Precision
) -> Agreement:
    """Whether `up` in this precision can be trusted, judged by a sample of rows and factors."""
    factors = fitting_factors(problem, factors)[:SAMPLED_FACTORS]
    stride = max(1, len(rows) // SAMPLED_ROWS)
    picked = torch.arange(0, len(rows), stride, device=problem.device)[:SAMPLED_ROWS]
    sample = rows.take(picked)
    return agreement(factors, per_example_gradients(problem, sample), checked(precision))


def self_influence(
    problem: Problem,
    solve: Callable[[Tensor], Solution],
    rows: Rows,
    *,
    batch_size: BatchSize = "auto",
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """The diagonal of `up` with test = train: yields (slice of rows, (b,)).

    `solve` takes right-hand sides (b, p) to their solution, such as `fitted.solve`.
    """

    alone = self_influences_of_each(
        problem,
        lambda rhs: (solve(rhs),),
        1,
        rows,
        batch_size=batch_size,
        budget_bytes=budget_bytes,
        progress=progress,
    )
    for here, (block,) in alone:
        yield here, block


def self_influences_of_each(
    problem: Problem,
    solve: Callable[[Tensor], Sequence[Solution]],
    count: int,
    rows: Rows,
    *,
    batch_size: BatchSize = "auto",
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """With each of `count` λ's, from one pass over the rows: yields (slice of rows, (count, b)).

    `solve` takes right-hand sides (b, p) to their solution with each λ.
    """

    def of_block(gradients: Tensor) -> Tensor:
        return torch.stack([(each.x * gradients).sum(1) for each in solve(gradients)])

    yield from over_gradients(
        problem,
        rows,
        of_block,
        "self-influence",
        batch_size,
        budget_bytes,
        progress,
        result_width=(count - 1) * problem.size,
    )
