"""What a user does with a job that is there: look, cancel, retry, delete."""

from __future__ import annotations

from service.jobs.submission import enqueue, ensure_enqueued
from service.parts import Parts
from service.requests import Trace
from service.results.layout import ResultPaths
from service.storage import keys
from service.storage.keys import Document
from service.storage.records import Idempotency, not_found
from upweight.errors import Conflict
from upweight.schema import TERMINAL, JobState


def find_job(parts: Parts, namespace: str, id: str) -> Document:
    """A job's record. Raises NotFound."""
    if not keys.is_id("job", id):
        raise not_found("job", id)
    return parts.records.get("job", namespace, id)


def look(parts: Parts, namespace: str, id: str) -> Document:
    """A job's record, with its place in the queue. Raises NotFound."""
    job = find_job(parts, namespace, id)
    if job["state"] == JobState.QUEUED:
        priority = job["request"]["priority"]
        job["queue_position"] = parts.queue.position(id, job["attempt"], priority)
    return job


def cancel(parts: Parts, namespace: str, id: str) -> Document:
    """Stops a job, at once when it waits. Raises NotFound, Conflict."""
    before = find_job(parts, namespace, id)
    after = parts.lifecycle.request_cancel(namespace, id)
    if before["state"] == JobState.QUEUED:
        parts.queue.remove(id, before["attempt"], before["request"]["priority"])
    waits = after["worker"] is None  # to begin again
    if after["state"] == JobState.CANCELLING and (waits or after.get("plan")):
        parts.ending.cancelled_if_free(namespace, after)
    return parts.records.get("job", namespace, id)


def retry(
    parts: Parts, namespace: str, id: str, idempotency: Idempotency | None, trace: Trace
) -> Document:
    """Queues a failed or cancelled job again. Raises NotFound, Conflict, QueueFull, IdempotencyConflict."""
    job = find_job(parts, namespace, id)
    if idempotency and parts.records.made_by("job", f"{namespace}:retry", idempotency) == id:
        ensure_enqueued(parts, namespace, job, trace)
        return job
    parts.queue.refuse_if_full(job["request"]["priority"])
    parts.lifecycle.retry(namespace, id)
    if idempotency:
        parts.records.remember("job", f"{namespace}:retry", idempotency, id)
    queued = parts.records.get("job", namespace, id)
    enqueue(parts, namespace, queued, trace)
    parts.copies.secure("job", namespace, id)
    return queued


def delete(parts: Parts, namespace: str, id: str) -> None:
    """Deletes an ended job and all that it stored. Raises NotFound, Conflict."""
    job = find_job(parts, namespace, id)
    if job["state"] not in TERMINAL:
        raise Conflict(
            f"job {id} is {job['state']}; cancel it first (POST /v1/jobs/{id}/cancel), then delete it"
        )
    # The manifest first: from then on there is no result, whatever happens to the rest.
    paths = ResultPaths(namespace, id)
    parts.objects.delete([paths.manifest])
    parts.objects.delete_prefix(paths.prefix)
    parts.records.delete("job", namespace, id)
    parts.ending.let_go(namespace, job)
    parts.copies.secure("job", namespace, id)
    parts.outbox.forget(namespace, id)
    parts.quota.measure_again(namespace)
