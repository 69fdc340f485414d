"""RowSums over the training rows with a block of vectors: Σ ∇² L(zᵢ) v, or a term of it, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.autodiff.derivative import AccumulatingMap, BlockSums, Derivative, LinearMap
from workers.engine.autodiff.graph.assemble import Assembly
from workers.engine.autodiff.graph.convolution import MOST_KEPT, Convolution
from workers.engine.autodiff.graph.output import Term
from workers.engine.autodiff.graph.trace import traced
from workers.engine.autodiff.hvp import ReverseLoop
from workers.engine.autodiff.outer import GaussNewtonLoop, GradientLoop
from workers.engine.autodiff.select import convolves, products_of, select
from workers.engine.curvature.sampled import SampledRows
from workers.engine.model.batching import (
    BatchSize,
    BlockPlan,
    RowBlock,
    activation_bytes,
    over_rows,
)
from workers.engine.model.nonfinite import refuse_nonfinite_rows
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.second_order import is_out_of_memory, twice_differentiable
from workers.engine.progress import Progress

# What a pass prepares for each batch is kept for the next one if it all fits into this part of the
# byte budget: with few vectors a pass is mostly preparation (`python -m benchmarks.peers --case mlp-cg`).
KEPT_PART = 0.5
# So much of it stays beside what other batches of rows prepare; more is made anew afterwards.
KEPT_BESIDE = 1 << 24
LOOPED = (ReverseLoop, GaussNewtonLoop, GradientLoop)
LOOPED_VECTORS = 4
# From so many parameters on, what agreed with autograd in float32 is not compared in float64 again: that holds twice as
# many vectors as all else.
LARGE = 1 << 16
SAMPLED_PART = 0.125  # of the byte budget, for all rows that random samples are taken from


class RowSums:
    """The sums over rows that a curvature is made of, of a term of ∇² L; damping and means are its own.

    `block` is the rows and vectors taken at a time at present; running out of memory lowers it. What
    multiplies, one for a vector and one for several, is selected by a rule of model and device,
    unless `named`.
    """

    def __init__(
        self,
        problem: Problem,
        rows: Rows,
        batch_size: BatchSize,
        budget_bytes: int,
        progress: Progress,
        named: str | None,
        term: Term,
    ) -> None:
        self._problem, self._rows, self._term = problem, rows, term
        self._progress, self._named = progress, named
        self.row_bytes = activation_bytes(problem, rows)
        unfolded = _unfolded_bytes(problem, rows, bends=term.bends)
        self._kept_bytes = (self.row_bytes + unfolded) * len(rows)
        self._keeps_prepared = self._kept_bytes <= KEPT_PART * budget_bytes
        self._plan = BlockPlan(
            problem.device.type, len(rows), self.row_bytes, budget_bytes, batch_size, unfolded
        )
        self.block = self.widest
        self.derivatives: dict[bool, Derivative] = {}
        self._trusted: RowSums | None = None
        self.prepared: dict[tuple[str, int, int], LinearMap] = {}
        self._rows_seen_finite = False
        self._sampled = SampledRows(
            problem, rows, self.row_bytes + unfolded, int(SAMPLED_PART * budget_bytes)
        )

    @property
    def widest(self) -> RowBlock:
        """The block for as many vectors as are taken at a time."""
        return self._plan.of(self._plan.widest)

    def over_all(self, vectors: Tensor) -> Tensor:
        """Σ ∇² L(zᵢ) v over all rows, for each row v of (k, p)."""
        total = torch.zeros_like(vectors)
        self.block = self._plan.of(len(vectors))
        while not self._summed(vectors, total):
            total.zero_()
        return total

    def over_sample(self, indices: Tensor, vectors: Tensor) -> Tensor:
        """Σ ∇² L(zᵢ) v over the rows with these numbers, which fit into memory together."""
        self.block = self._plan.of(len(vectors))
        total = torch.zeros_like(vectors)
        sums = BlockSums(total)
        for numbers in indices.split(self.block.rows):
            derivative = self.derivatives.get(len(vectors) > 1)
            kept = derivative and self._sampled.linearized(derivative, numbers)
            if derivative and kept:
                self._apply(derivative, kept, 0, vectors, sums)
            else:
                self._add(self._problem.placed(self._rows.take(numbers)), vectors, sums)
        sums.settle()
        return total

    def over_part(self, indices: Tensor, vectors: Tensor) -> Tensor | None:
        """Σ ∇² L(zᵢ) v over the rows with these numbers, ascending, however many; None where memory ends."""
        self.block = self._plan.of(len(vectors))
        if self._kept_bytes > KEPT_BESIDE:
            self.prepared.clear()
        try:
            return self._over(self._taken(indices), vectors)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._keep_nothing()
            return None

    def inspected(self, batch: Batch) -> Batch:
        """The batch on the device, its numbers found finite. Raises NotFinite."""
        batch = self._problem.placed(batch)
        if not self._rows_seen_finite:
            refuse_nonfinite_rows(batch)
        return batch

    def derivative(self, batch: Batch, vectors: Tensor) -> Derivative:
        """What multiplies so many vectors; selected on this batch if nothing is yet."""
        several = vectors.shape[0] > 1
        if several not in self.derivatives:
            found = self._compared_before(several)
            self.derivatives[several] = found or select(
                self._problem,
                batch,
                products_of(self._problem, self._term),
                several=several,
                row_bytes=self.row_bytes,
                named=self._named,
                between=lambda: self._report(batch.start),
            )
        return self.derivatives[several]

    def trust(self, other: RowSums) -> None:
        """Of a large model take the ways that were compared for the same one in another precision."""
        if self._problem.size >= LARGE:
            self._trusted = other

    def _compared_before(self, several: bool) -> Derivative | None:
        compared = None if self._trusted is None else self._trusted.derivatives.get(several)
        if compared is None:
            return None
        given = products_of(self._problem, self._term)
        return next((each for each in given if each.name == compared.name), None)

    def ended(self) -> None:
        """All rows have been gone through, and were finite."""
        self._rows_seen_finite = True

    def _summed(self, vectors: Tensor, total: Tensor) -> bool:
        """All rows' products added to total; False when memory ended in the middle, and a part of a batch is in it."""
        sums = BlockSums(total)
        spoilt: list[Batch] = []

        def work(batch: Batch) -> None:
            try:
                self._batch_product(batch, vectors, sums)
            except (RuntimeError, MemoryError):
                spoilt.append(batch)
                raise

        passed = over_rows(
            self._rows, self.block, work, what="hessian pass", progress=self._progress
        )
        for _ in passed:
            if spoilt:
                return False
        sums.settle()
        return True

    def _batch_product(self, batch: Batch, vectors: Tensor, sums: BlockSums) -> None:
        """Adds the batch's sum times all vectors."""
        batch = self.inspected(batch)
        derivative = self.derivative(batch, vectors)
        key = (derivative.name, batch.start, len(batch))
        try:
            with twice_differentiable():
                apply = self.prepared.get(key) or derivative.prepare(self._problem, batch)
                self._apply(derivative, apply, batch.start, vectors, sums)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                self._keep_nothing()
            raise
        if self._keeps_prepared:
            self.prepared[key] = apply

    def _over(self, parts: Iterable[Batch], vectors: Tensor) -> Tensor:
        """Summed over the rows of these batches, each small enough."""
        total = torch.zeros_like(vectors)
        sums = BlockSums(total)
        for part in parts:
            self._add(part, vectors, sums)
        sums.settle()
        return total

    def _add(self, batch: Batch, vectors: Tensor, sums: BlockSums) -> None:
        """The batch's sum times all vectors, of which nothing is kept."""
        derivative = self.derivative(batch, vectors)
        with twice_differentiable():
            apply = derivative.prepare(self._problem, batch)
            self._apply(derivative, apply, batch.start, vectors, sums)

    def _taken(self, indices: Tensor) -> Iterator[Batch]:
        for numbers in indices.split(self.block.rows):
            self._report(int(numbers[0]))
            yield self._problem.placed(self._rows.take(numbers))

    def _apply(
        self,
        derivative: Derivative,
        apply: LinearMap,
        start: int,
        vectors: Tensor,
        sums: BlockSums,
    ) -> None:
        # What takes one vector at a time gains nothing from many, and would hear of a
        # cancellation late.
        width = LOOPED_VECTORS if isinstance(derivative, LOOPED) else self.block.vectors
        for first in range(0, len(vectors), width):
            if first:
                self._report(start)
            part = vectors[first : first + width]
            into = sums.of(first, len(part))
            if isinstance(apply, AccumulatingMap):
                apply.add(part, into)
            else:
                into.add(apply(part))

    def _keep_nothing(self) -> None:
        self.prepared.clear()
        self._keeps_prepared = False

    def _report(self, row: int) -> None:
        self._progress("hessian pass", row, len(self._rows), "rows")


@dataclass(frozen=True)
class ConvolutionBytes:
    """What products keep of the convolutions of a model's graph. A row's windows of the inputs, and of the cotangents,
    which products with the Hessian take; and whatever the rows, the matrices of small images over all places."""

    windows: int = 0
    reached: int = 0
    matrices: int = 0


def convolution_bytes(problem: Problem, batch: Batch) -> ConvolutionBytes:
    """Of a row like the first of the batch, which is `placed`; nothing where there is no graph."""
    graph = traced(problem) if len(batch) and convolves(problem.module) else None
    if graph is None:
        return ConvolutionBytes()
    # Whatever it is, the products will meet it, too, and explain it.
    with suppress(Exception), twice_differentiable():
        nodes = Assembly(problem, graph, batch.narrow(0, 1).at_least_two(), None).nodes
        found = [each for each in nodes if isinstance(each, Convolution)]
        windows = sum(each.unfolded_bytes(bends=False) for each in found)
        both = sum(each.unfolded_bytes(bends=True) for each in found)
        matrices = min(MOST_KEPT, sum(each.over_places_bytes for each in found))
        return ConvolutionBytes(windows, both - windows, matrices)
    return ConvolutionBytes()


def _unfolded_bytes(problem: Problem, rows: Rows, *, bends: bool) -> int:
    """Bytes of the windows that the convolutions of the model's graph keep for a row; 0 where it has none."""
    if not len(rows):
        return 0
    first = next(iter(rows.batches(1)))
    shapes = tuple(each.shape[1:] for each in first.inputs)
    found = problem.once(
        ("convolutions", shapes), lambda: convolution_bytes(problem, problem.placed(first))
    )
    return found.windows + (found.reached if bends else 0)
