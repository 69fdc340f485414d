"""What RQ calls for a block of a large job: takes its lease, has it done, and says what its failure means."""

from __future__ import annotations

from typing import Any, cast

from service.jobs.lifecycle import LeaseLost
from service.logs import log, log_exception
from service.storage.keys import Document
from upweight.errors import NotFound
from upweight.schema import JobState
from workers.jobs.crew import Crew
from workers.jobs.plan import Plan, Stage
from workers.process.context import Context
from workers.process.watch import Cancelled, GivenBack, Watch
from workers.refusals import said

_OURS_TO_MEND = (
    500  # problems from this status on may pass; others are the job's own, and come again
)


class BlockTask:
    """All blocks that this worker is given."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._crew = Crew(context)

    def run(self, namespace: str, id: str, block: str) -> None:
        """One try at a block, `stage-number`. Delivered twice, it is done once."""
        context, lease = self._context, lease_of(id, block)
        if not context.leases.take(lease, context.name):
            return
        # In hand before the job is looked at: who then finds it being cancelled, and nothing in hand, deletes it.
        context.grids.enter(id, block)
        again: Document | None = None
        try:
            job = context.records.get("job", namespace, id)
            if job["state"] == JobState.RUNNING and job.get("plan"):
                again = job if self._tried(namespace, job, block) else None
        except NotFound:
            pass
        finally:
            left = context.grids.leave(id, block)
            context.leases.release(lease, context.name)
        if again is not None:
            self._give_back(namespace, again, block)
        if not left:
            self._conclude(namespace, id)

    def _tried(self, namespace: str, job: Document, block: str) -> bool:
        """Whether it is to be tried again."""
        stage, _, number = block.partition("-")
        try:
            with self._watch(namespace, job, cast(Stage, stage), block) as watch:
                self._crew.run(namespace, job, cast(Stage, stage), int(number), watch)
        except GivenBack:
            return True
        except (Cancelled, LeaseLost, NotFound) as error:
            log("block-ended", job=job["id"], block=block, why=type(error).__name__)
        except Exception as error:
            return self._failed(namespace, job, block, error)
        return False

    def _failed(self, namespace: str, job: Document, block: str, error: Exception) -> bool:
        problem = said(error, job["id"])
        if isinstance(error, MemoryError):
            self._crew.forget()
            self._context.session.forget()
        tries = self._context.grids.fallen(job["id"], block)
        if problem.status >= _OURS_TO_MEND and tries < self._context.settings.attempts:
            log_exception("block-failed", job=job["id"], block=block, tries=tries)
            return True
        try:
            self._context.ending.failed(namespace, job, problem)
        except (LeaseLost, NotFound):
            log("job-ended-meanwhile", job=job["id"], block=block)
        return False

    def _give_back(self, namespace: str, job: Document, block: str) -> None:
        priority = job["request"]["priority"]
        self._context.queue.enqueue_blocks(
            namespace, job["id"], [block], priority=priority, first=True
        )

    def _conclude(self, namespace: str, id: str) -> None:
        """The last to leave a job that is being cancelled ends it."""
        try:
            job = self._context.records.get("job", namespace, id)
        except NotFound:
            return
        if job["state"] == JobState.CANCELLING:
            self._context.ending.cancelled_if_free(namespace, job)

    def _watch(self, namespace: str, job: Document, stage: Stage, block: str) -> Watch:
        context, id, limit = self._context, job["id"], self._context.settings.job_seconds
        return Watch(
            context.leases,
            lease_of(id, block),
            context.name,
            stopping=context.stopping,
            is_cancelled=lambda: context.lifecycle.is_cancelling(namespace, id, job["attempt"]),
            tell=lambda live: self._tell(namespace, job, stage, block, live),
            seconds=min(job["request"]["timeout_s"] or limit, limit),
            heartbeat_seconds=context.settings.heartbeat_seconds,
            # Of the whole job's time, by Redis's clock.
            spent_seconds=context.grids.figures(id).elapsed,
        )

    def _tell(
        self, namespace: str, job: Document, stage: Stage, block: str, live: dict[str, Any]
    ) -> None:
        """The progress of the whole stage, with what is inside of the blocks in hand."""
        grids, id = self._context.grids, job["id"]
        inside = live["progress"]["done"] / max(1, live["progress"]["total"])
        partly = grids.inside(id, block, min(1.0, inside))
        total = Plan.from_json(job["plan"]).stages()[stage]
        done = grids.counts(id, [stage])[0]
        elapsed, before = grids.stage_began(id, stage, done)
        reached = min(float(total), done + partly)
        gained = reached - before
        eta = round(elapsed * (total - reached) / gained, 1) if gained > 0 and elapsed > 0 else None
        progress = {
            "done": done,
            "total": total,
            "unit": "blocks",
            "fraction": round(reached / total, 4),
        }
        self._context.records.set_live(
            "job", namespace, id, {"stage": stage, "progress": progress, "eta_seconds": eta}
        )


def lease_of(id: str, block: str) -> str:
    """The name of a block's lease."""
    return f"{id}.{block}"
