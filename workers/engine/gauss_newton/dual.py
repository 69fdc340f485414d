"""(λI + G Gᵀ)⁻¹ by a Cholesky factor in the space of G's columns, and when that pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.autodiff.graph.assemble import Assembly
from workers.engine.autodiff.graph.output import GAUSS_NEWTON, Term
from workers.engine.autodiff.graph.trace import Traced
from workers.engine.autodiff.multiplications import multiplications
from workers.engine.errors import OutOfMemory
from workers.engine.gauss_newton.batch import layers_by_row
from workers.engine.gauss_newton.columns import RootColumns
from workers.engine.gauss_newton.scan import Longest, longest_columns
from workers.engine.gauss_newton.sizes import Sizes, are_outer, width_of
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Rows
from workers.engine.model.second_order import is_out_of_memory
from workers.engine.operators import Metric
from workers.engine.progress import Progress

# Columns are as long (squares, in λ), and have at least this part of the trace of all of them.
SHORTEST = 0.3
LEAST_SHARE = 0.5
FEWEST_COLUMNS = 32  # and rows
# λ must stand out of the rounding of the trace by this factor.
ABOVE_ROUNDING = 10.0


@dataclass(frozen=True)
class DualGaussNewton(Metric):
    """(λI + G Gᵀ)⁻¹ by Woodbury: (v − G (λI + Gᵀ G)⁻¹ Gᵀ v) / λ, with the small matrix factorised."""

    columns: RootColumns
    factor: Tensor  # (D, D), lower, of λI + Gᵀ G
    damping: float
    row_traces: Tensor  # (n,)

    def apply(self, rhs: Tensor) -> Tensor:
        """(k, p) -> (k, p)."""
        weights = torch.cholesky_solve(self.columns.rmatmat(rhs).T, self.factor).T
        return (rhs - self.columns.matmat(weights)).div_(self.damping)

    def products(self, blocks: Sequence[Tensor]) -> Tensor:
        """(λI + G Gᵀ) between vectors: blocks (s_i, p) to (Σ s, Σ s), float64."""
        inner = torch.cat([self.columns.rmatmat(each) for each in blocks]).double()
        rows = [torch.cat([one @ other.T for other in blocks], 1) for one in blocks]
        return self.damping * torch.cat(rows).double() + inner @ inner.T

    def tensors(self) -> dict[str, Tensor]:
        """For storing."""
        return {
            "factor": self.factor,
            "row_traces": self.row_traces,
            **self.columns.tensors(),
        }

    @property
    def info(self) -> dict[str, str | int]:
        """As a preconditioner."""
        return {"preconditioner": "gauss_newton", "preconditioner_rank": len(self.factor)}


def dual_gauss_newton(
    problem: Problem,
    graph: Traced,
    rows: Rows,
    damping: float,
    products: float,
    *,
    budget_bytes: int,
    progress: Progress,
    term: Term = GAUSS_NEWTON,
) -> DualGaussNewton | None:
    """The preconditioner, where it makes a solution by so many products cheaper; else None.

    `term`: with the gradients' it is that of their second moment, a column a row.
    The rule knows sizes and counts alone. `graph` must be known to be the model's.
    """
    if len(rows) < FEWEST_COLUMNS or not damping > 0.0:
        return None
    probe = problem.placed(next(iter(rows.batches(2))))
    assembly = Assembly(problem, graph, probe, None)
    outputs = term.root_count(assembly.output[0].numel())
    if outputs is None:
        return None
    try:
        layers = layers_by_row(assembly)
    except ValueError:  # a parameter that all rows share, say
        return None
    outer = are_outer(layers)
    sizes = Sizes(len(rows), outputs, problem.size, width_of(layers) if outer else problem.size)
    most, work = sizes.most(budget_bytes / problem.theta.element_size()), multiplications(layers)
    while most >= FEWEST_COLUMNS and not sizes.pays(work, most, products):
        most //= 2
    if most < FEWEST_COLUMNS:
        return None
    longest = Longest(SHORTEST * damping, most)
    try:
        columns = longest_columns(
            problem, graph, rows, longest, outer=outer, term=term, progress=progress
        )
        if columns is None or longest.share < LEAST_SHARE:
            return None
        return factorised(columns, damping, longest.traces)
    except (RuntimeError, MemoryError, OutOfMemory) as error:
        if not is_out_of_memory(error):
            raise
        return None  # products need less


def factorised(columns: RootColumns, damping: float, traces: Tensor) -> DualGaussNewton | None:
    """None where rounding hides λ."""
    gram = columns.gram()
    trace = float(gram.diagonal().sum())
    if not damping > ABOVE_ROUNDING * torch.finfo(gram.dtype).eps * trace:
        return None
    gram.diagonal().add_(damping)
    factor, failed = torch.linalg.cholesky_ex(gram)
    return None if int(failed) else DualGaussNewton(columns, factor, damping, traces)
