"""Curvatures that are a mean over the training rows, as operators: multiplied with, seldom built."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import Tensor

from workers.engine.autodiff.graph.linearized import AnalyticHvp
from workers.engine.autodiff.graph.output import GAUSS_NEWTON, Term
from workers.engine.autodiff.graph.trace import Traced
from workers.engine.autodiff.locate import refuse_nonfinite_product
from workers.engine.autodiff.select import PROBE_ROWS
from workers.engine.curvature.dense import by_columns
from workers.engine.curvature.dense.build import LayerPairs, agreeing_graph, layer_pairs, symmetrise
from workers.engine.curvature.dense.by_layers import ByLayers
from workers.engine.curvature.row_sums import RowSums
from workers.engine.errors import BadParameter, OutOfMemory, ShapeMismatch
from workers.engine.gauss_newton import dual_gauss_newton
from workers.engine.model.batching import DEFAULT_BUDGET, BatchSize, know_activation_bytes
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.second_order import is_out_of_memory
from workers.engine.operators import Curvature, Metric
from workers.engine.progress import Progress, silent

FEWEST_EXPLICIT = 256  # with fewer parameters there is nothing to gain
LOOKING_FOR_MEMORY = "choose a method that only multiplies with H, or select fewer parameters"


class OverRows(Curvature):
    """A curvature of a problem over training rows, in the space of its parameters."""

    problem: Problem
    rows: Rows

    @property
    def shape(self) -> tuple[int, int]:
        """(p, p)."""
        return (self.problem.size, self.problem.size)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the vectors it multiplies."""
        return self.problem.dtype

    @property
    def device(self) -> torch.device:
        """The device that its vectors lie on."""
        return self.problem.device

    @property
    def row_count(self) -> int:
        """n, the number of training rows."""
        return len(self.rows)


class CurvatureOfRows(OverRows):
    """A term of H = (1/n) Σ ∇²θ L(zᵢ, θ) over ALL n rows, or all of it.

    The result does not depend on the batch size beyond rounding: a short last batch weighs what it
    has rows. `budget_bytes` bounds the activations of one block of rows × vectors; `batch_size`
    "auto" derives the rows from it. `progress` hears of every batch.

    `passes` counts multiplications of a block with the whole training set, `products` the vectors
    in them. What multiplies, one for a vector and one for several, is selected by a rule of model and
    device. `product_name` is its name, `product` fixes it by its name.
    """

    term: ClassVar[Term]
    label: ClassVar[str]  # for people
    is_sum_of_rows = True
    # What a structure keeps of a positive relative.
    relative: Callable[[str], Curvature] | None = None

    def __init__(
        self,
        problem: Problem,
        rows: Rows,
        *,
        batch_size: BatchSize = "auto",
        budget_bytes: int = DEFAULT_BUDGET,
        progress: Progress | None = None,
        product: str | None = None,
    ) -> None:
        if len(rows) == 0:
            raise BadParameter("rows", 0, f"the {self.label} needs at least one training row")
        self.problem = problem
        self.rows = rows
        self.passes = 0
        self.products = 0
        self.progress: Progress = progress or silent
        self._named = product
        self._batch_size, self._budget = batch_size, budget_bytes
        self.space_bytes = budget_bytes
        self._sums = RowSums(
            problem, rows, batch_size, budget_bytes, self.progress, product, self.term
        )
        self._matrix: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Rows taken at a time at present; running out of memory lowers it."""
        return self._sums.block.rows

    @property
    def product_name(self) -> str | None:
        """What multiplies at present, None before the first product."""
        used = self._sums.derivatives
        return next(reversed(used.values())).name if used else None

    def of_structure(self, structure: str) -> Curvature:
        """As whoever made it has said. Raises BadParameter where it was made alone."""
        if self.relative is None:
            return super().of_structure(structure)
        return self.relative(structure)

    def matmat(self, vectors: Tensor) -> Tensor:
        """H v for each row v of (k, p), in one pass over the training rows.

        Raises ShapeMismatch, NotFinite, UnsupportedOperator, OutOfMemory.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.problem.size:
            raise ShapeMismatch("vectors", (-1, self.problem.size), vectors.shape, "a row a vector")
        if len(vectors) == 0:
            return torch.zeros_like(vectors)
        total = self._sums.over_all(vectors)
        self.products += len(vectors)
        total /= len(self.rows)
        self._passed(total, vectors)
        return total

    def in_double(self) -> Self:
        """The same operator in float64, for residuals that rounding would hide.

        Raises what the model does where it can't be computed in float64.
        """
        problem = self.problem.in_double()
        with torch.no_grad():
            problem.losses(problem.theta, problem.placed(next(iter(self.rows.batches(1)))))
        wider = problem.dtype.itemsize // self.problem.dtype.itemsize
        know_activation_bytes(problem, self.rows, wider * self._sums.row_bytes)
        found = type(self)(problem, self.rows, budget_bytes=self._budget, progress=self.progress)
        found._sums.trust(self._sums)
        return found

    def damped_matmat(self, vectors: Tensor, damping: float) -> Tensor:
        """(H + λI) v for each row v of (k, p): (k, p), which is all that is made of that size."""
        return self.matmat(vectors).add_(vectors, alpha=damping)

    def sampled_matmat(self, indices: Tensor, vectors: Tensor) -> Tensor:
        """H_j v with H_j the mean over the rows with these numbers; counts as no pass."""
        total = self._sums.over_sample(indices, vectors)
        self.products += len(vectors)
        return total.div_(len(indices))

    def partial_matmat(self, indices: Tensor, vectors: Tensor) -> Tensor:
        """The sum over the rows with these numbers, ascending, by the number of ALL rows; all rows where memory ends.

        Counts as a pass, and as many products as that part of the rows is worth.
        """
        total = self._sums.over_part(indices, vectors)
        if total is None:
            return self.matmat(vectors)
        self.passes += 1
        self.products += round(len(vectors) * len(indices) / len(self.rows))
        return total / len(self.rows)

    def dense(self) -> Tensor:
        """H itself, (p, p), symmetric to the last bit. Raises OutOfMemory.

        A chain of linear layers is summed up by pairs of layers in ONE pass, without a product; so
        are such layers at the end of a model with analytic products, whose other parameters take a
        product each, over a part of the graph. Terms that are squares are products of their columns
        where these are few. Any other model takes p products.
        """
        return self._dense(self._layer_pairs())

    def _dense(self, pairs: LayerPairs | None) -> Tensor:
        size = self.problem.size
        try:
            result = self.problem.theta.new_zeros(size, size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"a matrix of {size} × {size}, the {self.label}", LOOKING_FOR_MEMORY
            ) from error
        width = min(size, 4 * self._sums.block.vectors)
        if pairs is not None and self._built_by(pairs, result):
            return symmetrise(result, width) if pairs.tied else result
        if pairs is None:
            graph = self._agreeing_graph()
            if self._built_by_columns(graph, result) or self._built_by_layers(graph, result):
                return symmetrise(result, width)
        result.zero_()  # what there was no memory for is begun again
        for first in range(0, size, width):
            last = min(first + width, size)
            units = torch.zeros(last - first, size, dtype=self.dtype, device=self.device)
            units[:, first:last].fill_diagonal_(1.0)
            result[first:last] = self.matmat(units)
            self.progress("hessian", last, size, "parameters")
        return symmetrise(result, width)

    def _probe(self) -> Batch:
        """A few rows, `placed`."""
        return self.problem.placed(next(iter(self.rows.batches(PROBE_ROWS))))

    def _agreeing_graph(self) -> Traced | None:
        """The model's graph, where products by it may be taken and are right."""
        if self._named not in (None, AnalyticHvp.name):
            return None
        return agreeing_graph(self.problem, self._probe(), self.term)

    def _built_by_columns(self, graph: Traced | None, result: Tensor) -> bool:
        """Whether the term is a square of few columns, and memory sufficed."""
        if self.term.bends or self._named is not None:
            return False
        columns = by_columns.columns_of(self.problem, graph, self._probe(), self.term)
        if columns is None:
            return False
        rows = min(self._sums.widest.rows, by_columns.rows_at_once(self.problem, self._budget))
        asked = self._batch_size
        batches = self.rows.batches(rows if asked == "auto" else min(rows, asked))
        seen = map(self._sums.inspected, batches)
        if not by_columns.fill(result, columns, seen, len(self.rows), self.progress):
            result.zero_()
            return False
        self._passed(result, result[:0])
        return True

    def _built_by_layers(self, graph: Traced | None, result: Tensor) -> bool:
        """Whether the model has analytic products, and memory sufficed."""
        if graph is None:
            return False
        block = self._sums.widest
        built = ByLayers(self.problem, graph, self.term, block.vectors)
        batches = map(self._sums.inspected, self.rows.batches(block.rows))
        if not built.fill(result, batches, len(self.rows), self.progress):
            return False
        self.products += built.products
        self._passed(result, result[:0])
        return True

    def matrix_if_cheaper(self, vectors: int, width: int) -> Tensor | None:
        """H as a matrix, if that costs less than products with so many vectors, `width` at a time; else None.

        Only for chains of linear layers, and within a quarter of the budget.
        """
        most = (self._budget / self.dtype.itemsize / 4) ** 0.5
        if self._matrix is None and FEWEST_EXPLICIT <= self.problem.size <= most:
            pairs = self._layer_pairs()
            if pairs and pairs.pays(len(self.rows), vectors, width):
                self._matrix = self._dense(pairs)
        return self._matrix

    def preconditioner_if_cheaper(self, damping: float, products: float) -> Metric | None:
        """A preconditioner for cg, if it saves more than it costs in a solution by so many products; else None.

        Only where products are analytic, of the model's graph.
        """
        derivative = self._sums.derivative(self._probe(), self.problem.theta.expand(2, -1))
        if not isinstance(derivative, AnalyticHvp):
            return None
        return dual_gauss_newton(
            *(self.problem, derivative.graph, self.rows, damping, products),
            budget_bytes=self._budget,
            progress=self.progress,
            term=self.term if self.term.one_root else GAUSS_NEWTON,
        )

    def _layer_pairs(self) -> LayerPairs | None:
        if self._named is not None:
            return None
        return layer_pairs(self.problem, self._probe(), self.term)

    def _built_by(self, pairs: LayerPairs, result: Tensor) -> bool:
        """Whether memory sufficed: if not, result is to be filled by products."""
        asked = self._batch_size
        rows = pairs.rows_at_once(self._budget) if asked == "auto" else asked
        batches = map(self._sums.inspected, self.rows.batches(rows))
        if not pairs.fill(result, batches, len(self.rows), self.progress):
            return False
        self._passed(result, result[:0])
        return True

    def _passed(self, result: Tensor, vectors: Tensor) -> None:
        """All rows have been gone through, for `vectors`."""
        self.passes += 1
        self._sums.ended()
        batches = self.rows.batches(self._sums.block.rows)
        refuse_nonfinite_product(result, vectors, self.problem, batches)
