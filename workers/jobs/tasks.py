"""The tasks of jobs, as RQ calls them: one does a job or cuts it into blocks, the other does a block.

A task takes a lease, works under a watch, and says what its end means for the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from pydantic import TypeAdapter

from service.lifecycle.ending import keeps_nothing, postponed_where_away
from service.lifecycle.states import LeaseLost
from service.logs import log, log_exception
from service.storage.keys import Document
from service.storage.layout import ResultPaths
from service.storage.queue import RUN_JOB
from upweight.errors import NotFound, Unavailable, UpweightError
from upweight.schema import JobRequest, JobState
from workers.jobs.advance import SpreadJob
from workers.jobs.attempt import Attempt, Blocks
from workers.jobs.blocks import Cost
from workers.jobs.executor import computing_with
from workers.jobs.plan import stages_of
from workers.process.context import Context
from workers.process.watch import Cancelled, GivenBack, Watch, time_left
from workers.refusals import public_error

REQUEST: TypeAdapter[JobRequest] = TypeAdapter(JobRequest)
# Problems from this status on may pass; others are the job's own, and come again.
OURS_TO_MEND = 500
_LET_GO_LOOKS, _LET_GO_PAUSE_SECONDS = (
    40,
    0.05,
)  # at a queued job that another worker has in hand still


class JobTask:
    """All jobs that this worker is given. `kinds`: what does an attempt at each kind; see `workers.kinds`."""

    def __init__(self, context: Context, kinds: Mapping[str, type[Attempt[Any]]]) -> None:
        self._context = context
        self._kinds = kinds

    def run(self, namespace: str, id: str) -> None:
        """One attempt at a job. Delivered twice, the second finds it begun and does nothing."""
        context, holder = self._context, self._context.name
        if not self._taken(namespace, id):
            return
        try:
            job = context.lifecycle.begin(
                namespace, id, context.name, str(context.device), torch.get_num_threads()
            )
            if job is not None:
                self._attempt(namespace, job, holder)
        except NotFound:
            log("job-gone", job=id)
        finally:
            context.leases.release(id, holder)

    def _taken(self, namespace: str, id: str) -> bool:
        """Whether the job is in this worker's hand now.

        One that ended an attempt, or gave it back, says so before it lets go of the job: who tries it again at once
        has it in the queue by then, and this task is the only one.
        """
        context = self._context
        for _ in range(_LET_GO_LOOKS):
            if context.leases.take(id, context.name):
                return True
            try:
                state = context.records.get("job", namespace, id)["state"]
            except NotFound:
                return False
            if state != JobState.QUEUED or context.stopping.wait(_LET_GO_PAUSE_SECONDS):
                return False
        return False  # recovery puts it into the queue, once the lease of a worker that died has run out

    def _attempt(self, namespace: str, job: Document, holder: str) -> None:
        context, id, attempt = self._context, job["id"], job["attempt"]
        request = REQUEST.validate_python(job["request"])
        seconds = min(
            request.timeout_s or context.settings.job_seconds, context.settings.job_seconds
        )
        attempted: Attempt[Any] | None = None
        try:
            with (
                self._watch(namespace, id, attempt, seconds) as watch,
                computing_with(job["threads"]),
            ):
                attempted = self._kinds[request.kind](context, namespace, job, request, watch)
                outcome = self._outcome(attempted, holder)
            if outcome is not None:
                context.lifecycle.succeed(namespace, id, attempt, outcome)
        except Cancelled:
            self._cancelled(namespace, id, holder, attempt)
        except GivenBack:
            given = context.lifecycle.give_back(namespace, id, attempt)
            if given["state"] == JobState.QUEUED:
                context.queue.enqueue(
                    RUN_JOB, namespace, id, attempt=attempt, priority=request.priority
                )
            else:  # it was cancelled meanwhile
                self._cancelled(namespace, id, holder, attempt)
        except LeaseLost as error:
            log("job-taken-away", level="warning", job=id, detail=str(error))
            with suppress(Unavailable):
                self._clear_away(namespace, id, holder)
        except Exception as error:
            left = attempted.left_by_failure() if attempted is not None else {}
            context.lifecycle.fail(namespace, id, attempt, public_error(error, id), left)
            if isinstance(error, MemoryError):
                context.session.forget()

    def _outcome(self, attempt: Attempt[Any], holder: str) -> dict[str, Any] | None:
        """The fields of its success. What a failure leaves is deleted still under watch, however long that takes."""
        try:
            return attempt.run()
        except (Cancelled, GivenBack, LeaseLost):
            raise
        except Exception:
            with suppress(Unavailable):
                # A retry of a job in blocks that fails before it has come to them leaves them to the next.
                there = self._context.objects.head(attempt.paths.plan) is not None
                if not (there or attempt.request.resumable):
                    self._discard(attempt.namespace, attempt.job["id"], holder)
            raise

    def _cancelled(self, namespace: str, id: str, holder: str, attempt: int) -> None:
        try:
            job = self._context.records.get("job", namespace, id)
        except NotFound:
            self._clear_away(namespace, id, holder)
            return
        if job["attempt"] == attempt:
            self._context.ending.cancelled_if_free(namespace, job)

    def _clear_away(self, namespace: str, id: str, holder: str) -> None:
        """What a worker that was only slow has written since its job ended without it and was cleared away."""
        context = self._context
        if not (context.leases.renew(id, holder) or context.leases.take(id, holder)):
            return  # another attempt is under way, and writes the same objects
        try:
            job = context.records.get("job", namespace, id)
        except NotFound:  # deleted since
            self._discard(namespace, id, holder)
            return
        if keeps_nothing(job):
            self._discard(namespace, id, holder)

    def _discard(self, namespace: str, id: str, holder: str) -> None:
        """Deletes what is stored so far, unless the job is another worker's by now, and so what is stored."""
        if not self._context.leases.renew(id, holder):
            return
        with postponed_where_away(id):
            self._context.objects.delete_prefix(ResultPaths(namespace, id).prefix)

    def _watch(self, namespace: str, id: str, attempt: int, seconds: float) -> Watch:
        context = self._context
        return context.watch(
            id,
            seconds=seconds,
            is_cancelled=lambda: context.lifecycle.is_cancelling(namespace, id, attempt),
            report=lambda live: context.records.set_live("job", namespace, id, live),
            unanswered=context.ended_from_outside(
                (namespace, id), lambda: self._abandon(namespace, id, attempt)
            ),
        )

    def _abandon(self, namespace: str, id: str, attempt: int) -> None:
        """Ends a cancelled job whose computation goes on."""
        self._cancelled(namespace, id, self._context.name, attempt)
        self._context.leases.release(id, self._context.name)

    def clear_left(self, namespace: str, id: str) -> None:
        """What was still written of a job that was ended from outside, after it was cleared away."""
        with suppress(UpweightError):
            try:
                self._clear_away(namespace, id, self._context.name)
            finally:
                self._context.leases.release(id, self._context.name)


class BlockTask:
    """All blocks that this worker is given. `kinds`: what does those of each kind of job."""

    def __init__(self, context: Context, kinds: Mapping[str, type[Attempt[Any]]]) -> None:
        self._context = context
        self._kinds = kinds
        self._loaded: tuple[tuple[str, int], Blocks] | None = None  # of which job and attempt

    def run(self, namespace: str, id: str, block: str) -> None:
        """One try at a block, `stage-number`. Delivered twice, it is done once."""
        context, lease = self._context, lease_of(id, block)
        if not context.leases.take(lease, context.name):
            return
        # Entered before the record is read: whoever cancels the job and finds no block in hand deletes what it stored.
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
            with self._watch(namespace, job, stage, block) as watch:
                self._execute(namespace, job, stage, int(number), watch)
        except GivenBack:
            return True
        except (Cancelled, LeaseLost, NotFound) as error:
            log("block-ended", job=job["id"], block=block, why=type(error).__name__)
        except Exception as error:
            return self._failed(namespace, job, block, error)
        return False

    def _execute(
        self, namespace: str, job: Document, stage: str, number: int, watch: Watch
    ) -> None:
        """Does a block unless it is done, or before its time; and what follows if it was the last of its stage."""
        spread = SpreadJob(self._context, namespace, job)
        if not spread.is_due(stage, number):
            return
        blocks = self._load(namespace, job, watch)
        with computing_with(job["plan"]["threads"]):
            if stage == "finish":
                blocks.finish(watch)
                return
            digest, cost = "", Cost()
            if not blocks.is_there(stage, number, watch):
                log("block-began", job=job["id"], block=f"{stage}-{number}")
                digest, cost = blocks.execute(stage, number, watch)
        spread.join(stage, number, digest, cost, watch.checkpoint)

    def _load(self, namespace: str, job: Document, watch: Watch) -> Blocks:
        key = (job["id"], job["attempt"])
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # before the next is loaded
            request = REQUEST.validate_python(job["request"])
            kind = self._kinds[request.kind]
            self._loaded = key, kind(self._context, namespace, job, request, watch).blocks()
        return self._loaded[1]

    def _failed(self, namespace: str, job: Document, block: str, error: Exception) -> bool:
        problem = public_error(error, job["id"])
        if isinstance(error, MemoryError):
            self._loaded = None
            self._context.session.forget()
        tries = self._context.grids.fallen(job["id"], block)
        if problem.status >= OURS_TO_MEND and tries < self._context.settings.attempts:
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

    def _watch(self, namespace: str, job: Document, stage: str, block: str) -> Watch:
        context, id, limit = self._context, job["id"], self._context.settings.job_seconds
        return context.watch(
            lease_of(id, block),
            seconds=min(job["request"]["timeout_s"] or limit, limit),
            is_cancelled=lambda: context.lifecycle.is_cancelling(namespace, id, job["attempt"]),
            report=lambda live: self._report(namespace, job, stage, block, live),
            # Of the whole job's time, by Redis's clock.
            spent_seconds=context.grids.figures(id).elapsed,
            unanswered=context.ended_from_outside(
                (namespace, id), lambda: self._abandon(namespace, id, block)
            ),
        )

    def _abandon(self, namespace: str, id: str, block: str) -> None:
        """Leaves a block of a cancelled job, whose computation goes on."""
        left = self._context.grids.leave(id, block)
        self._context.leases.release(lease_of(id, block), self._context.name)
        if not left:
            self._conclude(namespace, id)

    def _report(
        self, namespace: str, job: Document, stage: str, block: str, live: dict[str, Any]
    ) -> None:
        """The progress of the whole stage, with what is inside of the blocks in hand."""
        grids, id = self._context.grids, job["id"]
        told = live["progress"]
        inside = told.get("fraction", told["done"] / max(1, told["total"]))
        partly = grids.inside(id, block, min(1.0, inside))
        total = stages_of(job["plan"])[stage]
        done = grids.counts(id, [stage])[0]
        elapsed, before = grids.stage_began(id, stage, done)
        reached = min(float(total), done + partly)
        gained = reached - before
        eta = time_left(elapsed, gained, total - reached)
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
