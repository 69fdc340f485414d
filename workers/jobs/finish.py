"""The last block of a job: merges what the others have left, tells how it was computed, and writes the manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from service.jobs.counts import rhs_bytes
from service.settings import MIB
from service.storage.cuts import Cut
from service.storage.row_blocks import block_path, layers
from upweight.schema import AttributionJob, CurvatureJob, InfluencesJob, Keep, Verdict
from workers import engine
from workers.engine import EngineError, LayerGroups, stored
from workers.engine.autodiff.select import PROBE_ROWS
from workers.jobs import verdict
from workers.jobs.asked_damping import by_blocks
from workers.jobs.indexing import compared
from workers.jobs.merge import Ranking, mean_of, merged_summary
from workers.jobs.neighbours import MOST_OF_SELF, Sample, correlated
from workers.jobs.plan import Plan
from workers.jobs.resolved_damping import of_fit, with_known_shares
from workers.jobs.results import ResultWriter
from workers.jobs.steps import Steps, low_precision
from workers.jobs.store import BlockStore, Findings
from workers.jobs.stored_index import StoredIndex
from workers.jobs.table import Table
from workers.programs.models import described_layout

MEAN_ROWS = 1 << 20  # of one object
FIRST_FACTORS = 64  # what low precision is judged by
MORE_THAN_ONE = 2


@dataclass(frozen=True)
class Finish:
    """The end of one job, whose other blocks are done."""

    steps: Steps
    store: BlockStore

    def run(self, described: dict[str, Any]) -> dict[str, Any]:
        """Answers `info`, `result` and `verdict` of a record that has succeeded. The manifest says `described`, too."""
        steps, store = self.steps, self.store
        findings = store.findings(steps.of_fit)
        index: dict[str, Any] = {}
        if self._request.is_index:
            findings, index = self._index()
        summary = (
            self._info(findings) | _precision_summary(steps) | curvature_summary(self._request)
        )
        summary |= _derivatives_summary(steps) | _memory_summary(steps)
        summary |= _frozen_summary(steps)
        summary["derivative_check"] = steps.inputs.derivatives().as_info()
        if isinstance(self._request, InfluencesJob):
            first = slice(0, min(FIRST_FACTORS, self._plan.rhs.total))
            summary |= _low_precision_summary(steps, lambda: store.factors(first))
            if store.table is not None:
                self._tabulate(store.table, self._request.keep)
                if self._request.rescales:
                    summary["rescaled"] = {"largest_leverage": self._rescale(store.table)}
            else:
                self._tops(self._request.keep)
                self._means(self._request.keep)
        if index:
            summary["index"] = index
        alike = self._neighbours()
        if alike is not None:
            summary["rank_correlation"] = alike
        result = self._described()
        manifest = {**described, "stored": result["stored"], "plan": self._plan.to_json()}
        shared = store.factor_objects() if self._request.keeps_factors else ()
        size = self._writer.commit(described_layout(steps.inputs.problem), manifest, shared)
        found = self._verdict(summary, findings)
        damping = steps.inputs.damping
        if by_blocks(self._request):
            damping = of_fit(steps).model_dump(mode="json")
        elif damping is not None:
            known = None if findings is None else findings.eigenvalues
            damping = with_known_shares(damping, known, steps.inputs.problem.size)
        if damping is not None:
            summary["damping"] = damping
        return {
            "info": summary,
            "result": {**result, "size_bytes": size},
            "verdict": found.model_dump(mode="json"),
            **({} if damping is None else {"damping": damping}),
        }

    @property
    def _request(self) -> AttributionJob:
        return self.steps.request

    @property
    def _plan(self) -> Plan:
        return self.steps.plan

    @property
    def _writer(self) -> ResultWriter:
        return self.store.writer

    def _index(self) -> tuple[Findings, dict[str, Any]]:
        """Stores the eigenvectors beside the numbers; answers what a sample says of the system and of the cut."""
        steps, writer = self.steps, self._writer
        writer.tensors(writer.paths.index_fit, stored(steps.closed_form()))
        paths = writer.paths
        index = StoredIndex.open(writer.objects, paths.namespace, paths.job_id)
        solved, told = compared(steps, index, self._plan.budget_bytes)
        return Findings([solved.summaries], [solved.of_rows], solved.of_fit), told

    def _verdict(self, summary: dict[str, Any], findings: Findings | None) -> Verdict:
        """Of each λ, and the worst of them as the whole's; the info has the levels of each."""
        inputs, damped = self.steps.inputs, self.steps.dampings
        each = summary.get("dampings", [summary] * len(damped))
        if inputs.factors is None:
            systems = [
                verdict.solved(self._request, one, inputs.problem.dtype, damping)
                for one, damping in zip(each, damped, strict=True)
            ]
        else:
            systems = [inputs.factors_solved or verdict.not_told_of_factors()] * len(damped)
        try:
            found = inputs.optimality()
        except EngineError as error:
            fits = [verdict.not_measured(str(error))] * len(damped)
        else:
            # Of blocks with a λ each the info tells; no one λ has eigenvalues below it.
            known = None
            if findings is not None and not by_blocks(self._request):
                known = findings.eigenvalues
            fits = [
                verdict.applies(damping, found, one, known, inputs.problem.size)
                for one, damping in zip(each, damped, strict=True)
            ]
        if not self._request.has_damping_axis:
            return Verdict(solved=systems[0], applies=fits[0])
        if "dampings" in summary:
            for one, solved, applies in zip(each, systems, fits, strict=True):
                one |= {"solved": solved.level, "applies": applies.level}
        return Verdict(solved=verdict.worst(systems, damped), applies=verdict.worst(fits, damped))

    def _info(self, findings: Findings | None) -> dict[str, Any]:
        if findings is None:
            return {"reused": True}
        arrays = {
            name: torch.cat([each[name] for each in findings.of_rows], 1)
            for name in (findings.of_rows[0] if findings.of_rows else ())
        }
        merged = [merged_summary(list(each)) for each in zip(*findings.summaries, strict=True)]
        several = self._request.has_damping_axis
        if not several:
            arrays = {name: each[0] for name, each in arrays.items()}
        self._writer.tensors(self._writer.paths.info, arrays | findings.of_fit)
        if not several:
            return merged[0]
        dampings = self.steps.dampings
        each = [{"damping": one, **found} for one, found in zip(dampings, merged, strict=True)]
        # Not every λ need have the same preconditioner, and what is told of it.
        common = set.intersection(*(set(found) for found in merged))
        merged = [{name: found[name] for name in found if name in common} for found in merged]
        return {**merged_summary(merged), "dampings": each}

    def _neighbours(self) -> dict[str, Any] | None:
        """How alike the scores of neighbouring λ's rank; None where there are none."""
        if not self._request.has_damping_axis or not self._plan.contracts:
            return None
        if self._request.is_self:
            step = max(1, -(-self._plan.train.total // MOST_OF_SELF))
            whole = torch.cat([block.cpu() for block in self.store.self_influences()], 1)
            how = "Spearman's coefficient of the rows' influences on themselves" + (
                "" if step == 1 else f", of every {step}th"
            )
            return correlated([whole[:, None, ::step]], how)
        if self._request.damping_count < MORE_THAN_ONE:
            return {"neighbours": [], "how": "one λ has no neighbour"}
        blocks = (
            torch.cat(list(self.store.samples(test)), 2).flatten(2)
            for test in range(self._plan.test.count)
        )
        return correlated(blocks, Sample.of(self._plan).in_words(self._plan))

    def _tabulate(self, table: Table, keep: Keep) -> None:
        """The table from the sums of its blocks, chunk by chunk; or what is kept of it, as of a matrix."""
        layered, dtype = self.store.layered, self.steps.inputs.problem.dtype
        count = self._request.damping_count
        means = [
            torch.zeros((count, cut.stop - cut.start), dtype=torch.float64)
            for cut in (table.columns.blocks() if keep.mean else ())
        ]
        for row in range(table.rows.count):
            ranking = Ranking(keep.top)
            for column, here in enumerate(table.columns.blocks()):
                sums = reduce(torch.add, self.store.cells(row, column))
                cells = table.scaled(sums, dtype)
                if keep.matrix:
                    self.store.put_cells(row, column, cells)
                if keep.top:
                    ranking.add(here.start, cells.flatten(0, 1))
                if keep.mean:
                    means[column] += cells.double().sum(1)
            if keep.top:
                self._put_top(row, ranking)
        if keep.mean:
            values = (torch.cat(means, 1) / table.rows.total).to(dtype)
            names = layers("mean", layered)
            path = block_path(self._writer.paths.mean, 0)
            self._writer.tensors(path, dict(zip(names, values, strict=True)))

    def _rescale(self, table: Table) -> list[Any]:
        """Stores what removing the groups does at the curvature without them; answers their leverage."""
        found = list(self.steps.rescaling(table).columns(self.store.factors))
        whole = torch.stack([each for each, _ in found], 2).to(self.steps.inputs.problem.dtype)
        names = layers("rescaled", self.store.layered)
        path = block_path(self._writer.paths.rescaled, 0)
        self._writer.tensors(path, dict(zip(names, whole, strict=True)))
        leverages = torch.stack([each for _, each in found], 1)
        return list((leverages if self.store.layered is not None else leverages[0]).tolist())

    def _put_top(self, number: int, ranking: Ranking) -> None:
        tensors: dict[str, Tensor] = {}
        for name, flat in ranking.tensors().items():  # (L m, k)
            values = flat.view(self._request.damping_count, -1, flat.shape[1])
            tensors |= zip(layers(name, self.store.layered), values, strict=True)
        self._writer.tensors(block_path(self._writer.paths.top, number), tensors)

    def _tops(self, keep: Keep) -> None:
        if not keep.top:
            return
        for test in range(self._plan.test.count):
            ranking = Ranking(keep.top)
            for top in self.store.tops(test):
                ranking.add_ranked(top)
            self._put_top(test, ranking)

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
            names = layers("mean", self.store.layered)
            values = zip(names, torch.cat(means, 1), strict=True)
            self._writer.tensors(path, dict(values))

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
        elif plan.contracts and not request.is_index:
            shape = list(plan.matrix_shape())
        table = self.store.table
        if table is not None and shape is not None:
            shape = [table.rows.total, table.columns.total, *plan.trailing]
        factors = [plan.rhs.total, problem.size] if keeps_factors else None
        dampings = list(self.steps.dampings) if request.has_damping_axis else None
        if dampings is not None:
            shape = shape and [len(dampings), *shape]
            factors = factors and [len(dampings), *factors]
        return {
            "influence_shape": shape,
            "factor_shape": factors,
            "dampings": dampings,
            **self._split(),
            "dtype": str(problem.dtype).removeprefix("torch."),
            "stored": self._stored(),
            "layout": {
                "factor_rows": plan.rhs.step if keeps_factors else None,
                "factors": self.store.factors_folder if keeps_factors else None,
                "top_rows": plan.test.step if table is None else table.rows.step,
                "mean_rows": plan.train.step * self._mean_blocks()
                if table is None
                else table.columns.total,
                "self_influence_rows": plan.train.step,
            },
        }

    def _split(self) -> dict[str, Any]:
        """Of the record's `result`: what the parts of an influence are, where they are stored."""
        if not self._plan.parts or not isinstance(self._request, InfluencesJob):
            return {}
        by, layout = self._request.scores_by, self.steps.inputs.problem.layout
        names = LayerGroups(layout).names if by == "layer" else None
        return {"part_shape": list(self._plan.parts), "layers": names}

    def _stored(self) -> list[str]:
        keep = self._request.keep if isinstance(self._request, InfluencesJob) else None
        present = {
            "info": self.steps.inputs.factors is None,
            "factors": self._request.keeps_factors,
            "matrix": self._request.keeps_matrix or (keep is not None and keep.matrix),
            "top": keep is not None and keep.top > 0,
            "mean": keep is not None and keep.mean,
            "by_layer": getattr(self._request, "scores_by", "row") == "layer",
            "by_token": getattr(self._request, "scores_by", "row") == "token",
            "rescaled": isinstance(self._request, InfluencesJob) and self._request.rescales,
            "self_influences": self._request.is_self,
            "index": self._request.is_index,
            **{f"{side}_predictions": True for side in self._plan.predicts},
        }
        return [name for name, is_there in present.items() if is_there]


def _precision_summary(steps: Steps) -> dict[str, Any]:
    """What was computed in, and where that is not what the model is stored in."""
    summary: dict[str, Any] = {"precision": steps.request.precision}
    if steps.inputs.precision_note is not None:
        summary["precision_note"] = steps.inputs.precision_note
    return summary


def _derivatives_summary(steps: Steps) -> dict[str, Any]:
    """By what products with the curvature were taken where passes over the rows take them."""
    closed = steps.request.curvature.closed_form or steps.inputs.factors is not None
    if closed or steps.request.curvature.facts.one_column_a_row:
        return {}
    probe = next(iter(steps.inputs.hessian_rows.batches(PROBE_ROWS)))
    return dict(engine.derivatives_used(steps.inputs.problem, probe))


def _frozen_summary(steps: Steps) -> dict[str, Any]:
    """For how many rows the frozen layers were run, once each; nothing where they run in each pass."""
    count = steps.inputs.frozen_rows
    return {"frozen_rows": count} if count else {}


def _memory_summary(steps: Steps) -> dict[str, Any]:
    """That right-hand sides are solved for in more blocks than they need be, for want of memory."""
    cut, together = steps.plan.rhs, steps.request.inversion.together
    wished = min(cut.total, together, steps.request.blocks.rhs_rows or cut.total)
    if not steps.plan.solves or cut.step >= wished:
        return {}
    dtype = steps.inputs.problem.dtype
    vector = steps.inputs.problem.size * dtype.itemsize
    held = steps.request.inversion.vectors_of_each(single=dtype == torch.float32)
    needed = -(-rhs_bytes(vector, steps.request.damping_count, held) * wished // MIB)
    return {
        "memory_note": f"right-hand sides were solved for {cut.step} at a time, each block with passes of its own "
        f"over the rows; with UPWEIGHT_MEMORY_BYTES of at least {needed} MiB, which the operator raises, it is "
        f"{wished} at a time"
    }


def curvature_summary(request: CurvatureJob) -> dict[str, Any]:
    """Of the info: what the curvature was, and what its labels were drawn with."""
    curvature = request.curvature
    summary: dict[str, Any] = curvature.model_dump(mode="json")
    summary = {
        "curvature": summary.pop("kind"),
        **{f"curvature_{k}": v for k, v in summary.items()},
    }
    return summary | ({"label_seed": request.seed} if curvature.facts.draws_labels else {})


def _low_precision_summary(steps: Steps, factors: Callable[[], Tensor]) -> dict[str, Any]:
    """What a sample of factors (L, k, p) and training rows says of low precision; nothing in full precision."""
    precision = low_precision(steps.request.precision)
    if precision == "full":
        return {}
    found = engine.low_precision_agreement(
        steps.inputs.problem, factors().flatten(0, 1), steps.inputs.train, precision
    )
    summary = {"low_precision_correlation": found.correlation}
    return summary | ({"warning": found.warning} if found.warning else {})
