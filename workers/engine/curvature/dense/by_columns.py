"""Σ Jᵀ R Rᵀ J as a matrix: the columns Jᵀ R of each batch of rows, and one matrix product of them with themselves.

It takes r p² operations a row, of r roots of its matrix at the outputs, at the rate of large matrix products, as the
matrix is symmetric; of gradients' second moment, which has one root, nothing else comes near.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from torch import Tensor

from workers.engine.autodiff.gradients import per_example_gradients
from workers.engine.autodiff.graph.assemble import Assembly
from workers.engine.autodiff.graph.output import GRADIENTS, Term
from workers.engine.autodiff.graph.trace import Traced
from workers.engine.autodiff.multiplications import multiplications
from workers.engine.gauss_newton.batch import ColumnsOfBatch, layers_by_row
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch
from workers.engine.model.second_order import is_out_of_memory, twice_differentiable
from workers.engine.progress import Progress

WRITTEN_BYTES = {"cpu": 1 << 25}  # of a batch's columns
WRITTEN_BYTES_ELSEWHERE = 1 << 29
# Operations of an analytic product with a vector, times the multiplications of a row; and parts of the rate of large
# matrix products that it reaches, and that the columns do.
PRODUCT_FLOPS, PRODUCT_RATE, COLUMNS_RATE = 6.0, 0.25, 0.7
# Of the matrix, what lies below tiles on its diagonal is not computed but mirrored.
TILES, NARROWEST_TILE = 8, 128

Columns = Callable[[Batch], Iterator[Tensor]]  # of a batch that is `placed`: (B, p), one or several


def columns_of(problem: Problem, graph: Traced | None, probe: Batch, term: Term) -> Columns | None:
    """Where they are cheaper than a product for each parameter; else None."""
    if term is GRADIENTS:
        return partial(_gradients, problem)
    if graph is None:
        return None
    try:
        with twice_differentiable():
            assembly = Assembly(problem, graph, probe.at_least_two(), None)
            roots = term.root_count(assembly.output[0].numel())
            work = multiplications(layers_by_row(assembly))
    except ValueError:  # a node without a rule, or rows that don't come first
        return None
    if roots is None:
        return None
    columns = (1.0 + 1.0 / TILES) * roots * problem.size / COLUMNS_RATE
    return (
        partial(_roots, problem, graph, term)
        if columns < PRODUCT_FLOPS * work / PRODUCT_RATE
        else None
    )


def rows_at_once(problem: Problem, budget: int) -> int:
    """Rows of a batch whose columns fit into a part of the budget."""
    most = min(budget // 4, WRITTEN_BYTES.get(problem.device.type, WRITTEN_BYTES_ELSEWHERE))
    return max(1, most // (problem.size * problem.theta.element_size()))


def fill(
    result: Tensor, columns: Columns, batches: Iterable[Batch], rows: int, progress: Progress
) -> bool:
    """The mean over all batches into (p, p) zeros, and whether memory sufficed."""
    size = len(result)
    width = max(NARROWEST_TILE, -(-size // TILES))
    tiles = [(first, min(first + width, size)) for first in range(0, size, width)]
    try:
        for batch in batches:
            for each in columns(batch):
                for first, last in tiles:
                    result[first:last, first:].addmm_(each[:, first:last].T, each[:, first:])
            progress("hessian pass", batch.start + len(batch), rows, "rows")
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    result /= rows
    for first, last in tiles:
        result[last:, first:last].copy_(result[first:last, last:].T)
    progress("hessian", len(result), len(result), "parameters")
    return True


def _gradients(problem: Problem, batch: Batch) -> Iterator[Tensor]:
    yield per_example_gradients(problem, batch)


def _roots(problem: Problem, graph: Traced, term: Term, batch: Batch) -> Iterator[Tensor]:
    with twice_differentiable():
        found = ColumnsOfBatch(problem, graph, batch, term)
        for number in range(found.count):
            _, (columns,) = found.written(number, 1.0)
            yield columns
