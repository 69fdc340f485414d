"""How factors meet training rows: influence of weighting a row up, and of moving its features.

Factors are (H + λI)⁻¹ ∇θ L(z_test), a row a test point. In every result a row is a test point and a
column a training row; POSITIVE means helpful: the training row lowers the test loss. There is no
1/n in it: training without row z changes the test loss by about influence / n, and moving a feature
of z by δ changes it by about −influence · δ / n.

Everything goes through the rows once, in blocks within a byte budget, and yields each block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from workers.engine.blocks import (
    DEFAULT_BUDGET,
    BatchSize,
    Block,
    activation_bytes,
    over_rows,
    rows_at_once,
)
from workers.engine.errors import NotFinite, ShapeMismatch
from workers.engine.inversion.solution import Solution
from workers.engine.problem import Problem
from workers.engine.progress import Progress, silent
from workers.engine.rows import Batch, Rows

# Buffers of the size of a block's gradients that are alive at once: result, backward's, the copy.
GRADIENT_COPIES = 3


def row_gradients(
    problem: Problem,
    rows: Rows,
    *,
    batch_size: BatchSize = "auto",
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """∇θ L of each row: yields (slice of rows, (b, p)). Raises NotFinite, naming the row."""
    yield from _over_gradients(
        problem, rows, lambda gradients: gradients, "gradients", batch_size, budget_bytes, progress
    )


def up(
    problem: Problem,
    factors: Tensor,
    rows: Rows,
    *,
    batch_size: BatchSize = "auto",
    budget_bytes: int = DEFAULT_BUDGET,
    progress: Progress | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """∇θ L(z_test)ᵀ (H + λI)⁻¹ ∇θ L(z_train): yields (slice of columns, (m, b)).

    `factors` (m, p). Raises ShapeMismatch, NotFinite.
    """
    factors = _fitting(problem, factors)
    yield from _over_gradients(
        problem, rows, lambda gradients: factors @ gradients.T, "up", batch_size, budget_bytes, progress
    )


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

    def of_block(gradients: Tensor) -> Tensor:
        return (solve(gradients).x * gradients).sum(1)

    yield from _over_gradients(
        problem, rows, of_block, "self-influence", batch_size, budget_bytes, progress
    )


def _over_gradients(
    problem: Problem,
    rows: Rows,
    use: Callable[[Tensor], Tensor],
    what: str,
    batch_size: BatchSize,
    budget: int,
    progress: Progress | None,
) -> Iterator[tuple[slice, Tensor]]:
    gradient_bytes = GRADIENT_COPIES * problem.size * problem.theta.element_size()
    row_bytes = gradient_bytes + activation_bytes(problem, rows)
    size = rows_at_once(batch_size, len(rows), row_bytes, budget, problem.device.type)

    def work(batch: Batch) -> Tensor:
        return use(problem.gradients(batch))

    for batch, result in over_rows(
        rows, Block(size), work, what=what, progress=progress or silent
    ):
        yield _columns(batch), _finite(result, what)


def _columns(batch: Batch) -> slice:
    return slice(batch.start, batch.start + len(batch))


def _finite(result: Tensor, what: str) -> Tensor:
    if not bool(torch.isfinite(result).all()):
        raise NotFinite(f"the result of {what}")
    return result


def _fitting(problem: Problem, factors: Tensor) -> Tensor:
    if factors.ndim != 2 or factors.shape[1] != problem.size:
        raise ShapeMismatch("factors", (-1, problem.size), factors.shape, "a row a test point")
    return factors.to(dtype=problem.dtype, device=problem.device)
