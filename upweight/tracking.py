"""A job from its record to its end: polls, events, progress, failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import httpx2

from upweight.errors import Conflict, InternalError, UpweightError, error_from
from upweight.exchange import Call, Flow, Pause, UnexpectedAnswer, segment
from upweight.progress import Bar, Bars
from upweight.schema import TERMINAL, JobRecord, JobState
from upweight.transport import ConnectionFailed
from upweight.waiting import WaitTimedOut, left, paced

WATCHED_POLL = 1.0  # seconds that a poll is held while someone watches the progress
LOSSES = 3  # streams lost without one event between, after which events are polled

OnProgress = Callable[[JobRecord], None]


class JobCancelled(UpweightError):
    """The job was cancelled; it has no result."""

    type, title, status = "job-cancelled", "The job was cancelled", 0


def path(job_id: str) -> str:
    """A job's address."""
    return f"/v1/jobs/{segment(job_id)}"


def fetch(job_id: str, wait: float = 0.0) -> Flow[JobRecord]:
    """The record; held for so many seconds while the job goes on."""
    reply = yield Call("GET", path(job_id), (("wait", f"{wait:g}"),) if wait else ())
    return reply.read(JobRecord)


def act(job_id: str, action: Literal["cancel", "retry"]) -> Flow[JobRecord]:
    """Asks for a job's end, or for another run of it."""
    reply = yield Call("POST", f"{path(job_id)}/{action}", creates=action == "retry")
    return reply.read(JobRecord)


def ended(record: JobRecord) -> bool:
    """Whether the record will never change again."""
    return record.state in TERMINAL


def until_ended(
    job_id: str,
    bars: Bars,
    *,
    record: JobRecord | None = None,
    timeout: float | None = None,
    on_progress: OnProgress | None = None,
    progress: bool | None = None,
    hold: float,
) -> Flow[JobRecord]:
    """The record once the job has ended, however it ended."""
    deadline = None if timeout is None else time.monotonic() + timeout
    record = record or (yield from fetch(job_id))
    with bars.bar(job_id, unit="", wanted=progress) as bar:
        watched = bar.drawn or on_progress is not None
        while True:
            _show(record, bar)
            if on_progress is not None:
                on_progress(record)
            if ended(record):
                return record
            remaining = left(deadline)
            if remaining == 0:
                raise WaitTimedOut(
                    f"{job_id} was still {record.state} after {timeout:g} seconds; it goes on: wait again, or cancel it"
                )
            poll = fetch(job_id, min(WATCHED_POLL if watched else hold, hold, remaining))
            record = yield from paced(poll, ended)


def failure(record: JobRecord) -> UpweightError | None:
    """Why an ended job has no result, as an exception; None when it has one."""
    if record.state == JobState.SUCCEEDED:
        return None
    if record.state == JobState.CANCELLED:
        return JobCancelled(
            f"{record.id} was cancelled; client.jobs.retry({record.id!r}) runs it again"
        )
    if record.problem is None:
        return InternalError(f"{record.id} {record.state} without a reason; see the worker's log")
    error = error_from(record.problem)
    place = f" on {record.device}" if record.device else ""
    error.add_note(f"job {record.id}, attempt {record.attempt}{place}")
    return error


def succeeded(record: JobRecord) -> JobRecord:
    """The record of a job with a result; raises what it failed of."""
    error = failure(record)
    if error is not None:
        raise error
    return record


def _show(record: JobRecord, bar: Bar) -> None:
    stage = record.stage or str(record.state)
    if record.state == JobState.QUEUED and record.queue_position is not None:
        stage = f"queued, {record.queue_position} before it"
    progress = record.progress
    if progress is not None:
        bar.unit = progress.unit
    done, total = (progress.done, progress.total) if progress else (0, None)
    bar.to(done, total, f"{record.id}  {stage}")


class Following:
    """A job's events over broken streams: what to ask for next, what is news, when it is over."""

    def __init__(self, job_id: str, hold: float) -> None:
        self.job_id = job_id
        self.ended = False
        self.polls = False
        self._hold = hold
        self._newest = -1
        self._losses = 0

    def call(self) -> Call:
        """The stream, from after the newest event that came."""
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._newest >= 0:
            headers["Last-Event-ID"] = str(self._newest)
        return Call("GET", f"{path(self.job_id)}/events", headers=headers)

    def poll(self) -> Flow[JobRecord]:
        """The record, where streams don't get through."""
        return paced(fetch(self.job_id, min(WATCHED_POLL, self._hold)), ended)

    def heard(self, event: httpx2.ServerSentEvent) -> JobRecord | None:
        """The record of an event, if it is news."""
        if event.event != "job":
            return None
        try:
            record = JobRecord.model_validate_json(event.data)
        except ValueError as exc:
            raise UnexpectedAnswer("an event of the job is no job record") from exc
        self._losses = 0
        return record if self.is_news(record) else None

    def is_news(self, record: JobRecord) -> bool:
        """Whether the record is newer than all before."""
        self.ended = ended(record)
        if record.revision <= self._newest:
            return False
        self._newest = record.revision
        return True

    def lost(self, error: UpweightError | None = None) -> Flow[None]:
        """The stream broke: raises what no second try mends, else waits a moment."""
        self._losses += 1
        unstreamable = isinstance(error, UnexpectedAnswer) or getattr(error, "status", 0) in (
            404, 405, 406, 501,
        )  # fmt: skip
        transient = (
            error is None
            or isinstance(error, ConnectionFailed | Conflict)
            or (error.status >= 429 and not unstreamable)
        )
        if not (unstreamable or transient):
            assert error is not None
            raise error
        self.polls = unstreamable or self._losses >= LOSSES
        yield Pause(0.0 if self.polls else 0.1 * 2**self._losses)
