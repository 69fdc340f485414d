"""The influence of weighting a training row up: factors times the gradients of the training rows.

Factors are (H + λI)⁻¹ ∇θ L(z_test), a row a test point. In every result a row is a test point and a
column a training row; POSITIVE means helpful: the training row lowers the test loss. There is no
1/n in it: training without row z changes the test loss by about influence / n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from workers.engine.autodiff.gradients import per_example_gradients
from workers.engine.autodiff.layer_uses import bytes_of_row
from workers.engine.inversion.solution import Solution
from workers.engine.model.batching import (
    DEFAULT_BUDGET,
    BatchSize,
    RowBlock,
    activation_bytes,
    rows_at_once,
)
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.second_order import once_differentiable
from workers.engine.progress import Progress
from workers.engine.scores.by_layers import ByLayers
from workers.engine.scores.contraction import (
    GRADIENT_COPIES,
    fitting_factors,
    over_columns,
    over_gradients,
)
from workers.engine.scores.precision import Agreement, Precision, agreement, checked, product

# Of so many numbers, a gradient costs less layer by layer: `python -m benchmarks.peers --case wide-cg`.
LONG_GRADIENT = 1 << 15
MANY_GRADIENTS = 1 << 23  # numbers of all rows: of fewer, gradients cost less than a comparison
# The group that each parameter is in, by its name, and how many groups there are.
Groups = tuple[Mapping[str, int], int]
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
    `low_precision_agreement`. Factors meet the rows layer by layer where layers are known; else,
    gradients are multiplied. Raises ShapeMismatch, NotFinite.
    """
    factors, precision = fitting_factors(problem, factors), checked(precision)
    layers = layers_for(problem, factors, rows) if precision == "full" else None
    if layers is not None:
        yield from over_layers(problem, layers, factors, rows, batch_size, budget_bytes, progress)
        return

    def scores(gradients: Tensor) -> Tensor:
        return product(factors, gradients, precision)

    yield from over_gradients(
        problem, rows, scores, "up", batch_size, budget_bytes, progress, result_width=len(factors)
    )


def layers_for(problem: Problem, factors: Tensor, rows: Rows) -> ByLayers | None:
    """What meets rows layer by layer, where that costs less than their gradients."""
    many = problem.size >= LONG_GRADIENT and len(rows) * problem.size >= MANY_GRADIENTS
    return ByLayers.found(problem, rows) if many and len(factors) else None


def over_layers(
    problem: Problem,
    layers: ByLayers,
    factors: Tensor,
    rows: Rows,
    batch_size: BatchSize,
    budget: int,
    progress: Progress | None,
    groups: Groups | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Yields (slice of columns, (m, b)); of groups of parameters (m, b, groups)."""
    row_bytes = bytes_of_row(problem, rows, layers.places)
    numbers = len(factors) * (1 if groups is None else groups[1])
    if layers.rest is not None:
        row_bytes += activation_bytes(problem, rows)
        numbers += GRADIENT_COPIES * layers.rest.size
    row_bytes += numbers * problem.theta.element_size()
    size = rows_at_once(batch_size, len(rows), row_bytes, budget, problem.device.type)

    def work(batch: Batch) -> Tensor:
        with once_differentiable():
            placed = problem.placed(batch)
            return (
                layers.scores(factors, placed)
                if groups is None
                else layers.scores_of_groups(factors, placed, *groups)
            )

    yield from over_columns(problem, rows, RowBlock(size), work, "up", progress)


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
