"""The task that does a job, or cuts a large one into blocks: its lease, its watch, and what its end means."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from pydantic import TypeAdapter

from service.jobs.ending import keeps_nothing, postponed_where_away
from service.jobs.lifecycle import LeaseLost
from service.logs import log
from service.results.layout import ResultPaths
from service.storage.keys import Document
from service.storage.queue import RUN_BLOCK, RUN_JOB
from upweight.errors import NotFound, Unavailable
from upweight.schema import JobState
from workers.jobs.block_task import BlockTask
from workers.jobs.job import JobRun
from workers.jobs.threads import computing_with
from workers.jobs.work import AnyJob
from workers.process.context import Context
from workers.process.watch import Cancelled, GivenBack, Watch
from workers.process.worker import Task
from workers.refusals import said

_REQUEST: TypeAdapter[AnyJob] = TypeAdapter(AnyJob)


class JobTasks:
    """What RQ calls on one worker for a job, and for a block of one."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._blocks = BlockTask(context)

    def table(self) -> Mapping[str, Task]:
        """Tasks by the dotted path under which they are enqueued."""
        return {RUN_JOB: self.run_job, RUN_BLOCK: self._blocks.run}

    def run_job(self, namespace: str, id: str) -> None:
        """One attempt at a job. Delivered twice, the second finds it begun and does nothing."""
        context, holder = self._context, self._context.name
        if not context.leases.take(id, holder):
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

    def _attempt(self, namespace: str, job: Document, holder: str) -> None:
        context, id, attempt = self._context, job["id"], job["attempt"]
        request = _REQUEST.validate_python(job["request"])
        seconds = min(
            request.timeout_s or context.settings.job_seconds, context.settings.job_seconds
        )
        try:
            with (
                self._watch(namespace, id, attempt, seconds) as watch,
                computing_with(job["threads"]),
            ):
                outcome = self._outcome(JobRun(context, namespace, job, request, watch), holder)
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
            context.lifecycle.fail(namespace, id, attempt, said(error, id))
            if isinstance(error, MemoryError):
                context.session.forget()

    def _outcome(self, run: JobRun, holder: str) -> dict[str, Any] | None:
        """The fields of its success. What a failure leaves is deleted still under watch, however long that takes."""
        try:
            return run.run()
        except (Cancelled, GivenBack, LeaseLost):
            raise
        except Exception:
            id = run.job["id"]
            with suppress(Unavailable):
                # A retry of a job in blocks that fails before it has come to them leaves them to the next.
                if self._context.objects.head(ResultPaths(run.namespace, id).plan) is None:
                    self._discard(run.namespace, id, holder)
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
        return Watch(
            context.leases,
            id,
            context.name,
            stopping=context.stopping,
            is_cancelled=lambda: context.lifecycle.is_cancelling(namespace, id, attempt),
            tell=lambda live: context.records.set_live("job", namespace, id, live),
            seconds=seconds,
            heartbeat_seconds=context.settings.heartbeat_seconds,
        )
