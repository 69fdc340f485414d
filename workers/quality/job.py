"""An attempt at a job of kind `quality`: reads the results that are judged, trains what the measures need, reports."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.lifecycle.states import now
from service.storage.chunks import Chunks
from service.storage.cuts import Cut
from service.storage.keys import Document
from service.storage.layout import ResultPaths
from service.storage.qualities import names_of
from service.storage.row_blocks import RowBlocks
from upweight.errors import InternalError, ResultExpired
from upweight.schema import (
    AttributionJob,
    ColumnMatch,
    DatasetRecord,
    JobRecord,
    MeasuredQuality,
    ModelRecord,
    QualityJob,
    QualityReport,
    QualityRow,
    Recipe,
    Selection,
    parse_rows,
)
from upweight.schema.inversion import METHODS
from upweight.schema.retraining import in_evaluation_mode
from workers.datasets.columns import Columns
from workers.engine import Problem, Rows, row_predictions
from workers.jobs.advance import SpreadJob, planned
from workers.jobs.attempt import Attempt, Blocks
from workers.jobs.inputs import DTYPES
from workers.jobs.results import ResultWriter
from workers.jobs.rows import MASK
from workers.process.watch import Watch
from workers.quality.baselines import Baselines
from workers.quality.blocks import BankBlocks, store_plan, stored_plan
from workers.quality.judging import Judged, Judging
from workers.quality.retrained import ByRecipe
from workers.quality.scores import of_matrix
from workers.quality.trainings import (
    FEWEST_TOGETHER,
    SHARED_BY,
    Places,
    TrainingPlan,
    Trainings,
    estimated_seconds,
    grouped,
)
from workers.retraining.bank import MOST_TOGETHER, Bank
from workers.retraining.inputs import TrainingInputs
from workers.retraining.job import trained_otherwise

READ_BYTES = 32 * 1024**2
# Which measure a verdict has, where a job has several: the nearest to retraining first.
TOLD = ("lds", "loo", "brittleness", "tail_patch", "mislabel")
UNSURE = 0.3  # below it, noise hides most of what a score could show
OTHER_MODEL = (
    0.25  # how far the recipe's mean test loss may be from the model's, as a part of the larger
)


@dataclass(frozen=True)
class QualityAttempt(Attempt[QualityJob]):
    """Reads results in slices, and goes on from the models that an earlier attempt has trained."""

    def run(self) -> dict[str, Any] | None:
        """The fields of its success; None where all workers train its models. Raises UpweightError, EngineError, and
        what `watch` raises."""
        began = time.monotonic()
        self.watch.progress("load", 0, 1, "models")
        plan = self._planned()
        if plan.spread:
            told = planned(self.context, self.namespace, self.job, plan.told())
            blocks = replace(self, job=told)._blocks(plan)
            SpreadJob(self.context, self.namespace, told).begin(blocks.there, self.watch.checkpoint)
            return None
        blocks = self._blocks(plan)
        for number in range(len(plan.groups)):
            if not blocks.is_there("retrain", number, self.watch):
                blocks.execute("retrain", number, self.watch)
        training = time.monotonic() - began
        outcome, looking = self._reported()
        return {
            **outcome,
            "cost": _cost(seconds=time.monotonic() - began, engine=training + looking),
        }

    def blocks(self) -> Blocks:
        """Of an attempt that has stored its plan."""
        plan = stored_plan(self.context.objects, self.paths)
        if plan is None:
            raise InternalError(
                f"the plan of {self.job['id']} has gone from the object storage; retry the job"
            )
        return self._blocks(plan)

    def _blocks(self, plan: TrainingPlan) -> BankBlocks:
        recipe = self.request.recipe

        def bank_of(seed: int, watch: Watch) -> Bank:
            assert recipe is not None  # where anything is trained
            return replace(self, watch=watch)._bank(recipe, seed)

        return BankBlocks(self.request, self._places, plan, bank_of, self._finish, self.watch)

    def _finish(self, watch: Watch) -> None:
        """The last block of a job that is spread."""
        context, id = self.context, self.job["id"]
        context.grids.linger(id)
        outcome, looking = replace(self, watch=watch)._reported()
        figures = context.grids.figures(id)
        cost = _cost(seconds=figures.elapsed, engine=figures.seconds + looking)
        with watch.committing():
            ended = {**outcome, "cost": cost}
            context.lifecycle.succeed(self.namespace, id, self.job["attempt"], ended)
        context.grids.close(id)

    def _planned(self) -> TrainingPlan:
        """That of an earlier attempt, or what is missing in the banks now."""
        objects, recipe = self.context.objects, self.request.recipe
        if self.job["attempt"] > 1:
            stored = stored_plan(objects, self.paths)
            if stored is not None:
                return stored
        missing = [] if recipe is None or self._retrained is None else self._missing(recipe)
        plan = self._grouped(missing)
        if plan.groups:
            self.watch.confirm()
            store_plan(objects, self.paths, plan)
        return plan

    def _missing(self, recipe: Recipe) -> list[Trainings]:
        """What its measures look at and no bank has."""
        found: list[Trainings] = []
        seen: set[Any] = set()
        for each in self._judging.trainings():
            there = self._bank(recipe, each.seed).has(self._subsets(each))
            names = [(each.seed, name) for name in each.drawn or each.without]
            here = [at for at, name in enumerate(names) if not there[at] and name not in seen]
            seen.update(names)
            if here:
                found.append(each.only(here))
        return found

    def _grouped(self, missing: Sequence[Trainings]) -> TrainingPlan:
        wish, threads, recipe = self.request.blocks, torch.get_num_threads(), self.request.recipe
        if recipe is None or not missing:
            return TrainingPlan((), False, threads)
        bank = self._bank(recipe, missing[0].seed)
        most = min(bank.most_together(), wish.models or MOST_TOGETHER)
        total = len(self._places)
        groups = list(grouped(missing, most, total))
        spread = wish.spread
        if spread is None:
            largest = max(groups, key=len)
            seconds = estimated_seconds(bank, groups, self._subsets(largest))
            spread = seconds > self.context.settings.spread_seconds
            if spread and wish.models is None:
                share = -(-sum(map(len, groups)) // SHARED_BY)
                together = min(most, max(FEWEST_TOGETHER, share))
                groups = list(grouped(missing, together, total))
        return TrainingPlan(groups, spread, threads)

    def _subsets(self, trainings: Trainings) -> list[Places]:
        """Row numbers of the dataset."""
        chosen = trainings.subsets(self.request, len(self._places))
        return [self._places[each] for each in chosen]

    @cached_property
    def _places(self) -> Places:
        """The dataset's row of each training row."""
        total = self._dataset("train_id").rows or 0
        return np.fromiter(parse_rows(self.request.train.rows, total), np.int64)

    @cached_property
    def _judging(self) -> Judging:
        return Judging(
            self.request,
            [*self._results(), *self._baselines()],
            (0 if self._test is None else len(self._test), len(self._train)),
            self._retrained,
            self._wrong(),
            self.watch.progress,
        )

    def _reported(self) -> tuple[dict[str, Any], float]:
        """The fields of its success, and the seconds of looking at the models."""
        judging, retrained = self._judging, self._retrained
        rows = list(judging.rows())
        report = QualityReport(
            rows=rows,
            noise=judging.noise,
            trained=0 if retrained is None else retrained.trained,
            warnings=[*self._left_out, *self._warnings(judging)],
        )
        self.watch.confirm()
        writer = ResultWriter(self.context.objects, self.paths)
        writer.report(report.model_dump(mode="json"))
        size = writer.commit([], {"job_id": self.job["id"], "request": self.job["request"]})
        self._note(rows, judging)
        result = {"dtype": "float64", "stored": ["report"], "size_bytes": size, "layout": {}}
        return {"result": result}, 0.0 if retrained is None else retrained.seconds

    @cached_property
    def _left_out(self) -> list[str]:
        """Baselines that could not be made, and why."""
        return []

    @cached_property
    def _model(self) -> ModelRecord:
        found = self.context.records.get("model", self.namespace, self.job["model_id"])
        return ModelRecord.model_validate(found)

    @cached_property
    def _problem(self) -> Problem:
        dtype = DTYPES[self.request.precision]
        return self.context.session.problem(self.namespace, self._model, dtype, self.watch.progress)

    @cached_property
    def _retrained(self) -> ByRecipe | None:
        """None where no measure trains anything."""
        recipe = self.request.recipe
        if recipe is None or self._test is None or not self.request.needs_recipe:
            return None
        return ByRecipe(
            self._problem,
            self._train,
            self._test,
            recipe,
            self._places,
            lambda seed: self._bank(recipe, seed),
        )

    def _bank(self, recipe: Recipe, seed: int) -> Bank:
        inputs = TrainingInputs.load(
            self.context,
            self.namespace,
            self.job,
            recipe,
            precision=self.request.precision,
            seed=seed,
            progress=self.watch.progress,
        )
        return Bank(
            self.context.objects, self.namespace, inputs, self.watch.progress, self.watch.confirm
        )

    @cached_property
    def _train(self) -> Rows:
        return self._rows("train_id", self.request.train)

    @cached_property
    def _test(self) -> Rows | None:
        if self.request.test is None:
            return None
        return self._rows("test_id", self.request.test, self._model.loss.weight_column)

    def _rows(self, field: str, selection: Selection, without: str | None = None) -> Rows:
        """`without`: a target column that they do not have, as rows that are tested have no weights."""
        dataset = self._dataset(field)
        match = next(
            each
            for each in map(ColumnMatch.model_validate, self.job["matched"])
            if each.dataset == dataset.id
        )
        self.context.session.require_unchanged(self.namespace, dataset)
        chosen = parse_rows(selection.rows, dataset.rows or 0)
        return self.context.session.rows(
            self.namespace,
            dataset,
            Columns.of(dataset, match.without(without)),
            chosen,
            self.watch.progress,
        )

    def _dataset(self, field: str) -> DatasetRecord:
        found = self.context.records.get("dataset", self.namespace, self.job[field])
        return DatasetRecord.model_validate(found)

    @cached_property
    def _judged_jobs(self) -> list[Document]:
        """As they stand; they are held by nothing, so one may have been deleted since."""
        return [self.context.records.get("job", self.namespace, id) for id in self.request.results]

    def _results(self) -> Iterator[Judged]:
        for number, document in enumerate(self._judged_jobs):
            record = JobRecord.model_validate(document)
            if record.result is None or record.expired_at is not None:
                raise ResultExpired.field(
                    f"/results/{number}", f"the result of job {record.id} has expired", record.id
                )
            request = record.request
            assert isinstance(request, AttributionJob)
            values = _dampings(document)
            method = f"{METHODS[request.inversion.method].label}, {request.curvature.label}"
            for layer, damping in enumerate(values):
                at = layer if request.has_damping_axis else None
                yield self._judged(record, at, damping, method)

    def _judged(self, record: JobRecord, layer: int | None, damping: float, method: str) -> Judged:
        paths = ResultPaths(self.namespace, record.id)
        if record.request.is_self:
            layout = record.result.layout if record.result is not None else None
            total = len(self._train)
            step = (layout.self_influence_rows if layout is not None else None) or total
            name = "self_influences" if layer is None else f"self_influences.{layer}"
            kept = RowBlocks(self.context.objects, paths.self_influences, Cut(total, step), name)
            return Judged(
                record.id,
                None,
                lambda: np.concatenate(list(kept.read(range(total), READ_BYTES))).astype(float),
                method,
                damping,
            )
        matrix = Chunks.open(self.context.objects, paths.influences, layer)
        scores = of_matrix(record.id, matrix, READ_BYTES)
        return Judged(record.id, scores, lambda: -scores.means(), method, damping)

    def _baselines(self) -> Iterator[Judged]:
        if not self.request.baselines:
            return
        match = ColumnMatch.model_validate(self.job["matched"][0])
        yield from Baselines(
            train=self._train,
            problem=self._problem,
            test=self._test,
            mask_input=match.inputs.index(MASK) if MASK in match.inputs else None,
            seed=self.request.seed,
            budget_bytes=self.context.settings.memory_bytes,
            progress=self.watch.progress,
            left_out=self._left_out,
        ).judged()

    def _wrong(self) -> NDArray[np.bool_] | None:
        if self.request.wrong is None:
            return None
        total = self._dataset("train_id").rows or 0
        assert isinstance(self.request.wrong, str)  # the record of a job names them by number
        wrong = set(parse_rows(self.request.wrong, total))
        chosen = parse_rows(self.request.train.rows, total)
        return np.array([row in wrong for row in chosen])

    @cached_property
    def _evaluation_mode(self) -> list[str]:
        """Layers that training changes, where models were retrained without that."""
        return trained_otherwise(self._problem.module) if self._retrained is not None else []

    def _warnings(self, judging: Judging) -> Iterator[str]:
        noise = judging.noise
        if self._evaluation_mode:
            yield in_evaluation_mode(self._evaluation_mode)
        if noise is not None and noise.value is not None and noise.value < UNSURE:
            yield (
                f"Trainings that differ by their seed alone agree at {noise.value:.2f}: most of what tells subsets "
                "apart is noise. Take more repeats, or a smaller share."
            )
        if self.request.retrains and self._retrained is not None:
            own, again = self._own_loss(), self._retrained.whole_loss()
            if abs(own - again) > OTHER_MODEL * max(abs(own), abs(again)):
                yield (
                    f"Trained by its recipe on all these rows, the model has a mean test loss of {again:.3g}; as it is "
                    f"registered, {own:.3g}. The recipe is not that of this model, or it was trained on other rows: "
                    "what is measured is about the recipe's models."
                )
        for record in self._judged_jobs:
            verdict = record.get("verdict") or {}
            if verdict.get("solved", {}).get("level") == "bad":
                yield f"Job {record['id']} was not solved well: {verdict['solved']['text']}"

    def _own_loss(self) -> float:
        assert self._test is not None
        found = [each.losses for _, each in row_predictions(self._problem.plain, self._test)]
        return float(np.concatenate([each.double().cpu().numpy() for each in found]).mean())

    def _note(self, rows: Sequence[QualityRow], judging: Judging) -> None:
        """What the verdicts of such results have from now on: the measure that is nearest to retraining."""
        measure = next(each for each in TOLD if each in self.request.measures)
        noted: dict[str, Document] = {}
        for document in self._judged_jobs:
            of_job = {
                row.damping: row
                for row in rows
                if row.result == document["id"] and row.measure == measure
            }
            for damping, name in names_of(self._model.digest, document):
                row = of_job.get(damping)
                if row is None or row.value is None:
                    continue
                noise = judging.noise if measure == "lds" else None
                noted[name] = MeasuredQuality(
                    measure=measure,
                    damping=damping,
                    value=row.value,
                    low=row.low,
                    high=row.high,
                    ceiling=None if noise is None else noise.ceiling,
                    job=self.job["id"],
                    measured_at=datetime.fromisoformat(now()),
                    evaluation_mode=self._evaluation_mode,
                ).model_dump(mode="json")
        self.context.qualities.note(self.namespace, noted)


def _cost(*, seconds: float, engine: float) -> dict[str, float]:
    return {
        "hessian_passes": 0.0,
        "gradient_passes": 0.0,
        "seconds": seconds,
        "engine_seconds": engine,
    }


def _dampings(document: Document) -> list[float]:
    told = document.get("damping")
    if told:
        return list(told["values"])
    asked = document["request"].get("hessian_regularization", 0.0)
    return [float(each) for each in (asked if isinstance(asked, list) else [asked])]
