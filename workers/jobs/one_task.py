"""A job done in one task: the same blocks as on many workers, in order, with what lies between them in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from service.storage.row_blocks import block_path
from upweight.schema import InfluencesJob, SelfInfluencesJob
from workers.jobs.finish import Findings, Finish
from workers.jobs.merge import Ranking
from workers.jobs.paths import new_matrix, write_self_influences, write_solved
from workers.jobs.results import ResultWriter
from workers.jobs.work import Contracted, Cost, RowsOf, SelfInfluences, Solved, Tensors, Work


@dataclass
class OneTask:
    """All blocks of one job."""

    work: Work
    writer: ResultWriter
    # Merged as the blocks go by: a number a training row, and the top of each test row.
    _tops: dict[int, Ranking] = field(default_factory=dict)
    _sums: dict[int, Tensor] = field(default_factory=dict)

    def run(self, described: dict[str, Any]) -> tuple[dict[str, Any], Cost]:
        """Answers the record's `info` and `result`, and what it cost."""
        with self.work.measured() as cost:
            findings, factors = self._blocks()
        self._predict()
        finish = Finish(
            self.work.request, self.work.plan, self.work, self.writer, self.writer.paths.factors
        )
        first = min(64, self.work.plan.rhs.total)
        outcome = finish.run(
            self, findings, lambda: _required(factors)(slice(0, first)), (), described
        )
        return outcome, cost

    def tops(self, test: int) -> Iterable[Tensors]:
        """See `Parts`."""
        return [self._tops[test].tensors()]

    def mean_sums(self, train: int) -> Iterable[Tensor]:
        """See `Parts`."""
        return [self._sums[train]]

    def _blocks(self) -> tuple[Findings | None, RowsOf | None]:
        if self.work.plan.hessian is not None:
            self.work.fit(map(self.work.partial_hessian, range(self.work.plan.hessian.count)))
        if isinstance(self.work.request, SelfInfluencesJob):
            return _findings(self._self_influences()), None
        factors, findings = self.work.material.factors, None
        if self.work.plan.solves:
            solved = self._solved()
            findings = _findings(solved)
            together = torch.cat([each.x for each in solved]) if len(solved) > 1 else solved[0].x
            factors = together.__getitem__
        if self.work.plan.contracts:
            self._contract(_required(factors))
        return findings, factors

    def _predict(self) -> None:
        for number in range(self.work.plan.stages().get("predict", 0)):
            paths, objects = self.writer.paths, self.writer.objects
            self.writer.digests |= self.work.predict(number, objects, paths)

    def _solved(self) -> list[Solved]:
        solved = [self.work.solve(number) for number in range(self.work.plan.rhs.count)]
        request = self.work.request
        if not isinstance(request, InfluencesJob) or request.keep.factors:
            for number, block in enumerate(solved):
                write_solved(self.writer, block_path(self.writer.paths.factors, number), block)
        return solved

    def _contract(self, factors: RowsOf) -> None:
        plan = self.work.plan
        matrix = new_matrix(self.work, self.writer.paths.influences)
        for test, rows in enumerate(plan.test.blocks()):
            # In memory of their own, as where they are read: products round otherwise where factors lie otherwise.
            here = factors(rows).clone(memory_format=torch.contiguous_format)
            for train in range(plan.train.count):
                block = self.work.contract(here, test * plan.train.count + train)
                if block.matrix is not None:
                    self.writer.chunk(matrix, test, train, block.matrix)
                self._merge(test, train, block)

    def _merge(self, test: int, train: int, block: Contracted) -> None:
        request = self.work.request
        if isinstance(request, InfluencesJob) and request.keep.top:
            self._tops.setdefault(test, Ranking(request.keep.top)).add_ranked(block.top)
        if block.mean_sums is not None and train in self._sums:
            self._sums[train] += block.mean_sums
        elif block.mean_sums is not None:
            self._sums[train] = block.mean_sums

    def _self_influences(self) -> list[SelfInfluences]:
        found = []
        for number in range(self.work.plan.train.count):
            block = self.work.self_influences(number)
            path = block_path(self.writer.paths.self_influences, number)
            write_self_influences(self.writer, path, block)
            found.append(block)
        return found


def _findings(blocks: Sequence[Solved] | Sequence[SelfInfluences]) -> Findings:
    summaries = [block.summary for block in blocks]
    of_rows = [block.of_rows for block in blocks if isinstance(block, Solved)]
    return Findings(summaries, of_rows, blocks[-1].of_fit)


def _required(factors: RowsOf | None) -> RowsOf:
    assert factors is not None
    return factors
