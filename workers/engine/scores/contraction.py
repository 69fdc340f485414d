"""A pass over the rows with their gradients, block by block: what every score is made by.

Everything goes through the rows once, in blocks within a byte budget, and yields each block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from workers.engine.autodiff.gradients import per_example_gradients
from workers.engine.autodiff.locate import locate_nonfinite
from workers.engine.errors import NotFinite, ShapeMismatch
from workers.engine.model.batching import (
    DEFAULT_BUDGET,
    BatchSize,
    RowBlock,
    activation_bytes,
    over_rows,
    rows_at_once,
)
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.progress import Progress, silent

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
    yield from over_gradients(
        problem, rows, lambda gradients: gradients, "gradients", batch_size, budget_bytes, progress
    )


def over_gradients(
    problem: Problem,
    rows: Rows,
    use: Callable[[Tensor], Tensor],
    what: str,
    batch_size: BatchSize,
    budget: int,
    progress: Progress | None,
    result_width: int = 0,
) -> Iterator[tuple[slice, Tensor]]:
    entries = GRADIENT_COPIES * problem.size + result_width
    row_bytes = entries * problem.theta.element_size() + activation_bytes(problem, rows)
    size = rows_at_once(batch_size, len(rows), row_bytes, budget, problem.device.type)

    def work(batch: Batch) -> Tensor:
        return use(per_example_gradients(problem, batch))

    yield from over_columns(problem, rows, RowBlock(size), work, what, progress)


def over_columns(
    problem: Problem,
    rows: Rows,
    block: RowBlock,
    work: Callable[[Batch], Tensor],
    what: str,
    progress: Progress | None,
) -> Iterator[tuple[slice, Tensor]]:
    """What `work` gives of each block of rows: yields (slice of rows, that). Raises NotFinite, naming the row."""
    for batch, result in over_rows(rows, block, work, what=what, progress=progress or silent):
        yield columns_of(batch), _finite_or_located(problem, batch, result, what)


def columns_of(batch: Batch) -> slice:
    return slice(batch.start, batch.start + len(batch))


def _finite_or_located(problem: Problem, batch: Batch, result: Tensor, what: str) -> Tensor:
    # A sum needs no mask in memory; one that overflows is looked into.
    if not bool(torch.isfinite(result.sum())) and not bool(torch.isfinite(result).all()):
        locate_nonfinite(problem, batch)
        raise NotFinite(f"the result of {what}")
    return result


def fitting_factors(problem: Problem, factors: Tensor) -> Tensor:
    if factors.ndim != 2 or factors.shape[1] != problem.size:
        raise ShapeMismatch("factors", (-1, problem.size), factors.shape, "a row a test point")
    return factors.to(dtype=problem.dtype, device=problem.device)
