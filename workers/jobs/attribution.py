"""An attempt at a job that has an inversion: done in one task, or cut into blocks that all workers do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

from service.storage.keys import Document
from service.storage.shared import folder_of
from upweight.schema import AttributionJob
from workers.fits.fits import Fits
from workers.fits.store import StoredFits
from workers.jobs.advance import SpreadAttribution, described, hold_folders
from workers.jobs.attempt import Attempt, Blocks
from workers.jobs.blocks import Cost
from workers.jobs.executor import Executor
from workers.jobs.inputs import JobInputs
from workers.jobs.memory_store import MemoryStore
from workers.jobs.object_store import ObjectStore
from workers.jobs.paths import BlockPaths
from workers.jobs.plan import BEFORE_FIT, Plan, Stage
from workers.jobs.planner import Planner
from workers.jobs.resolved_damping import as_worked_out, worked_out
from workers.jobs.results import ResultWriter, versions
from workers.jobs.steps import Steps
from workers.process.context import Context
from workers.process.watch import Cancelled, Watch


@dataclass(frozen=True)
class AttributionAttempt(Attempt[AttributionJob]):
    """One attempt at a job that has an inversion."""

    def run(self) -> dict[str, Any] | None:
        """Does a small job and answers the fields of its success; cuts a large one into blocks, and answers None."""
        began = time.monotonic()
        watch = self.watch
        watch.progress("load", 0, 1, "models")
        inputs = JobInputs(
            self.context, self.namespace, self.job, self.request, progress=watch.progress
        )
        watch.progress("check derivatives", 0, 1, "models")
        inputs.derivatives()
        watch.progress("plan", 0, 1, "plans")
        plan = self._plan(inputs)
        watch.progress("plan", 1, 1, "plans")
        attempt = self._damped(inputs, plan)
        inputs = inputs.damped(attempt.job, attempt.request)
        if plan.spread:
            attempt._spread(inputs, plan)
            return None
        outcome, cost = attempt._in_one_task(inputs, plan)
        measuring = (attempt.job.get("damping") or {}).get("passes", 0.0)
        return {
            **outcome,
            "cost": {
                "hessian_passes": cost.passes + measuring,
                "gradient_passes": cost.gradient_rows / max(1, plan.train.total),
                "engine_seconds": cost.seconds,
                "peak_memory_bytes": cost.peak_memory_bytes,
                "seconds": time.monotonic() - began,
            },
        }

    def _damped(self, inputs: JobInputs, plan: Plan) -> AttributionAttempt:
        """With λ as numbers: of an earlier attempt, or worked out now and put into the record."""
        job = self.job
        if not job.get("damping"):
            steps = Steps(self.request, inputs, plan, inputs.kept_fits(plan), self.watch.progress)
            with steps.measured() as cost:
                found = worked_out(steps)
            if found is None:
                return self
            found.passes = cost.passes
            self.watch.confirm()
            lifecycle, given = self.context.lifecycle, found.model_dump(mode="json")
            job = lifecycle.damped(self.namespace, job["id"], job["attempt"], given)
            if not job.get("damping"):
                raise Cancelled
        return replace(self, job=job, request=as_worked_out(self.request, job))

    def _plan(self, inputs: JobInputs) -> Plan:
        """That of an earlier attempt, if its blocks are of use to this one; else a new one."""
        objects = self.context.objects
        if self.job["attempt"] > 1:
            stored = self._stored_plan()
            if stored is not None:
                return stored
            self.watch.confirm()
            objects.delete_prefix(self.paths.prefix)
        plan = Planner(self.request, inputs, inputs.rhs_count(), self.context.settings).plan()
        if plan.spread:
            document = {"plan": plan.to_json(), "versions": versions()}
            objects.put_new(self.paths.plan, json.dumps(document, sort_keys=True).encode())
        return plan

    def _stored_plan(self) -> Plan | None:
        try:
            document = json.loads(self.context.objects.get(self.paths.plan))
        except FileNotFoundError:
            return None
        return Plan.from_json(document["plan"]) if document["versions"] == versions() else None

    def _in_one_task(self, inputs: JobInputs, plan: Plan) -> tuple[dict[str, Any], Cost]:
        writer = ResultWriter(self.context.objects, self.paths)
        steps = Steps(self.request, inputs, plan, inputs.kept_fits(plan), self.watch.progress)
        executor = Executor(steps, MemoryStore(self.request, inputs, plan, writer))
        cost = executor.execute_all()
        return executor.finish(described(self.job, self.request, self.context)), cost

    def _spread(self, inputs: JobInputs, plan: Plan) -> None:
        job = hold_folders(self.context, self.namespace, self.job, inputs, plan)
        loaded = Loaded.of(self.context, self.namespace, job, self.request, inputs, plan)
        loaded.job.begin(loaded.there, self.watch.checkpoint)

    def blocks(self) -> Blocks:
        """Of an attempt whose record has its plan."""
        request, plan = as_worked_out(self.request, self.job), Plan.from_json(self.job["plan"])
        inputs = JobInputs(
            self.context,
            self.namespace,
            self.job,
            request,
            trusted=True,
            progress=lambda *_: self.watch.checkpoint(),
        )
        return Loaded.of(self.context, self.namespace, self.job, request, inputs, plan)


@dataclass(frozen=True)
class Loaded(Blocks):
    """What all blocks of one attempt at a job need."""

    job: SpreadAttribution
    request: AttributionJob
    inputs: JobInputs
    plan: Plan
    fits: Fits
    store: ObjectStore

    @classmethod
    def of(
        cls,
        context: Context,
        namespace: str,
        job: Document,
        request: AttributionJob,
        inputs: JobInputs,
        plan: Plan,
    ) -> Loaded:
        folder = folder_of(namespace, job["shared"][0])
        stored = StoredFits(context.objects, folder, context.device)
        fits = inputs.shared_fits(stored)
        name = Steps(request, inputs, plan, fits, lambda *_: None).fit_name()
        paths = BlockPaths.of_job(job, namespace, request, plan, name)
        store = ObjectStore(context.objects, request, inputs, paths, stored)
        spread = SpreadAttribution(context, namespace, job, plan)
        return cls(spread, request, inputs, plan, fits, store)

    def there(self, stage: str, count: int) -> Iterable[int]:
        """The blocks of a stage that are stored; those before a fit that is there count as done."""
        summed = stage in BEFORE_FIT and self.plan.hessian and self.plan.fits
        if summed and self.store.is_there("fit", 0):
            return range(count)
        return self.store.there(cast(Stage, stage), count)

    def is_there(self, stage: str, number: int, watch: Watch) -> bool:
        """Whether what a block makes is stored."""
        return self.store.is_there(cast(Stage, stage), number)

    def execute(self, stage: str, number: int, watch: Watch) -> tuple[str, Cost]:
        """Does a block."""
        return self.executor(watch).execute(cast(Stage, stage), number, watch.confirm)

    def finish(self, watch: Watch) -> None:
        """Merges, commits, and ends the job."""
        self.job.finish(self.executor(watch), self.store, watch)

    def executor(self, watch: Watch) -> Executor:
        """Its progress goes to this block's watch."""
        self.inputs.progress = watch.progress
        steps = Steps(self.request, self.inputs, self.plan, self.fits, watch.progress)
        return Executor(steps, self.store)
