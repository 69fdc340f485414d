"""The last block of a job: merges what the others have left, and writes the manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from service.storage.cuts import Cut
from service.storage.objects import ObjectMeta
from service.storage.row_blocks import block_path
from upweight.schema import InfluencesJob, SelfInfluencesJob, Verdict
from workers.engine import EngineError
from workers.jobs import verdict
from workers.jobs.merge import Ranking, mean_of, merged_summary
from workers.jobs.plan import Plan
from workers.jobs.results import ResultWriter
from workers.jobs.work import AnyJob, Tensors, Work
from workers.programs.models import described_layout

MEAN_ROWS = 1 << 20  # of one object


class Parts(Protocol):
    """What contractions left to be merged, in the order of their blocks; what has been merged already is one."""

    def tops(self, test: int) -> Iterable[Tensors]:
        """Of one block of test rows, over the blocks of training rows."""
        ...

    def mean_sums(self, train: int) -> Iterable[Tensor]:
        """Of one block of training rows, over the blocks of test rows."""
        ...


@dataclass(frozen=True)
class Findings:
    """What the blocks found out beside their numbers: block by block, and about H."""

    summaries: Sequence[dict[str, Any]]
    of_rows: Sequence[Tensors] = ()
    of_fit: Tensors = field(default_factory=dict)

    @property
    def eigenvalues(self) -> Tensor | None:
        """(k,) those of H that are known: all, the largest, or both ends."""
        ends = [
            self.summaries[-1][each]
            for each in ("smallest_eigenvalue", "largest_eigenvalue")
            if each in self.summaries[-1]
        ]
        return self.of_fit.get("eigenvalues", torch.tensor(ends) if ends else None)


@dataclass(frozen=True)
class Finish:
    """Of one job. `factors` is the folder of its factors, `None` where it computed none."""

    request: AnyJob
    plan: Plan
    work: Work
    writer: ResultWriter
    factors: str | None

    def run(
        self,
        parts: Parts,
        findings: Findings | None,
        first_factors: Callable[[], Tensor],
        shared: Iterable[ObjectMeta],
        described: dict[str, Any],
    ) -> dict[str, Any]:
        """Answers `info`, `result` and `verdict` of a record that has succeeded."""
        summary = self._info(findings) | self.work.precision_summary()
        summary["derivative_check"] = self.work.material.derivatives().as_info()
        if isinstance(self.request, InfluencesJob):
            summary |= self.work.low_precision_summary(first_factors)
            self._tops(parts)
            self._means(parts)
        problem, result = self.work.material.problem, self._described()
        told = {**described, "stored": result["stored"], "plan": self.plan.to_json()}
        size = self.writer.commit(described_layout(problem), told, shared)
        return {
            "info": summary,
            "result": {**result, "size_bytes": size},
            "verdict": self._verdict(summary, findings).model_dump(mode="json"),
        }

    @property
    def keeps_factors(self) -> bool:
        """Whether they are part of the result."""
        request = self.request
        return not isinstance(request, SelfInfluencesJob) and (
            not isinstance(request, InfluencesJob) or request.keep.factors
        )

    def _verdict(self, summary: dict[str, Any], findings: Findings | None) -> Verdict:
        material = self.work.material
        if material.factors is None:
            system = verdict.solved(self.request, summary, material.problem.dtype)
        else:
            system = material.factors_solved or verdict.not_told_of_factors()
        try:
            found = material.optimality()
        except EngineError as error:
            return Verdict(solved=system, applies=verdict.not_measured(str(error)))
        known = None if findings is None else findings.eigenvalues
        damping = self.request.hessian_regularization
        return Verdict(
            solved=system,
            applies=verdict.applies(damping, found, summary, known, material.problem.size),
        )

    def _info(self, findings: Findings | None) -> dict[str, Any]:
        if findings is None:
            return {"reused": True}
        arrays = {
            name: torch.cat([each[name] for each in findings.of_rows])
            for name in (findings.of_rows[0] if findings.of_rows else ())
        }
        self.writer.tensors(self.writer.paths.info, arrays | findings.of_fit)
        return merged_summary(findings.summaries)

    def _tops(self, parts: Parts) -> None:
        assert isinstance(self.request, InfluencesJob)
        if not self.request.keep.top:
            return
        for test in range(self.plan.test.count):
            ranking = Ranking(self.request.keep.top)
            for top in parts.tops(test):
                ranking.add_ranked(top)
            self.writer.tensors(block_path(self.writer.paths.top, test), ranking.tensors())

    def _means(self, parts: Parts) -> None:
        assert isinstance(self.request, InfluencesJob)
        if not self.request.keep.mean:
            return
        dtype = self.work.material.problem.dtype
        together = Cut(self.plan.train.count, self._mean_blocks())
        for number, blocks in enumerate(together.blocks()):
            means = [
                mean_of(parts.mean_sums(train), self.plan.test.total, dtype)
                for train in range(blocks.start, blocks.stop)
            ]
            path = block_path(self.writer.paths.mean, number)
            self.writer.tensors(path, {"mean": torch.cat(means)})

    def _mean_blocks(self) -> int:
        return max(1, MEAN_ROWS // self.plan.train.step)

    def _described(self) -> dict[str, Any]:
        """The record's `result`."""
        request, plan = self.request, self.plan
        problem = self.work.material.problem
        keeps_factors = self.keeps_factors
        shape = None
        if isinstance(request, SelfInfluencesJob):
            shape = [plan.train.total]
        elif plan.contracts:
            shape = list(plan.matrix_shape())
        return {
            "influence_shape": shape,
            "factor_shape": [plan.rhs.total, problem.size] if keeps_factors else None,
            "dtype": str(problem.dtype).removeprefix("torch."),
            "stored": self._stored(),
            "layout": {
                "factor_rows": plan.rhs.step if keeps_factors else None,
                "factors": self.factors if keeps_factors else None,
                "top_rows": plan.test.step,
                "mean_rows": plan.train.step * self._mean_blocks(),
                "self_influence_rows": plan.train.step,
            },
        }

    def _stored(self) -> list[str]:
        keep = self.request.keep if isinstance(self.request, InfluencesJob) else None
        present = {
            "info": self.work.material.factors is None,
            "factors": self.keeps_factors,
            "matrix": keep is not None and keep.matrix,
            "top": keep is not None and keep.top > 0,
            "mean": keep is not None and keep.mean,
            "self_influences": isinstance(self.request, SelfInfluencesJob),
            **{f"{side}_predictions": True for side in self.plan.predicts},
        }
        return [name for name, is_there in present.items() if is_there]
