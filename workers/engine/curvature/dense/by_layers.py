"""The Hessian, or a term of it, of any model with analytic products, a layer's unit vectors at a time.

A unit vector of a layer moves nothing before it, and H is symmetric: of its row only what belongs to
this layer and later ones is asked for, so both passes run over a part of the graph. The layers at
the end that are a chain of linear ones need no unit vectors: they are summed up by pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from workers.engine.autodiff.derivative import Sums
from workers.engine.autodiff.graph.assemble import ParameterNode
from workers.engine.autodiff.graph.linearized import Linearized
from workers.engine.autodiff.graph.nodes import Node, Tangent
from workers.engine.autodiff.graph.output import Term
from workers.engine.autodiff.graph.trace import Traced
from workers.engine.curvature.dense.build import LayerPairs
from workers.engine.model.parameters import ParameterSlice
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch
from workers.engine.model.second_order import is_out_of_memory, twice_differentiable
from workers.engine.progress import Progress


@dataclass
class ByLayers:
    """Σ ∇²θ L over batches; raises ValueError for a model with a node that has no rule."""

    problem: Problem
    graph: Traced
    term: Term
    width: int  # unit vectors at a time
    products: int = 0  # unit vectors multiplied, over all rows

    def fill(self, result: Tensor, batches: Iterable[Batch], rows: int, progress: Progress) -> bool:
        """The mean over all batches into (p, p) zeros, and whether memory sufficed."""
        try:
            with twice_differentiable():
                self._sum_up(result, batches, rows, progress)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        progress("hessian", len(result), len(result), "parameters")
        return True

    def _sum_up(
        self, result: Tensor, batches: Iterable[Batch], rows: int, progress: Progress
    ) -> None:
        tail: LayerPairs | None = None
        places: dict[str, int] = {}
        for batch in batches:
            if not places:
                tail = self._tail(batch)
            if tail is not None:
                tail.add(batch)
            linearized = Linearized.made(self.graph, self.problem, batch, term=self.term)
            places = _first_nodes(linearized.nodes)
            known = tail.parameters if tail is not None else frozenset()
            moved = [each for each in self.problem.layout if each.name not in known]
            for place, first, last in self._blocks(moved, places):
                progress("hessian pass", batch.start, rows, "rows")
                units = result.new_zeros(last - first, len(result))
                units[:, first:last].fill_diagonal_(1.0)
                sums = Sums(result[first:last])
                theta_tangent = Tangent(units, frozenset({place.name}))
                linearized.pass_through(theta_tangent, sums, places[place.name])
                sums.settle()
        self.products = sum(each.size for each in moved if each.name in places)
        result /= rows
        _mirror(result, moved, self.problem.layout, places)
        if tail is not None:
            tail.write(result, 1.0 / rows)

    def _tail(self, batch: Batch) -> LayerPairs | None:
        try:
            tail = LayerPairs(self.problem, self.graph, whole=False, term=self.term)
            tail.prepare(batch)
        except ValueError:  # no such layers, or their weights are used before, too
            return None
        except RuntimeError as error:  # shapes that no row has alone
            if is_out_of_memory(error):
                raise
            return None
        return tail

    def _blocks(
        self, moved: Sequence[ParameterSlice], places: dict[str, int]
    ) -> Iterator[tuple[ParameterSlice, int, int]]:
        for place in moved:
            if place.name not in places:  # nothing of the loss depends on it
                continue
            end = place.offset + place.size
            for first in range(place.offset, end, self.width):
                yield place, first, min(first + self.width, end)


def _first_nodes(nodes: Sequence[Node]) -> dict[str, int]:
    """The number of the first node that has it, of each parameter's name."""
    places: dict[str, int] = {}
    for number, node in enumerate(nodes):
        if isinstance(node, ParameterNode):
            for each in node.places:
                places.setdefault(each.name, number)
    return places


def _mirror(
    result: Tensor,
    moved: Sequence[ParameterSlice],
    layout: Sequence[ParameterSlice],
    places: dict[str, int],
) -> None:
    """What was asked for one way, the other way round."""
    for upper in moved:
        for lower in layout:
            if upper.name not in places or lower.name not in places:
                continue
            if places[lower.name] > places[upper.name]:
                _view(result, lower, upper).copy_(_view(result, upper, lower).T)


def _view(matrix: Tensor, rows: ParameterSlice, columns: ParameterSlice) -> Tensor:
    block = matrix[rows.offset : rows.offset + rows.size]
    return block[:, columns.offset : columns.offset + columns.size]
