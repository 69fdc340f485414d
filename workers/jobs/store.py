"""What the blocks of a job leave to those after them: in memory, or as objects that other workers find."""

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
from service.storage.objects import ObjectMeta, Objects
from service.storage.row_blocks import RowBlocks, block_path, layers
from service.storage.tensors import read_entry, read_header, read_note
from upweight.schema import AttributionJob, InfluencesJob
from workers.fits.store import ROTATION, SQUARES, SUMS, StoredFits, Tensors, as_tensor
from workers.jobs import stored_index
from workers.jobs.inputs import JobInputs, stored_rows
from workers.jobs.merge import Ranking
from workers.jobs.paths import BlockPaths
from workers.jobs.plan import Plan, Stage
from workers.jobs.results import ResultWriter
from workers.jobs.steps import IndexBlock, Scores, SelfInfluences, Solved
from workers.jobs.table import Table

FACTORS = "factors"
SELF_INFLUENCES = "self_influences"
MEAN_SUMS = "mean_sums"
SAMPLE = "sample"
CELLS = "cells"


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
        matrix = NewMatrix(writer.paths.index_numbers, shape, chunk, "float16")
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


class MemoryStore(BlockStore):
    """For one task that does all blocks in order. It stores what belongs to the result, and merges as blocks go by."""

    def __init__(
        self, request: AttributionJob, inputs: JobInputs, plan: Plan, writer: ResultWriter
    ) -> None:
        super().__init__(request, inputs, plan, writer)
        self._solved: list[Tensor] = []
        self._summaries: list[list[dict[str, Any]]] = []
        self._of_rows: list[Tensors] = []
        self._of_fit: Tensors = {}
        self._tops: dict[int, Ranking] = {}
        self._mean_sums: dict[int, Tensor] = {}
        self._samples: dict[int, list[Tensor]] = {}
        self._cells: dict[tuple[int, int], Tensor] = {}
        self._rotation: Tensors | None = None
        self._self_influences: list[Tensor] = []

    @property
    def factors_folder(self) -> str:
        """Of the result itself."""
        return self.writer.paths.factors

    def sums(self, compute: Callable[[int], Tensors]) -> Iterator[Tensors]:
        """Computed when the fit wants them: one is in memory at a time, and none if the fit is there already."""
        assert self.plan.hessian is not None
        return map(compute, range(self.plan.hessian.count))

    def rotation(self, compute: Callable[[], Tensors]) -> Tensors:
        """Computed when the second sums want it, and kept until the fit is made."""
        if self._rotation is None:
            self._rotation = compute()
        return self._rotation

    def squares(self, compute: Callable[[int], Tensors]) -> Iterator[Tensors]:
        """As the first sums."""
        return self.sums(compute)

    def drop_sums(self) -> None:
        """Lets the eigenvectors go: the fit has them."""
        self._rotation = None

    def put_solved(self, number: int, block: Solved) -> str:
        """Kept on the device, and stored if it belongs to the result."""
        self._solved.append(block.x)
        self._found(block)
        self._of_rows.append(block.of_rows)
        if not self.request.keeps_factors:
            return ""
        return write_solved(
            self.writer, block_path(self.factors_folder, number), block, self.layered
        )

    def put_self_influences(self, number: int, block: SelfInfluences) -> str:
        """Stored."""
        self._found(block)
        if self.layered is not None:  # for their correlation
            self._self_influences.append(block.values.cpu())
        return write_self_influences(self.writer, number, block, self.layered)

    def _found(self, block: Solved | SelfInfluences) -> None:
        self._summaries.append(block.summaries)
        self._of_fit = block.of_fit

    def put_scores(self, number: int, block: Scores) -> str:
        """Merged; the chunk of the matrix is stored."""
        test, train = self.plan.contraction(number)
        self._split_chunk(self.writer, number, block)
        if block.top:
            assert isinstance(self.request, InfluencesJob)
            self._tops.setdefault(test, Ranking(self.request.keep.top)).add_ranked(block.top)
        if block.mean_sums is not None and train in self._mean_sums:
            self._mean_sums[train] += block.mean_sums
        elif block.mean_sums is not None:
            self._mean_sums[train] = block.mean_sums
        if block.sample is not None:
            self._samples.setdefault(test, []).append(block.sample)
        if block.cells is not None:
            assert self.table is not None
            cell = self.table.cell(number)
            before = self._cells.get(cell)
            self._cells[cell] = block.cells if before is None else before + block.cells
        if block.matrix is None:
            return ""
        return self._chunk(self.writer, test, train, block.matrix)

    def solved_rows(self, rows: slice) -> Tensor:
        """Copied, as where they are read: products round otherwise where factors lie otherwise."""
        if len(self._solved) > 1:
            self._solved = [torch.cat(self._solved, 1)]
        return self._solved[0][:, rows].clone(memory_format=torch.contiguous_format)

    def tops(self, test: int) -> Iterable[Tensors]:
        """One, merged."""
        return [self._tops[test].tensors()]

    def mean_sums(self, train: int) -> Iterable[Tensor]:
        """One, added up."""
        return [self._mean_sums[train]]

    def cells(self, row: int, column: int) -> Iterable[Tensor]:
        """One, added up."""
        return [self._cells[row, column]]

    def samples(self, test: int) -> Iterable[Tensor]:
        """As they came."""
        return self._samples.get(test, [])

    def self_influences(self) -> Iterator[Tensor]:
        """As they came."""
        return iter(self._self_influences)

    def findings(self, of_fit: Callable[[], Tensors]) -> Findings | None:
        """As the blocks gave it."""
        if not self._summaries:
            return None
        return Findings(self._summaries, self._of_rows, self._of_fit)


class ObjectStore(BlockStore):
    """For blocks that are tasks of their own: what one leaves lies in the object storage, under the plan's name."""

    def __init__(
        self,
        objects: Objects,
        request: AttributionJob,
        inputs: JobInputs,
        paths: BlockPaths,
        fits: StoredFits,
    ) -> None:
        super().__init__(request, inputs, paths.plan, ResultWriter(objects, paths.result))
        self.objects, self.paths = objects, paths
        self._fits = fits
        self._rotation: Tensors | None = None

    @property
    def factors_folder(self) -> str:
        """One that jobs may share."""
        return self.paths.factors

    def factor_objects(self) -> Iterable[ObjectMeta]:
        """All of that folder."""
        return sorted(self.objects.walk(self.paths.factors), key=lambda meta: meta.path)

    def is_there(self, stage: Stage, number: int) -> bool:
        """Whether a block is done."""
        return self.objects.head(self.paths.of(stage, number)) is not None

    def there(self, stage: Stage, count: int) -> list[int]:
        """The blocks of a stage that are done."""
        return self.paths.there(self.objects, stage, count)

    def put_sums(self, number: int, sums: Tensors) -> str:
        """Stored until the fit is made of them."""
        return self.new_writer().tensors(self.paths.of("sums", number), sums)

    def sums(self, compute: Callable[[int], Tensors]) -> Iterator[Tensors]:
        """Read one after the other."""
        assert self.plan.hessian is not None
        return self._fits.partial(SUMS, self.plan.hessian.count)

    def put_rotation(self, rotation: Tensors) -> str:
        """Stored until the fit has it."""
        return self.new_writer().tensors(self.paths.of("rotate", 0), rotation)

    def rotation(self, compute: Callable[[], Tensors]) -> Tensors:
        """Read once for all blocks that this worker does."""
        if self._rotation is None:
            found = self._fits.find(ROTATION)
            if found is None:
                raise FileNotFoundError(self.paths.of("rotate", 0))
            self._rotation = found
        return self._rotation

    def put_squares(self, number: int, squares: Tensors) -> str:
        """Stored until the fit is made of them."""
        return self.new_writer().tensors(self.paths.of("squares", number), squares)

    def squares(self, compute: Callable[[int], Tensors]) -> Iterator[Tensors]:
        """Read one after the other."""
        assert self.plan.hessian is not None
        return self._fits.partial(SQUARES, self.plan.hessian.count)

    @property
    def is_fitted(self) -> bool:
        """Whether its object is there."""
        return self.is_there("fit", 0)

    def drop_sums(self) -> None:
        """Deletes them, and the eigenvectors, which the fit has."""
        self._rotation = None
        for path in (self.paths.sums, self.paths.squares, self.paths.of("rotate", 0)):
            self.objects.delete_prefix(path)

    def put_solved(self, number: int, block: Solved) -> str:
        """With what was found out about its rows."""
        return write_solved(self.new_writer(), self.paths.of("solve", number), block, self.layered)

    def put_self_influences(self, number: int, block: SelfInfluences) -> str:
        """Stored."""
        return write_self_influences(self.new_writer(), number, block, self.layered)

    def put_scores(self, number: int, block: Scores) -> str:
        """What is merged first, the matrix's chunk last: with it the block is done."""
        digest, writer, parts = "", self.new_writer(), dict(block.top)
        self._split_chunk(writer, number, block)
        if block.mean_sums is not None:
            parts[MEAN_SUMS] = block.mean_sums
        if block.sample is not None:
            parts[SAMPLE] = block.sample
        if block.cells is not None:
            parts[CELLS] = block.cells
        if parts:
            digest = writer.tensors(self.paths.part(number), parts)
        if block.matrix is not None:
            digest = self._chunk(writer, *self.plan.contraction(number), block.matrix)
        return digest

    def new_writer(self) -> ResultWriter:
        """A new one: the digests of all blocks are known to Redis, and to the store's own writer at the end."""
        return ResultWriter(self.objects, self.paths.result)

    def solved_rows(self, rows: slice) -> Tensor:
        """Read block by block."""
        names = layers(FACTORS, self.layered)
        kept = [RowBlocks(self.objects, self.paths.factors, self.plan.rhs, name) for name in names]
        return stored_rows(kept, rows, self.inputs.problem)

    def tops(self, test: int) -> Iterable[Tensors]:
        """Read one after the other."""
        for train in range(self.plan.train.count):
            yield self._part(test, train, _is_ranked)

    def mean_sums(self, train: int) -> Iterable[Tensor]:
        """Read one after the other."""
        for test in range(self.plan.test.count):
            yield self._part(test, train, MEAN_SUMS.__eq__)[MEAN_SUMS]

    def cells(self, row: int, column: int) -> Iterable[Tensor]:
        """Read one after the other."""
        assert self.table is not None
        for number in self.table.contractions(row, column):
            yield self._part(*self.plan.contraction(number), CELLS.__eq__)[CELLS]

    def samples(self, test: int) -> Iterable[Tensor]:
        """Read one after the other."""
        for train in range(self.plan.train.count):
            yield self._part(test, train, SAMPLE.__eq__)[SAMPLE]

    def self_influences(self) -> Iterator[Tensor]:
        """Read one after the other."""
        for number in range(self.plan.train.count):
            path = self.paths.of("contract", number)
            header = read_header(self.objects, path)
            names = layers(SELF_INFLUENCES, self.layered)
            yield torch.stack(
                [as_tensor(read_entry(self.objects, path, header[name])) for name in names]
            )

    def _part(self, test: int, train: int, wanted: Callable[[str], bool]) -> Tensors:
        """What `put_scores` left to be merged, as far as it is wanted."""
        path = self.paths.part(test * self.plan.train.count + train)
        return {
            name: as_tensor(read_entry(self.objects, path, entry))
            for name, entry in read_header(self.objects, path).items()
            if wanted(name)
        }

    def findings(self, of_fit: Callable[[], Tensors]) -> Findings | None:
        """Read block by block."""
        is_self = self.paths.is_self
        if not is_self and not self.plan.solves:
            return None
        stage: Stage = "contract" if is_self else "solve"
        paths = [self.paths.of(stage, number) for number in range(self.plan.stages()[stage])]
        of_rows = [] if is_self else [self._of_rows(path) for path in paths]
        summaries = [_summaries(read_note(self.objects, path)) for path in paths]
        return Findings(summaries, of_rows, of_fit())

    def _of_rows(self, path: str) -> Tensors:
        """What was found out about each right-hand side of a block, (L, k, …)."""
        return {
            name: _with_axis(as_tensor(read_entry(self.objects, path, entry)), self.layered)
            for name, entry in read_header(self.objects, path).items()
            if name.partition(".")[0] != FACTORS
        }


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


def _with_axis(values: Tensor, layered: int | None) -> Tensor:
    return values[None] if layered is None else values


def _is_ranked(name: str) -> bool:
    return name not in (MEAN_SUMS, SAMPLE, CELLS)


def _note(summaries: Sequence[dict[str, Any]], layered: int | None) -> str:
    said: Any = summaries[0] if layered is None else {"dampings": summaries}
    return json.dumps(said, sort_keys=True)


def _summaries(note: str) -> list[dict[str, Any]]:
    said = json.loads(note)
    return list(said["dampings"]) if "dampings" in said else [said]
