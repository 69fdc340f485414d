"""A job from its record to its end: polls, events, progress, failure."""

from __future__ import annotations

import inspect
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from upweight.errors import InternalError, UpweightError, error_from
from upweight.http.flow import Call, Flow, Pause, segment
from upweight.progress import Bar, Bars, duration, logger
from upweight.schema import LEVELS, TERMINAL, JobRecord, JobState

WATCHED_POLL = 1.0  # seconds that a poll is held while someone watches the progress
LONG = 300.0  # seconds left from which on whoever waits is told, once

OnProgress = Callable[[JobRecord], None]


class UntrustedResult(UserWarning):
    """A result whose verdict is below `good`: was the system solved, and does influence apply here."""


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


def delete(job_id: str) -> Flow[None]:
    """Removes an ended job and its result."""
    yield Call("DELETE", path(job_id))


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
        told: str | None = None
        while True:
            _show(record, bar)
            told = _tell(record, told)
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


def warned_of(id: str, remarks: Sequence[str]) -> None:
    """Warns whoever called the SDK."""
    for remark in remarks:
        warnings.warn(f"{id}, {remark}", stacklevel=_callers_level())


def waited_for(record: JobRecord) -> JobRecord:
    """As `succeeded`, for whoever waited: an UntrustedResult is warned of for each part that is not `good`."""
    warned_of(record.id, record.remarks)
    verdict = succeeded(record).verdict
    for judgement in (verdict.solved, verdict.applies) if verdict is not None else ():
        if judgement.level != LEVELS[0]:
            text = f"{record.id}, {judgement.level}: {judgement.text}"
            warnings.warn(text, UntrustedResult, stacklevel=_callers_level())
    return record


def _callers_level() -> int:
    """How far up the stack the user's own line is, as `warnings.warn` counts it from our caller."""
    frame, level = inspect.currentframe(), 0  # our own frame is level 0, our caller's level 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "upweight":
        frame, level = frame.f_back, level + 1
    return level


def _tell(record: JobRecord, told: str | None) -> str | None:
    """A line of the log where the stage has changed; a warning where it will take long. What has been told."""
    left, progress = record.eta_seconds or 0.0, record.progress
    if left >= LONG and told != "long":
        done = f" ({progress.done:,} of {progress.total:,} {progress.unit})" if progress else ""
        logger.warning(
            "%s: about %s left%s; it goes on if you stop waiting, and client.jobs.cancel(%r) ends it",
            record.id, duration(left), done, record.id,
        )  # fmt: skip
        return "long"
    stage = stage_in_words(record)
    if told not in (stage, "long"):
        logger.info("%s: %s", record.id, stage)
        return stage
    return told


def _show(record: JobRecord, bar: Bar) -> None:
    progress = record.progress
    if progress is not None:
        bar.unit = progress.unit
    done, total = (progress.done, progress.total) if progress else (0, None)
    bar.to(done, total, f"{record.id}  {stage_in_words(record)}")


def stage_in_words(record: JobRecord) -> str:
    """What it does now, or how many wait before it."""
    if record.state == JobState.QUEUED and record.queue_position is not None:
        return f"queued, {record.queue_position} before it"
    return str(record.state) if ended(record) else record.stage or str(record.state)


T = TypeVar("T")
SHORTEST_POLL = 0.2  # seconds from one poll's beginning to the next's


class WaitTimedOut(UpweightError, TimeoutError):
    """What was waited for goes on; only the waiting has ended."""

    type, title, status = "wait-timed-out", "It was not done in the time given", 0


def left(deadline: float | None) -> float:
    """Seconds until a deadline: infinitely many without one, 0 past it."""
    return math.inf if deadline is None else max(0.0, deadline - time.monotonic())


def paced(flow: Flow[T], done: Callable[[T], bool]) -> Flow[T]:
    """One poll; with a pause if it is not the last and the service did not hold it."""
    begun = time.monotonic()
    outcome = yield from flow
    spent = time.monotonic() - begun
    if spent < SHORTEST_POLL and not done(outcome):
        yield Pause(SHORTEST_POLL - spent)
    return outcome
