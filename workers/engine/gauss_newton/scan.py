"""One pass over the training rows for the longest columns of G."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.engine.autodiff.graph.output import Term
from workers.engine.autodiff.graph.trace import Traced
from workers.engine.gauss_newton.batch import ColumnsOfBatch
from workers.engine.gauss_newton.columns import Outer, OuterProducts, RootColumns, Written
from workers.engine.model.batching import RowBlock, over_rows
from workers.engine.model.parameters import ParameterSlice
from workers.engine.model.problem import Problem
from workers.engine.model.rows import Batch, Rows
from workers.engine.model.second_order import twice_differentiable
from workers.engine.progress import Progress

# Rows at a time: error signals of a few layers, and of what is written out this many bytes.
ROWS_AT_ONCE = 512
WRITTEN_BYTES = 1 << 25


@dataclass
class Longest:
    """The `most` longest columns longer than `least`, squares of norms counted."""

    least: float
    most: int
    total: float = 0.0  # of all columns seen, the short ones too
    squares: list[Tensor] = field(default_factory=list)
    pieces: list[tuple[Tensor, ...]] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)  # of all columns of each row

    def add(self, squares: Tensor, pieces: Sequence[Tensor]) -> None:
        """Columns' squares (B,) and what they are made of, each (B, ...)."""
        self.total += float(squares.sum())
        kept = (squares > self.least).nonzero()[:, 0]
        if not len(kept):
            return
        self.squares.append(squares[kept])
        self.pieces.append(tuple(each[kept] for each in pieces))
        self._bound()

    def join(self, other: Longest) -> None:
        """Take in what another has kept."""
        self.total += other.total
        self.rows += other.rows
        self.squares += other.squares
        self.pieces += other.pieces
        self._bound()

    def _bound(self) -> None:
        if sum(map(len, self.squares)) > 2 * self.most:
            self.shrink()

    def shrink(self) -> None:
        """To the longest, in one piece, in the order they came."""
        squares = torch.cat(self.squares)
        longest = squares.argsort(descending=True, stable=True)[: self.most].sort().values
        self.squares = [squares[longest]]
        whole = zip(*self.pieces, strict=True)
        self.pieces = [tuple(torch.cat(each)[longest] for each in whole)]

    @property
    def share(self) -> float:
        """Of the trace of G Gᵀ that is kept."""
        return float(sum(each.sum() for each in self.squares)) / self.total if self.total else 0.0

    @property
    def traces(self) -> Tensor:
        """(n,) what each row seen adds to the trace of G Gᵀ."""
        return torch.cat(self.rows)


def longest_columns(
    problem: Problem,
    graph: Traced,
    rows: Rows,
    longest: Longest,
    *,
    outer: bool,
    term: Term,
    progress: Progress,
) -> RootColumns | None:
    """What `longest` keeps of G, by `outer` products or written out; None if that is nothing."""
    width = problem.size * problem.theta.element_size()
    at_once = ROWS_AT_ONCE if outer else max(1, min(ROWS_AT_ONCE, WRITTEN_BYTES // width))
    scale = len(rows) ** -0.5
    places: list[tuple[ParameterSlice | None, ParameterSlice | None]] = []

    def work(batch: Batch) -> Longest:
        local = Longest(longest.least, longest.most)
        with twice_differentiable():
            found = ColumnsOfBatch(problem, graph, problem.placed(batch), term)
            traces = problem.theta.new_zeros(len(batch))
            for number in range(found.count):
                squares, pieces = (found.outer if outer else found.written)(number, scale)
                traces += squares
                local.add(squares, pieces)
            local.rows.append(traces)
        if outer and not places:
            places.extend(found.places)
        return local

    block = RowBlock(min(at_once, len(rows)))
    for _, local in over_rows(rows, block, work, what="preconditioner", progress=progress):
        longest.join(local)
    if not longest.squares:
        return None
    longest.shrink()
    pieces = longest.pieces[0]
    if not outer:
        return Written(pieces[0])
    layers = [
        Outer(*each, inputs, signals.T.contiguous())
        for each, inputs, signals in zip(places, pieces[::2], pieces[1::2], strict=True)
    ]
    return OuterProducts(layers, problem.size)
