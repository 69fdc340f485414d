"""A job that all workers do in blocks: what is in the queue, what follows a block, and what the last one ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from service.storage.keys import Document
from service.storage.shared import folder_of
from upweight.errors import InternalError
from upweight.schema import AttributionJob, JobState
from workers.jobs.blocks import Cost
from workers.jobs.executor import Executor
from workers.jobs.inputs import JobInputs
from workers.jobs.object_store import ObjectStore
from workers.jobs.plan import BEFORE_FIT, Plan, stages_of
from workers.process.context import Context
from workers.process.watch import Cancelled, Watch

_HOLD_TRIES = 50  # against others that let go of the same folder at that moment


def hold_folders(
    context: Context, namespace: str, job: Document, inputs: JobInputs, plan: Plan
) -> Document:
    """The record with its plan and the folders that it shares, and the job among their users."""
    shared = context.shared
    digests = [inputs.fit_digest(plan)]
    if plan.solves:
        digests.append(inputs.factors_digest(plan))
    for _ in range(_HOLD_TRIES):
        names = [shared.name(namespace, digest) for digest in digests]
        held = planned(context, namespace, job, plan.to_json(), names)
        if all(shared.hold(namespace, name, job["id"]) for name in names):
            return held
    raise RuntimeError(f"the folders {digests} change hands all the time")


def planned(
    context: Context,
    namespace: str,
    job: Document,
    plan: dict[str, Any],
    shared: Iterable[str] = (),
) -> Document:
    """The record with its plan. Raises Cancelled, LeaseLost."""
    found = context.lifecycle.planned(namespace, job["id"], job["attempt"], plan, list(shared))
    if found["state"] != JobState.RUNNING:
        raise Cancelled
    return found


@dataclass(frozen=True)
class SpreadJob:
    """One job in blocks, of any kind, whose record has its plan."""

    context: Context
    namespace: str
    job: Document

    @property
    def stages(self) -> dict[str, int]:
        """Blocks of each stage, in the order in which stages follow each other."""
        return stages_of(self.job["plan"])

    def begin(
        self, there: Callable[[str, int], Iterable[int]], between: Callable[[], None]
    ) -> None:
        """Counts the blocks that are there from an earlier attempt or job, and enqueues the first that are not.

        From here on the job is its blocks: where this worker dies in between, recovery puts them into the queue.
        """
        grids, id = self.context.grids, self.job["id"]
        grids.open(id)
        grids.forgive(id)
        for stage, count in self.stages.items():
            if stage != "finish":
                grids.mark(id, stage, there(stage, count))
        self._enqueue_next(between)

    def is_due(self, stage: str, number: int) -> bool:
        """Whether a block is not done, and all stages before it are."""
        grids, stages = self.context.grids, self.stages
        before = list(stages)[: list(stages).index(stage)]
        counts = grids.counts(self.job["id"], before)
        ready = all(done >= stages[each] for each, done in zip(before, counts, strict=True))
        return ready and bool(grids.missing(self.job["id"], stage, [number]))

    def join(
        self, stage: str, number: int, digest: str, cost: Cost, between: Callable[[], None]
    ) -> None:
        """Counts a block that is done, once; after the last of its stage, enqueues the next stage."""
        figures = (cost.passes, cost.seconds, cost.peak_memory_bytes, cost.gradient_rows)
        first, count = self.context.grids.join(self.job["id"], stage, number, digest, figures)
        if first and count == self.stages[stage]:
            self._enqueue_next(between)

    def _enqueue_next(self, between: Callable[[], None]) -> None:
        """What is missing of the first stage that is not done."""
        grids, id, stages = self.context.grids, self.job["id"], self.stages
        counts = grids.counts(id, list(stages))
        for (stage, total), done in zip(stages.items(), counts, strict=True):
            if done >= total:
                continue
            missing = grids.missing(id, stage, range(total))
            self.context.queue.enqueue_blocks(
                self.namespace,
                id,
                [f"{stage}-{number}" for number in missing],
                priority=self.job["request"]["priority"],
                between=between,
            )
            return


@dataclass(frozen=True)
class SpreadAttribution(SpreadJob):
    """One that has an inversion."""

    plan: Plan

    def finish(self, executor: Executor, store: ObjectStore, watch: Watch) -> None:
        """Merges, commits, and moves the record to its end; what was needed on the way is deleted."""
        context, id = self.context, self.job["id"]
        context.grids.linger(id)
        watch.progress("finish", 0, 1, "manifests")
        self._require_all(store)
        outcome = executor.finish(described(self.job, store.request, context))
        kept = [name for name in self.job["shared"] if self._stays(name, store)]
        ended = {**outcome, "cost": self._cost(), "shared": kept}
        with watch.committing():
            context.lifecycle.succeed(self.namespace, id, self.job["attempt"], ended)
        context.grids.close(id)
        context.objects.delete_prefix(store.paths.result.parts)
        for name in set(self.job["shared"]) - set(kept):
            context.shared.let_go(self.namespace, name, id)

    def _require_all(self, store: ObjectStore) -> None:
        """Every object is there, and the store's writer knows the digests that their writers gave."""
        for stage, count in self.plan.stages().items():
            if stage in (*BEFORE_FIT, "fit", "finish"):
                continue
            id, there = self.job["id"], store.there(stage, count)
            if len(there) < count:
                raise InternalError(
                    f"{count - len(there)} of {count} objects of stage {stage!r} of {id} have gone from the object "
                    f"storage; retry the job: what is there is not computed again"
                )
            for number, digest in self.context.grids.digests(id, stage).items():
                store.writer.digests[store.paths.of(stage, number)] = digest

    def _stays(self, name: str, store: ObjectStore) -> bool:
        """Whether a shared folder is of use after the job: its result's factors, or small enough for others."""
        folder = folder_of(self.namespace, name)
        if folder == store.factors_folder and store.request.keeps_factors:
            return True
        size = sum(meta.size for meta in self.context.objects.walk(folder))
        reuse = store.request.reuse
        return reuse and 0 < size <= self.context.settings.reuse_bytes

    def _cost(self) -> dict[str, Any]:
        figures = self.context.grids.figures(self.job["id"])
        measuring = (self.job.get("damping") or {}).get("passes", 0.0)
        return {
            "hessian_passes": figures.passes + measuring,
            "gradient_passes": figures.gradient_rows / max(1, self.plan.train.total),
            "engine_seconds": figures.seconds,
            "seconds": figures.elapsed,
            "peak_memory_bytes": figures.peak_bytes,
        }


def described(job: Document, request: AttributionJob, context: Context) -> dict[str, Any]:
    """What a manifest says of the job."""
    return {
        "job_id": job["id"],
        "request": job["request"],
        "device": str(context.device),
        "seed": request.seed,
    }
