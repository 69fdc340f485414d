"""Finds what dead workers have left, and tasks that RQ has lost, and puts them back. One worker does it at a time."""

from __future__ import annotations

from collections.abc import Iterator

from service.lifecycle.ending import postponed_where_away
from service.lifecycle.states import LeaseLost
from service.logs import log
from service.storage import keys
from service.storage.keys import Document, Kind
from service.storage.layout import ResultPaths
from service.storage.queue import CHECK_PRIORITY, CHECKS, RUN_JOB, task_id
from upweight.errors import NotFound, WorkerLost
from upweight.schema import CheckState, JobState
from workers.process.background import InTurn
from workers.process.context import Context
from workers.upkeep.lost_blocks import LostBlocks

_TURN = "janitor"  # as workers of earlier versions call it
_QUEUE_SWEEPS = 2  # every so many the queues are compared with the records
_PAGE = 500


class Recovery(InTurn):
    """Puts back what is lost, every few seconds."""

    def __init__(self, context: Context) -> None:
        self._context = context
        super().__init__("recovery", _TURN, context, context.settings.janitor_seconds)
        self._blocks = LostBlocks(context)
        self._sweeps = 0
        self._missing: set[str] = set()

    def sweep(self) -> None:
        """Looks once at all namespaces."""
        self._context.shared.sweep()
        for namespace in sorted(self._context.records.namespaces()):
            for state in (JobState.RUNNING, JobState.CANCELLING):
                for job in self._in_state("job", namespace, state):
                    self._recover(namespace, job)
        if self._sweeps % _QUEUE_SWEEPS == 0:
            self._requeue_missing()
            self._blocks.requeue_missing(
                (namespace, job)
                for namespace in sorted(self._context.records.namespaces())
                for job in self._in_state("job", namespace, JobState.RUNNING)
                if job.get("plan")
            )
        self._sweeps += 1

    def _recover(self, namespace: str, job: Document) -> None:
        """A job whose worker is silent goes back to its queue, or fails when it has lost too many workers."""
        context = self._context
        if context.leases.held(job["id"]):
            return
        now = self._now(namespace, job)
        if now is None:
            return
        job = now
        if job.get("plan"):
            self._blocks.recover(namespace, job)
            return
        try:
            if (
                job["state"] == JobState.RUNNING
                and job.get("lost", 0) + 1 >= context.settings.attempts
            ):
                error = WorkerLost(
                    f"{context.settings.attempts} workers died while they had this job in hand; it may need more "
                    "memory than they have: use fewer rows, a smaller batch_size or another method"
                )
                context.lifecycle.fail(namespace, job["id"], job["attempt"], error)
                self._discard(namespace, job)
                return
            given_back = context.lifecycle.give_back(
                namespace, job["id"], job["attempt"], lost=True
            )
        except (LeaseLost, NotFound):
            return
        log("job-lost", level="warning", job=job["id"], worker=job.get("worker"))
        if given_back["state"] == JobState.QUEUED:
            self._enqueue_job(namespace, given_back)
        else:  # it was cancelled meanwhile
            context.ending.cancelled_if_free(namespace, given_back)

    def _now(self, namespace: str, job: Document) -> Document | None:
        """A job without a lease as it stands by now; None where its attempt is over.

        Since the job was found its worker may have ended it, or cut it into blocks, and only then let go of it.
        """
        try:
            found = self._context.records.get("job", namespace, job["id"])
        except NotFound:
            return None
        goes_on = found["state"] in (JobState.RUNNING, JobState.CANCELLING)
        return found if goes_on and found["attempt"] == job["attempt"] else None

    def _discard(self, namespace: str, job: Document) -> None:
        with postponed_where_away(job["id"]):
            self._context.objects.delete_prefix(ResultPaths(namespace, job["id"]).prefix)

    def _requeue_missing(self) -> None:
        """Records that wait for a worker but are in no queue, twice in a row, are put into theirs."""
        waiting = self._context.queue.waiting()
        missing: set[str] = set()
        for namespace in sorted(self._context.records.namespaces()):
            for kind, document in self._should_wait(namespace):
                task = task_id(document["id"], document.get("attempt", 0))
                if task in waiting or self._context.leases.held(document["id"]):
                    continue
                missing.add(task)
                if task in self._missing:
                    log("requeued", level="warning", task=task)
                    self._enqueue(kind, namespace, document)
        self._missing = missing

    def _should_wait(self, namespace: str) -> Iterator[tuple[Kind, Document]]:
        for job in self._in_state("job", namespace, JobState.QUEUED):
            yield "job", job
        for kind in CHECKS:
            for document in self._in_state(kind, namespace, CheckState.CHECKING):
                yield kind, document

    def _in_state(self, kind: Kind, namespace: str, state: str) -> Iterator[Document]:
        records, after = self._context.records, None
        while True:
            found = records.page(
                kind,
                namespace,
                limit=_PAGE,
                after=after,
                newest_first=False,
                filters=[keys.by_state(state)],
            )
            yield from records.get_many(kind, namespace, found.ids)
            if not found.has_more:
                return
            after = found.ids[-1]

    def _enqueue(self, kind: Kind, namespace: str, document: Document) -> None:
        if kind == "job":
            self._enqueue_job(namespace, document)
        else:
            self._context.queue.enqueue(
                CHECKS[kind], namespace, document["id"], priority=CHECK_PRIORITY
            )

    def _enqueue_job(self, namespace: str, job: Document) -> None:
        self._context.queue.enqueue(
            RUN_JOB,
            namespace,
            job["id"],
            attempt=job["attempt"],
            priority=job["request"]["priority"],
        )
