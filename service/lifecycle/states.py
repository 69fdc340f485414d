"""The states of a job and the only ways between them. Terminal states never change, whoever comes late.

queued ──begin──▶ running ──succeed──▶ succeeded
  │ ▲                │ └────fail─────▶ failed
  │ └───give_back────┤
  └──cancel──────────┴──▶ (cancelling ──▶) cancelled
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from service import counters
from service.counters import Counter, Counters
from service.storage.experience import Experiences
from service.storage.keys import Document
from service.storage.records import Records, not_found
from service.webhooks.outbox import announcement
from upweight.errors import Conflict, NotFound, Unavailable, UpweightError
from upweight.schema import TERMINAL, JobState
from upweight.schema.job_record import Cost

_OURS = frozenset({JobState.RUNNING, JobState.CANCELLING})
Noted = tuple[Counter, tuple[str, ...], float]


class Lifecycle:
    """Moves jobs of all namespaces. A worker's moves carry its attempt: a worker that was taken for lost, and was
    only slow, finds another attempt in the record and changes nothing (LeaseLost)."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._counters = Counters(records.redis)
        self._experiences = Experiences(records.redis)

    def _move(
        self, namespace: str, id: str, change: Callable[[Document], Document | None]
    ) -> Document:
        moved: list[Document] = []

        def noted(job: Document) -> Document | None:
            after = change(job)
            moved[:] = [job, after] if after is not None else []
            return after

        after = self._records.update("job", namespace, id, noted, partial(announcement, namespace))
        if moved:
            self._counters.add(*figures(*moved))
        return after

    def begin(
        self, namespace: str, id: str, worker: str, device: str, threads: int = 1
    ) -> Document | None:
        """queued → running. None when the job is no longer queued (cancelled, or begun by another).

        Later attempts compute with the `threads` of the first, so that their bytes are the same.
        """

        def change(job: Document) -> Document | None:
            if job["state"] != JobState.QUEUED:
                return None
            return {
                **job,
                "state": JobState.RUNNING,
                "attempt": job["attempt"] + 1,
                "worker": worker,
                "device": device,
                "threads": job.get("threads") or threads,
                "started_at": now(),
                "plan": None,
            }

        job = self._move(namespace, id, change)
        return job if job["state"] == JobState.RUNNING and job["worker"] == worker else None

    def planned(
        self,
        namespace: str,
        id: str,
        attempt: int,
        plan: Mapping[str, Any],
        shared: Sequence[str],
    ) -> Document:
        """running, in blocks from now on. `shared` are the folders that it uses with other jobs."""

        def change(job: Document) -> Document | None:
            if job["state"] != JobState.RUNNING:
                _require_attempt(job, attempt)
                return None  # cancelling
            _require_attempt(job, attempt)
            return {**job, "plan": dict(plan), "shared": list(shared)}

        return self._records.update("job", namespace, id, change)

    def damped(self, namespace: str, id: str, attempt: int, damping: Mapping[str, Any]) -> Document:
        """running, with what λ came to; one that is there already stays: all attempts have the same."""

        def change(job: Document) -> Document | None:
            _require_attempt(job, attempt)
            if job["state"] != JobState.RUNNING or job.get("damping"):
                return None
            return {**job, "damping": dict(damping)}

        return self._records.update("job", namespace, id, change)

    def succeed(
        self, namespace: str, id: str, attempt: int, outcome: Mapping[str, Any]
    ) -> Document:
        """running → succeeded, with result, info and cost. A cancel that came too late is passed over."""
        job = self._end(namespace, id, attempt, JobState.SUCCEEDED, outcome)
        with suppress(Unavailable):  # it is for estimates alone
            self._experiences.note(namespace, job)
        return job

    def fail(
        self,
        namespace: str,
        id: str,
        attempt: int,
        error: UpweightError,
        outcome: Mapping[str, Any] | None = None,
    ) -> Document:
        """running → failed, with the problem."""
        problem = error.problem().model_dump(mode="json")
        return self._end(
            namespace, id, attempt, JobState.FAILED, {**(outcome or {}), "problem": problem}
        )

    def cancelled(self, namespace: str, id: str, attempt: int) -> Document:
        """cancelling → cancelled, said by the worker that has stopped."""
        return self._end(namespace, id, attempt, JobState.CANCELLED, {})

    def _end(
        self, namespace: str, id: str, attempt: int, state: JobState, outcome: Mapping[str, Any]
    ) -> Document:
        def change(job: Document) -> Document | None:
            _require_attempt(job, attempt)
            return {**job, **outcome, "state": state, "finished_at": now()}

        return self._move(namespace, id, change)

    def give_back(self, namespace: str, id: str, attempt: int, *, lost: bool = False) -> Document:
        """running → queued: the worker stops, or was lost. A job that is being cancelled stays so, to be ended."""

        def change(job: Document) -> Document | None:
            _require_attempt(job, attempt)
            if job["state"] == JobState.CANCELLING:
                return None
            return {
                **job,
                "state": JobState.QUEUED,
                "worker": None,
                "device": None,
                "started_at": None,
                "lost": job.get("lost", 0) + lost,
            }

        return self._move(namespace, id, change)

    def is_cancelling(self, namespace: str, id: str, attempt: int) -> bool:
        """Whether it is to stop, or deleted. Raises LeaseLost when it went on or ended without this attempt."""
        try:
            job = self._records.get("job", namespace, id)
        except NotFound:
            return True
        if job["attempt"] != attempt or job["state"] in TERMINAL:
            raise LeaseLost(f"{id} is {job['state']} in attempt {job['attempt']}, not {attempt}")
        return bool(job["state"] == JobState.CANCELLING)

    def request_cancel(self, namespace: str, id: str) -> Document:
        """queued → cancelled, running → cancelling, as is what waits to begin again and may have stored something.

        Raises Conflict when the job has ended otherwise.
        """

        def change(job: Document) -> Document | None:
            match job["state"]:
                case JobState.QUEUED if job["attempt"] == 0:
                    return {**job, "state": JobState.CANCELLED, "finished_at": now()}
                case JobState.QUEUED | JobState.RUNNING:
                    return {**job, "state": JobState.CANCELLING}
                case JobState.CANCELLING | JobState.CANCELLED:
                    return None
                case ended:
                    raise Conflict(f"job {id} has already {ended}; there is nothing to cancel")

        return self._move(namespace, id, change)

    def begin_deletion(self, namespace: str, id: str) -> Document:
        """Marks an ended job, so that nobody begins it again while what it stored is deleted. Raises Conflict."""

        def change(job: Document) -> Document | None:
            if job["state"] not in TERMINAL:
                raise Conflict(
                    f"job {id} is {job['state']}; cancel it first (POST /v1/jobs/{id}/cancel), then delete it"
                )
            return {**job, "deleting": True}

        return self._records.update("job", namespace, id, change)

    def retry(self, namespace: str, id: str, once: str | None = None) -> Document:
        """failed or cancelled → queued, and no more than once for the same `once`. Raises Conflict, NotFound."""

        def change(job: Document) -> Document | None:
            if once is not None and job.get("retried_by") == once:
                return None  # by the same request, sent again
            if job.get("deleting"):
                raise not_found("job", id)
            if job["state"] not in (JobState.FAILED, JobState.CANCELLED):
                raise Conflict(
                    f"job {id} is {job['state']}; only a failed or cancelled job can be retried"
                )
            return {
                **job,
                "state": JobState.QUEUED,
                "problem": None,
                "expired_at": None,
                "finished_at": None,
                "started_at": None,
                "worker": None,
                "device": None,
                "lost": 0,
                "plan": None,
                "retried_by": once,
            }

        return self._move(namespace, id, change)


class LeaseLost(Exception):
    """The job was taken from this worker: it was silent for too long, or the job has ended."""


def _require_attempt(job: Document, attempt: int) -> None:
    if job["state"] in TERMINAL or job["state"] not in _OURS or job["attempt"] != attempt:
        raise LeaseLost(
            f"job {job['id']} is {job['state']} in attempt {job['attempt']}, not in attempt {attempt}"
        )


def now() -> str:
    """The present moment as records hold it."""
    return datetime.now(UTC).isoformat()


def figures(before: Document, after: Document) -> list[Noted]:
    """Waiting time at a begin; at an end running time, passes, bytes and problems; and workers that were lost."""
    if after["state"] == JobState.RUNNING and after["attempt"] == 1:
        waited = _seconds(after["created_at"], after["started_at"])
        return [(counters.WAIT, (after["request"]["priority"],), waited)]
    if after.get("lost", 0) > before.get("lost", 0):
        return [(counters.LOST, (), 1.0)]
    if after["state"] in TERMINAL and before["state"] not in TERMINAL:
        return _ended(after)
    return []


def _ended(job: Document) -> list[Noted]:
    kind = job["request"]["kind"]
    of = (kind, (job["request"].get("inversion") or {}).get("method", "none"))
    noted: list[Noted] = [(counters.ENDED, (*of, job["state"]), 1.0)]
    if job.get("started_at"):
        noted.append((counters.RUN, of, _seconds(job["started_at"], job["finished_at"])))
    if job["state"] == JobState.FAILED:
        noted.append((counters.FAILED, (*of, job["problem"]["type"]), 1.0))
    if cost := job.get("cost"):
        took = Cost.model_validate(cost)  # a kind may leave out what it has none of
        noted.append((counters.PASSES, of, took.hessian_passes))
        noted.append((counters.ENGINE, of, took.engine_seconds))
    if result := job.get("result"):
        noted.append((counters.STORED, (kind,), result["size_bytes"]))
    return noted


def _seconds(begin: str, end: str) -> float:
    taken = datetime.fromisoformat(end) - datetime.fromisoformat(begin)
    return max(0.0, taken.total_seconds())
