"""What a user does with jobs that are there: list, look, follow, cancel, retry, delete."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from service.answers.events import KEEPALIVE_SECONDS
from service.jobs.submission import ensure_enqueued, refuse_if_full
from service.parts import Parts
from service.registry import filters_of, find_job, resolve
from service.requests import Trace
from service.storage.keys import Document, Kind, by_use
from service.storage.layout import ResultPaths
from service.storage.qualities import names_of
from service.storage.records import Idempotency
from upweight.schema import TERMINAL, JobChange, JobRecord, JobState


class ShownJob(dict[str, Any]):
    """A job's record as it was read at a moment, and the event that tells of it, made once for all listeners."""

    @cached_property
    def event(self) -> bytes:
        """As server-sent events have it."""
        record = JobRecord.model_validate(self)
        return format_sse_event(
            event="job", id=str(self["revision"]), data_str=record.model_dump_json()
        )


def current_job(parts: Parts, namespace: str, id: str) -> ShownJob:
    """A job's record, with its place in the queue. Raises NotFound."""
    job = ShownJob(find_job(parts, namespace, id))
    if job["state"] == JobState.QUEUED:
        priority = job["request"]["priority"]
        job["queue_position"] = parts.queue.position(id, job["attempt"], priority)
    with_quality(parts, namespace, [job])
    return job


def with_quality(parts: Parts, namespace: str, jobs: Sequence[Document]) -> None:
    """Adds to the verdict of each what was last measured for its model, method and λ; of several λ's, the best."""
    told = [job for job in jobs if job.get("verdict") and "inversion" in job["request"]]
    if not told:
        return
    ids = sorted({job["model_id"] for job in told})
    models = parts.records.get_many("model", namespace, ids)
    digests = {model["id"]: model["digest"] for model in models}
    named = [
        (job, name)
        for job in told
        if job["model_id"] in digests
        for _, name in names_of(digests[job["model_id"]], job)
    ]
    for (job, _), found in zip(
        named, parts.qualities.of(namespace, [name for _, name in named]), strict=True
    ):
        before = job["verdict"].get("quality")
        if found is not None and (before is None or found["value"] > before["value"]):
            job["verdict"] = {**job["verdict"], "quality": found}


def change(parts: Parts, namespace: str, id: str, wanted: JobChange) -> Document:
    """Gives a job, whatever its state, another name or note. Raises NotFound."""
    find_job(parts, namespace, id)
    fields = wanted.model_dump(exclude_unset=True)
    parts.records.update("job", namespace, id, lambda job: {**job, **fields})
    parts.copies.secure("job", namespace, id)
    return current_job(parts, namespace, id)


def cancel(parts: Parts, namespace: str, id: str) -> Document:
    """Stops a job, at once when it waits. Raises NotFound, Conflict."""
    before = find_job(parts, namespace, id)
    if before["state"] == JobState.QUEUED:
        # Before the change of state: after it another may have queued the job again, and its task would be taken out.
        parts.queue.remove(id, before["attempt"], before["request"]["priority"])
    after = parts.lifecycle.request_cancel(namespace, id)
    waits = after["worker"] is None  # to begin again
    if after["state"] == JobState.CANCELLING and (waits or after.get("plan")):
        parts.ending.cancelled_if_free(namespace, after)
    return parts.records.get("job", namespace, id)


def retry(
    parts: Parts, namespace: str, id: str, idempotency: Idempotency | None, trace: Trace
) -> Document:
    """Queues a failed or cancelled job again.

    Raises NotFound, Conflict, QueueFull, QuotaExceeded, IdempotencyConflict.
    """
    job = find_job(parts, namespace, id)
    if idempotency and parts.records.made_by("job", f"{namespace}:retry", idempotency) == id:
        ensure_enqueued(parts, namespace, job, trace)
        return job
    refuse_if_full(parts, namespace, job["request"]["priority"])
    # Where it is not to begin, for it has been deleted or goes on already, the next measuring ends the reservation.
    parts.quota.reserve_for_job(namespace, id, job.get("reserves", 0))
    once = hashlib.sha256(idempotency.key.encode()).hexdigest() if idempotency else None
    parts.lifecycle.retry(namespace, id, once)
    if idempotency:
        parts.records.remember("job", f"{namespace}:retry", idempotency, id)
    queued = parts.records.get("job", namespace, id)
    ensure_enqueued(parts, namespace, queued, trace)
    parts.copies.secure("job", namespace, id)
    return queued


def delete(parts: Parts, namespace: str, id: str) -> None:
    """Deletes an ended job and all that it stored. Raises NotFound, Conflict."""
    find_job(parts, namespace, id)
    job = parts.lifecycle.begin_deletion(namespace, id)
    # The manifest first: from then on there is no result, whatever happens to the rest.
    paths = ResultPaths(namespace, id)
    parts.objects.delete([paths.manifest])
    parts.objects.delete_prefix(paths.prefix)
    parts.records.delete("job", namespace, id)
    parts.ending.let_go(namespace, job)
    parts.copies.secure("job", namespace, id)
    parts.outbox.forget(namespace, id)
    parts.quota.give_back(namespace, id)
    parts.quota.measure_again(namespace)


def is_meant(job: Document, *, kind: str | None, search: str) -> bool:
    """Whether a job is of a kind, and has some text, in lower case, in what it is called by."""
    if kind is not None and job["request"]["kind"] != kind:
        return False
    labels = (f"{key}={value}" for key, value in job["labels"].items())
    called = (job["id"], job.get("name") or "", job.get("note") or "", *labels)
    return any(search in text.casefold() for text in called)


def job_filters(
    parts: Parts,
    namespace: str,
    state: str | None,
    model: str | None,
    dataset: str | None,
    labels: Sequence[str],
) -> list[str]:
    """The indexes for `Records.page`. Raises NotFound for a model or dataset that is not there."""
    named: list[tuple[Kind, str | None]] = [("model", model), ("dataset", dataset)]
    used = [
        by_use(resolve(parts, kind, namespace, reference)["id"])
        for kind, reference in named
        if reference is not None
    ]
    return [*filters_of(state=state, labels=labels), *used]


async def events(parts: Parts, namespace: str, id: str, seen: int | None) -> AsyncIterator[bytes]:
    """An event for each change that is noticed, from the present state on; the last one is the terminal state.

    `seen` is the revision that the client has already. Changes faster than the reading are joined.
    """
    sent: tuple[int | None, int | None] = (seen, None)
    last = time.monotonic()
    first = True
    async for job in parts.changes.follow(
        "job", namespace, id, lambda: current_job(parts, namespace, id)
    ):
        state = (job["revision"], job.get("queue_position"))
        known = job["revision"] == seen if first else state == sent
        first = False
        if not known:
            yield job.event
            last = time.monotonic()
        elif time.monotonic() - last >= KEEPALIVE_SECONDS:
            yield KEEPALIVE_COMMENT
            last = time.monotonic()
        sent = state
        if job["state"] in TERMINAL:
            return
