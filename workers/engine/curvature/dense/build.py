"""H from its pairs of layers, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from workers.engine.autodiff.derivative import Derivative
from workers.engine.autodiff.graph.linearized import AnalyticHvp
from workers.engine.autodiff.graph.output import HESSIAN, Term
from workers.engine.autodiff.graph.trace import Traced, traced
from workers.engine.autodiff.select import BY_TORCH, agreeing
from workers.engine.curvature.dense.chain import Chain, ChainLayer, Crossing
from workers.engine.curvature.dense.pairs import Cross, Own, Scratch
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch
from workers.engine.model.second_order import is_out_of_memory, twice_differentiable
from workers.engine.progress import Progress

# What a batch may take besides the sums: little enough for a cache.
BATCH_BYTES = {"cpu": 16 << 20}
BATCH_BYTES_ELSEWHERE = 1 << 29
FEWEST_ROWS = 64  # or the sums are read and written more than they are added to
COPIES = 4  # of a row's largest factors that are alive at once
# Parts of the rate of large matrix products that were reached on CPUs: by the sums, by the
# analytic product from 8 vectors on, by the explicit matrix from 16 on; below that in proportion:
# the case mlp-direct of `python -m benchmarks.peers`.
SUMS_RATE, PRODUCT_RATE, EXPLICIT_RATE = 0.5, 0.25, 0.7
PRODUCT_WIDTH, EXPLICIT_WIDTH = 8, 16
PRODUCT_FLOPS = 5.0  # times n p, for a vector: 4 in the first layer, 12 in the others, less bends


class LayerPairs:
    """Σ ∇²θ L, or a term of it, over the batches that are added, for a model that is a chain of linear layers.

    Not `whole`: of the parameters of those at the end alone.
    """

    def __init__(
        self, problem: Problem, graph: Traced, *, whole: bool = True, term: Term = HESSIAN
    ) -> None:
        self._problem, self._graph, self._whole, self._term = problem, graph, whole, term
        self._first: str | None = None  # node of those at the end
        self._scratch = Scratch()
        self._own: dict[int, Own] = {}
        self._cross: dict[tuple[int, int], Cross] = {}

    def add(self, batch: Batch) -> None:
        """Sum up a batch that is `placed`. Raises ValueError where the model is no chain."""
        chain = self._chain(batch)
        for layer in chain.layers:
            self._own_of(layer).add(layer)
        for crossing in chain.crossings():
            self._cross_of(crossing).add(crossing)

    def prepare(self, probe: Batch) -> None:
        """Sums at zero, for a batch that is alike; raises what `add` does.

        Of a single row nothing shows whether rows or positions come first.
        """
        chain = self._chain(probe.at_least_two())
        self._first = None if self._whole else chain.first
        for layer in chain.layers:
            self._own_of(layer)
        for crossing in chain.crossings():
            self._cross_of(crossing)

    def _chain(self, batch: Batch) -> Chain:
        return Chain(
            self._problem,
            self._graph,
            batch,
            whole=self._whole,
            first=self._first,
            term=self._term,
        )

    def _own_of(self, layer: ChainLayer) -> Own:
        if layer.number not in self._own:
            self._own[layer.number] = Own.of(layer, self._scratch)
        return self._own[layer.number]

    def _cross_of(self, crossing: Crossing) -> Cross:
        key = (crossing.upper.number, crossing.lower.number)
        if key not in self._cross:
            self._cross[key] = Cross.of(crossing, self._scratch)
        return self._cross[key]

    @property
    def _sums(self) -> Sequence[Own | Cross]:
        return [*self._own.values(), *self._cross.values()]

    def fill(self, result: Tensor, batches: Iterable[Batch], rows: int, progress: Progress) -> bool:
        """The mean over all batches into (p, p) zeros, and whether memory sufficed."""
        try:
            with twice_differentiable():
                for batch in batches:
                    self.add(batch)
                    progress("hessian pass", batch.start + len(batch), rows, "rows")
                self.write(result, 1.0 / rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        progress("hessian", len(result), len(result), "parameters")
        return True

    def write(self, result: Tensor, scale: float) -> None:
        """Scale times the sum, into (p, p) zeros; the sums are used up."""
        for each in self._sums:
            each.write(result, scale)

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters in the sums."""
        return frozenset(name for own in self._own.values() for name in own.parameters)

    @property
    def tied(self) -> bool:
        """Whether a parameter is in several layers: then H is symmetric up to rounding only."""
        slices = [name for own in self._own.values() for name in own.parameters]
        return len(set(slices)) < len(slices)

    def flops(self, rows: int) -> float:
        """Operations of the matrix products for this many rows."""
        return 2.0 * rows * sum(each.entries for each in self._sums)

    def pays(self, rows: int, vectors: int, width: int) -> bool:
        """Whether the sums and 2 p² operations a vector cost less than that many products."""
        size = self._problem.size
        product = PRODUCT_FLOPS * rows * size / (PRODUCT_RATE * min(1.0, width / PRODUCT_WIDTH))
        explicit = 2.0 * size * size / (EXPLICIT_RATE * min(1.0, width / EXPLICIT_WIDTH))
        return self.flops(rows) / SUMS_RATE + vectors * explicit < vectors * product

    def rows_at_once(self, budget: int) -> int:
        """Rows of a batch within the budget."""
        kind = self._problem.device.type
        row = COPIES * self._problem.theta.element_size() * max(each.sides for each in self._sums)
        fitting = max(1, budget // row)
        return max(1, min(fitting, max(FEWEST_ROWS, _batch_bytes(kind) // row)))


def layer_pairs(problem: Problem, probe: Batch, term: Term = HESSIAN) -> LayerPairs | None:
    """The sums, at zero, if the model is such a chain and torch agrees on a few rows; else None."""
    graph = agreeing_graph(problem, probe, term)
    if graph is None:
        return None
    pairs = LayerPairs(problem, graph, term=term)
    try:
        pairs.prepare(probe)
    except Exception:  # whatever it is, the products will meet it too, and explain it
        return None
    return pairs


def agreeing_graph(problem: Problem, probe: Batch, term: Term = HESSIAN) -> Traced | None:
    """The model's graph if its analytic products are torch's own on a few rows; else None."""
    graph = traced(problem)
    if graph is None:
        return None
    derivatives: list[Derivative] = [BY_TORCH[term][0], AnalyticHvp(graph, term)]
    try:
        if len(agreeing(problem, probe, derivatives)) < len(derivatives):
            return None
    except Exception:  # whatever it is, the products will meet it too, and explain it
        return None
    return graph


def _batch_bytes(kind: str) -> int:
    return BATCH_BYTES.get(kind, BATCH_BYTES_ELSEWHERE)


def symmetrise(matrix: Tensor, width: int) -> Tensor:
    """The mean with its transpose, tile by tile: a transposed copy would be a second Hessian."""
    for first in range(0, len(matrix), width):
        for second in range(0, first + 1, width):
            upper = matrix[second : second + width, first : first + width]
            lower = matrix[first : first + width, second : second + width]
            mean = (upper + lower.T) / 2
            upper.copy_(mean)
            lower.copy_(mean.T)
    return matrix
