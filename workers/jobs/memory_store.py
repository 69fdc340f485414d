"""What the blocks of a job leave in memory, where one task does them all in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from service.storage.row_blocks import block_path
from upweight.schema import AttributionJob, InfluencesJob
from workers.fits.store import Tensors
from workers.jobs.blocks import Scores, SelfInfluences, Solved
from workers.jobs.inputs import JobInputs
from workers.jobs.merge import Ranking
from workers.jobs.plan import Plan
from workers.jobs.results import ResultWriter
from workers.jobs.store import BlockStore, Findings, write_self_influences, write_solved


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
