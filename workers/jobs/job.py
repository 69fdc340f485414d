"""A job from its record on: planned, and then done here and now, or in blocks by all workers."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import Any

from service.results.layout import ResultPaths
from service.storage.keys import Document
from service.storage.shared import folder_of
from upweight.schema import JobState
from workers.jobs.inputs import Gathering
from workers.jobs.one_task import OneTask
from workers.jobs.paths import Places
from workers.jobs.plan import Plan
from workers.jobs.planner import Planner
from workers.jobs.results import ResultWriter, versions
from workers.jobs.work import AnyJob, Material, Work
from workers.process.context import Context
from workers.process.watch import Cancelled, Watch

_HOLD_TRIES = 50  # against others that let go of the same folder at that moment


@dataclass(frozen=True)
class JobRun:
    """One attempt at a job by the worker that takes it first. Raises UpweightError, EngineError."""

    context: Context
    namespace: str
    job: Document
    request: AnyJob
    watch: Watch

    def run(self) -> dict[str, Any] | None:
        """Does a small job and answers the fields of its success; makes blocks of a large one, and answers None."""
        began = time.monotonic()
        self.watch.progress("load", 0, 1, "models")
        gathering = Gathering(self.context, self.namespace, self.job, self.request)
        material = gathering.material()
        material.derivatives()
        plan = self._plan(gathering, material)
        if plan.spread:
            self._spread(gathering, material, plan)
            return None
        material = replace(material, fits=gathering.fits(plan, None))
        outcome = self._in_one_task(Work(self.request, material, plan, self.watch.progress))
        outcome["cost"]["seconds"] = time.monotonic() - began
        return outcome

    @property
    def _paths(self) -> ResultPaths:
        return ResultPaths(self.namespace, self.job["id"])

    def _plan(self, gathering: Gathering, material: Material) -> Plan:
        """That of an earlier attempt, if its blocks are of use to this one; else a new one."""
        objects = self.context.objects
        if self.job["attempt"] > 1:
            stored = _stored_plan(self.context, self._paths)
            if stored is not None:
                return stored
            self.watch.confirm()
            objects.delete_prefix(self._paths.prefix)
        plan = Planner(self.request, material, gathering.rhs_count(), self.context.settings).plan()
        if plan.spread:
            said = {"plan": plan.to_json(), "versions": versions()}
            objects.put_new(self._paths.plan, json.dumps(said, sort_keys=True).encode())
        return plan

    def _in_one_task(self, work: Work) -> dict[str, Any]:
        writer = ResultWriter(self.context.objects, self._paths)
        outcome, cost = OneTask(work, writer).run(described(self.job, self.request, self.context))
        return {
            **outcome,
            "cost": {
                "hessian_passes": cost.passes,
                "engine_seconds": cost.seconds,
                "peak_memory_bytes": cost.peak_memory_bytes,
            },
        }

    def _spread(self, gathering: Gathering, material: Material, plan: Plan) -> None:
        """From here on the job is its blocks; where this worker dies in between, recovery puts them into the queue."""
        context, id = self.context, self.job["id"]
        job = self._holding(gathering, plan)
        work = Work(self.request, material, plan, self.watch.progress)
        places = places_of(job, self.namespace, self.request, plan)
        context.grids.open(id)
        context.grids.forgive(id)
        for stage, count in plan.stages().items():
            if stage != "finish":
                context.grids.mark(id, stage, places.there(context.objects, stage, count, work))
        if plan.hessian and plan.fits and places.there(context.objects, "fit", 1, work):
            context.grids.mark(id, "sums", range(plan.hessian.count))
        advance(context, self.namespace, job, plan, between=self.watch.checkpoint)

    def _holding(self, gathering: Gathering, plan: Plan) -> Document:
        """The record with the folders that it shares, and the job among their users."""
        context, shared = self.context, self.context.shared
        digests = [gathering.fit_digest(plan)]
        if plan.solves:
            digests.append(gathering.factors_digest(plan))
        for _ in range(_HOLD_TRIES):
            names = [shared.name(self.namespace, digest) for digest in digests]
            job = context.lifecycle.planned(
                self.namespace, self.job["id"], self.job["attempt"], plan.to_json(), names
            )
            if job["state"] != JobState.RUNNING:
                raise Cancelled
            if all(shared.hold(self.namespace, name, self.job["id"]) for name in names):
                return job
        raise RuntimeError(f"the folders {digests} change hands all the time")


def places_of(job: Document, namespace: str, request: AnyJob, plan: Plan) -> Places:
    """Where the objects of a job's blocks lie."""
    folders = [folder_of(namespace, name) for name in job["shared"]]
    return Places(
        plan=plan,
        paths=ResultPaths(namespace, job["id"]),
        fit=folders[0],
        factors=folders[-1],
        keeps_matrix=getattr(getattr(request, "keep", None), "matrix", False),
        is_self=request.kind == "self_influences",
    )


def advance(
    context: Context, namespace: str, job: Document, plan: Plan, between: Any = lambda: None
) -> None:
    """Puts into the queue what is missing of the first stage that is not done."""
    stages = plan.stages()
    counts = context.grids.counts(job["id"], list(stages))
    for (stage, total), done in zip(stages.items(), counts, strict=True):
        if done >= total:
            continue
        missing = context.grids.missing(job["id"], stage, range(total))
        context.queue.enqueue_blocks(
            namespace,
            job["id"],
            [f"{stage}-{number}" for number in missing],
            priority=job["request"]["priority"],
            between=between,
        )
        return


def described(job: Document, request: AnyJob, context: Context) -> dict[str, Any]:
    """What a manifest says of the job."""
    return {
        "job_id": job["id"],
        "request": job["request"],
        "device": str(context.device),
        "seed": request.seed,
    }


def _stored_plan(context: Context, paths: ResultPaths) -> Plan | None:
    try:
        said = json.loads(context.objects.get(paths.plan))
    except FileNotFoundError:
        return None
    return Plan.from_json(said["plan"]) if said["versions"] == versions() else None
