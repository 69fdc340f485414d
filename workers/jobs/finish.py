"""The last block of a job: merges what the others have left, and writes the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from service.storage.cuts import Cut
from service.storage.row_blocks import block_path
from upweight.schema import InfluencesJob, JobRequest, Keep, Verdict
from workers.engine import EngineError
from workers.jobs import verdict
from workers.jobs.merge import Ranking, mean_of, merged_summary
from workers.jobs.plan import Plan
from workers.jobs.results import ResultWriter
from workers.jobs.steps import Steps
from workers.jobs.store import BlockStore, Findings
from workers.programs.models import described_layout

MEAN_ROWS = 1 << 20  # of one object
FIRST_FACTORS = 64  # what low precision is judged by


@dataclass(frozen=True)
class Finish:
    """The end of one job, whose other blocks are done."""

    steps: Steps
    store: BlockStore

    def run(self, described: dict[str, Any]) -> dict[str, Any]:
        """Answers `info`, `result` and `verdict` of a record that has succeeded. The manifest says `described`, too."""
        steps, store = self.steps, self.store
        findings = store.findings(steps.of_fit)
        summary = self._info(findings) | steps.precision_summary() | steps.curvature_summary()
        summary["derivative_check"] = steps.inputs.derivatives().as_info()
        if isinstance(self._request, InfluencesJob):
            first = slice(0, min(FIRST_FACTORS, self._plan.rhs.total))
            summary |= steps.low_precision_summary(lambda: store.factors(first))
            self._tops(self._request.keep)
            self._means(self._request.keep)
        result = self._described()
        manifest = {**described, "stored": result["stored"], "plan": self._plan.to_json()}
        shared = store.factor_objects() if self._request.keeps_factors else ()
        size = self._writer.commit(described_layout(steps.inputs.problem), manifest, shared)
        if steps.inputs.damping is not None:
            summary["damping"] = steps.inputs.damping
        return {
            "info": summary,
            "result": {**result, "size_bytes": size},
            "verdict": self._verdict(summary, findings).model_dump(mode="json"),
        }

    @property
    def _request(self) -> JobRequest:
        return self.steps.request

    @property
    def _plan(self) -> Plan:
        return self.steps.plan

    @property
    def _writer(self) -> ResultWriter:
        return self.store.writer

    def _verdict(self, summary: dict[str, Any], findings: Findings | None) -> Verdict:
        inputs = self.steps.inputs
        if inputs.factors is None:
            system = verdict.solved(self._request, summary, inputs.problem.dtype)
        else:
            system = inputs.factors_solved or verdict.not_told_of_factors()
        try:
            found = inputs.optimality()
        except EngineError as error:
            return Verdict(solved=system, applies=verdict.not_measured(str(error)))
        known = None if findings is None else findings.eigenvalues
        damping = self._request.dampings[0]
        return Verdict(
            solved=system,
            applies=verdict.applies(damping, found, summary, known, inputs.problem.size),
        )

    def _info(self, findings: Findings | None) -> dict[str, Any]:
        if findings is None:
            return {"reused": True}
        arrays = {
            name: torch.cat([each[name] for each in findings.of_rows])
            for name in (findings.of_rows[0] if findings.of_rows else ())
        }
        self._writer.tensors(self._writer.paths.info, arrays | findings.of_fit)
        return merged_summary(findings.summaries)

    def _tops(self, keep: Keep) -> None:
        if not keep.top:
            return
        for test in range(self._plan.test.count):
            ranking = Ranking(keep.top)
            for top in self.store.tops(test):
                ranking.add_ranked(top)
            self._writer.tensors(block_path(self._writer.paths.top, test), ranking.tensors())

    def _means(self, keep: Keep) -> None:
        if not keep.mean:
            return
        dtype = self.steps.inputs.problem.dtype
        together = Cut(self._plan.train.count, self._mean_blocks())
        for number, blocks in enumerate(together.blocks()):
            means = [
                mean_of(self.store.mean_sums(train), self._plan.test.total, dtype)
                for train in range(blocks.start, blocks.stop)
            ]
            path = block_path(self._writer.paths.mean, number)
            self._writer.tensors(path, {"mean": torch.cat(means)})

    def _mean_blocks(self) -> int:
        return max(1, MEAN_ROWS // self._plan.train.step)

    def _described(self) -> dict[str, Any]:
        """The record's `result`."""
        request, plan = self._request, self._plan
        problem = self.steps.inputs.problem
        keeps_factors = self._request.keeps_factors
        shape = None
        if request.is_self:
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
                "factors": self.store.factors_folder if keeps_factors else None,
                "top_rows": plan.test.step,
                "mean_rows": plan.train.step * self._mean_blocks(),
                "self_influence_rows": plan.train.step,
            },
        }

    def _stored(self) -> list[str]:
        keep = self._request.keep if isinstance(self._request, InfluencesJob) else None
        present = {
            "info": self.steps.inputs.factors is None,
            "factors": self._request.keeps_factors,
            "matrix": self._request.keeps_matrix,
            "top": keep is not None and keep.top > 0,
            "mean": keep is not None and keep.mean,
            "self_influences": self._request.is_self,
            **{f"{side}_predictions": True for side in self._plan.predicts},
        }
        return [name for name, is_there in present.items() if is_there]
