"""What the blocks of a job leave as objects, where each is a task of its own that any worker does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from service.storage.objects import ObjectMeta, Objects
from service.storage.row_blocks import RowBlocks, layers
from service.storage.tensors import read_entry, read_header, read_note
from upweight.schema import AttributionJob
from workers.fits.store import ROTATION, SQUARES, SUMS, StoredFits, Tensors, as_tensor
from workers.jobs.blocks import Scores, SelfInfluences, Solved
from workers.jobs.given import stored_rows
from workers.jobs.inputs import JobInputs
from workers.jobs.paths import BlockPaths
from workers.jobs.plan import Stage
from workers.jobs.results import ResultWriter
from workers.jobs.store import (
    FACTORS,
    SELF_INFLUENCES,
    BlockStore,
    Findings,
    write_self_influences,
    write_solved,
)

MEAN_SUMS = "mean_sums"
SAMPLE = "sample"
CELLS = "cells"


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


def _with_axis(values: Tensor, layered: int | None) -> Tensor:
    return values[None] if layered is None else values


def _is_ranked(name: str) -> bool:
    return name not in (MEAN_SUMS, SAMPLE, CELLS)


def _summaries(note: str) -> list[dict[str, Any]]:
    said = json.loads(note)
    return list(said["dampings"]) if "dampings" in said else [said]
