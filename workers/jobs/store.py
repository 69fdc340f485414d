"""What the blocks of a job leave to those after them; how solutions and self-influences lie in an object."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from service.storage.arrays import NewMatrix
from service.storage.objects import ObjectMeta
from service.storage.row_blocks import block_path, layers
from upweight.schema import AttributionJob
from workers.fits.store import Tensors
from workers.jobs import stored_index
from workers.jobs.blocks import IndexBlock, Scores, SelfInfluences, Solved
from workers.jobs.inputs import JobInputs
from workers.jobs.plan import Plan
from workers.jobs.results import ResultWriter
from workers.jobs.table import Table

FACTORS = "factors"
SELF_INFLUENCES = "self_influences"


@dataclass(frozen=True)
class Findings:
    """What the blocks found out beside their numbers: block by block, for each λ, and about H."""

    summaries: Sequence[Sequence[dict[str, Any]]]
    of_rows: Sequence[Tensors] = ()
    of_fit: Tensors = field(default_factory=dict)

    @property
    def eigenvalues(self) -> Tensor | None:
        """(k,) those of H that are known: all, the largest, or both ends."""
        ends = [
            self.summaries[-1][-1][each]
            for each in ("smallest_eigenvalue", "largest_eigenvalue")
            if each in self.summaries[-1][-1]
        ]
        return self.of_fit.get("eigenvalues", torch.tensor(ends) if ends else None)


class BlockStore(ABC):
    """The blocks of one job. What `put_…` answers is the digest of the block's object, "" where there is none."""

    def __init__(
        self, request: AttributionJob, inputs: JobInputs, plan: Plan, writer: ResultWriter
    ) -> None:
        self.request, self.inputs, self.plan, self.writer = request, inputs, plan, writer
        self._test_factors: tuple[int, Tensor] | None = None

    @property
    @abstractmethod
    def factors_folder(self) -> str:
        """Where the factors lie, if they are stored."""

    def factor_objects(self) -> Iterable[ObjectMeta]:
        """The factors that belong to the result and lie elsewhere than it."""
        return ()

    def put_sums(self, number: int, sums: Tensors) -> str:
        """A part of the curvature's sums. Only where parts are blocks of their own."""
        raise NotImplementedError

    def put_rotation(self, rotation: Tensors) -> str:
        """The eigenvectors that second sums are taken in."""
        raise NotImplementedError

    def put_squares(self, number: int, squares: Tensors) -> str:
        """A part of the second sums."""
        raise NotImplementedError

    @abstractmethod
    def sums(self, compute: Callable[[int], Tensors]) -> Iterator[Tensors]:
        """The parts of the curvature's sums in their order: read, or computed as they are asked for."""

    @abstractmethod
    def rotation(self, compute: Callable[[], Tensors]) -> Tensors:
        """The eigenvectors: read, or computed once."""

    @abstractmethod
    def squares(self, compute: Callable[[int], Tensors]) -> Iterator[Tensors]:
        """The parts of the second sums in their order, as `sums`."""

    @property
    def is_fitted(self) -> bool:
        """Whether the fit that sums are for is there, made by another job meanwhile."""
        return False

    def drop_sums(self) -> None:
        """After the fit that was made of them."""
        return

    @abstractmethod
    def put_solved(self, number: int, block: Solved) -> str:
        """All that later stages need of a block of solutions."""

    @abstractmethod
    def put_self_influences(self, number: int, block: SelfInfluences) -> str:
        """Those of one block of training rows."""

    def put_index(self, number: int, block: IndexBlock) -> str:
        """The numbers of one block of training rows: the factors first, for with the numbers the block is done."""
        writer, plan = self.new_writer(), self.plan
        path = block_path(writer.paths.index_factors, number)
        writer.tensors(path, {stored_index.FACTORS: block.factors})
        shape = (plan.train.total, block.numbers.shape[1])
        chunk = (plan.train.step, shape[1])
        dtype = str(block.numbers.dtype).removeprefix("torch.")
        matrix = NewMatrix(writer.paths.index_numbers, shape, chunk, dtype)
        return writer.chunk(matrix, number, 0, block.numbers)

    def new_writer(self) -> ResultWriter:
        """What writes a block: the store's own, unless blocks are tasks of their own."""
        return self.writer

    @abstractmethod
    def put_scores(self, number: int, block: Scores) -> str:
        """A chunk of the matrix, and what `finish` merges."""

    @abstractmethod
    def solved_rows(self, rows: slice) -> Tensor:
        """Some rows (L, k, p) of what was solved for, in memory of their own."""

    def factors(self, rows: slice) -> Tensor:
        """Some rows (L, k, p) of the factors, of an earlier job or of this one."""
        given = self.inputs.factors
        return self.solved_rows(rows) if given is None else given(rows)

    def test_factors(self, test: int) -> Tensor:
        """(L, m, p) of one block of test rows; kept, for the next block is mostly about the same."""
        if self._test_factors is None or self._test_factors[0] != test:
            self._test_factors = None
            self._test_factors = test, self.factors(self.plan.test.block(test))
        return self._test_factors[1]

    @cached_property
    def matrix(self) -> NewMatrix:
        """The matrix of influences, a block of scores a chunk; with an axis λ before, where the result has one."""
        dtype = str(self.inputs.problem.dtype).removeprefix("torch.")
        plan, path, layered = self.plan, self.writer.paths.influences, self.layered is not None
        first = () if self.layered is None else (self.layered,)
        table = self.table
        shape, chunk = (*first, *plan.matrix_shape()), (*first, *plan.chunk_shape())
        if table is not None:
            shape = (*first, table.rows.total, table.columns.total, *plan.trailing)
            chunk = (*first, table.rows.step, table.columns.step, *plan.trailing)
        return NewMatrix(path, shape, chunk, dtype, layered)

    @cached_property
    def split(self) -> NewMatrix:
        """The parts of each influence, cut as the matrix is."""
        plan = self.plan
        first = () if self.layered is None else (self.layered,)
        shape = (*first, plan.test.total, plan.train.total, *plan.parts)
        chunk = (*first, plan.test.step, plan.train.step, *plan.parts)
        dtype = str(self.inputs.problem.dtype).removeprefix("torch.")
        return NewMatrix(self.writer.paths.scores_by, shape, chunk, dtype, self.layered is not None)

    @cached_property
    def table(self) -> Table | None:
        """Where rows are grouped, what they come to."""
        return Table(self.plan, self.inputs.members) if self.inputs.members else None

    def put_cells(self, row: int, column: int, cells: Tensor) -> None:
        """A chunk of the table, (L, rows, columns, …), as the result has it."""
        self._chunk(self.writer, row, column, cells)

    @property
    def layered(self) -> int | None:
        """How many λ's the result has an axis of; None where it has none."""
        return self.request.damping_count if self.request.has_damping_axis else None

    def _chunk(self, writer: ResultWriter, test: int, train: int, matrix: Tensor) -> str:
        block = matrix if self.layered is not None else matrix[0]
        return writer.chunk(self.matrix, test, train, block)

    def _split_chunk(self, writer: ResultWriter, number: int, block: Scores) -> None:
        """Before what says that the block is done."""
        if block.parts is not None:
            parts = block.parts if self.layered is not None else block.parts[0]
            writer.chunk(self.split, *self.plan.contraction(number), parts)

    @abstractmethod
    def tops(self, test: int) -> Iterable[Tensors]:
        """Of one block of test rows: a ranking a block of training rows, in order; merged ones are one."""

    @abstractmethod
    def mean_sums(self, train: int) -> Iterable[Tensor]:
        """Of one block of training rows: (n,) a block of test rows, in order; merged ones are one."""

    @abstractmethod
    def cells(self, row: int, column: int) -> Iterable[Tensor]:
        """Of one chunk of the table: its sums (L, rows, columns, …) a block of the matrix, in order; merged ones are
        one."""

    @abstractmethod
    def samples(self, test: int) -> Iterable[Tensor]:
        """Of one block of test rows: (L, m', n', e) a block of training rows, in order; cut together they are one."""

    @abstractmethod
    def self_influences(self) -> Iterator[Tensor]:
        """(L, n) of each block of training rows, in order."""

    @abstractmethod
    def findings(self, of_fit: Callable[[], Tensors]) -> Findings | None:
        """What inverting has found out; None where nothing was inverted. `of_fit` asks the fit anew."""


def write_solved(writer: ResultWriter, path: str, block: Solved, layered: int | None) -> str:
    """A block of solutions as one object; answers its digest."""
    of_rows = block.of_rows
    if layered is None:
        of_rows = {name: each[0] for name, each in of_rows.items()}
    tensors = {**_by_layer(FACTORS, block.x, layered), **of_rows}
    return writer.tensors(path, tensors, _note(block.summaries, layered))


def write_self_influences(
    writer: ResultWriter, number: int, block: SelfInfluences, layered: int | None
) -> str:
    """One block of training rows as one object; answers its digest."""
    path = block_path(writer.paths.self_influences, number)
    tensors = _by_layer(SELF_INFLUENCES, block.values, layered)
    return writer.tensors(path, tensors, _note(block.summaries, layered))


def _by_layer(name: str, values: Tensor, layered: int | None) -> Tensors:
    """A tensor for each λ, of (L, …)."""
    return dict(zip(layers(name, layered), values, strict=True))


def _note(summaries: Sequence[dict[str, Any]], layered: int | None) -> str:
    said: Any = summaries[0] if layered is None else {"dampings": summaries}
    return json.dumps(said, sort_keys=True)
