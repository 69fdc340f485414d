"""Submitting a job: everything that can be known before a worker has it is checked, then it is written and enqueued."""

from __future__ import annotations

from service.auth import Caller, Role
from service.jobs.kinds import KINDS
from service.jobs.selections import with_numbers
from service.parts import Parts, webhook_policy
from service.registry import repeated
from service.requests import Trace
from service.storage.keys import Document, Kind, is_id
from service.storage.queue import HIGH, RUN_JOB
from service.storage.records import Idempotency
from service.webhooks.destination import Destination, Refused
from upweight.errors import Forbidden, InvalidRequest, QueueFull, UpweightError
from upweight.schema import TERMINAL, CheckState, Estimate, JobRecord, JobRequest, JobState


def submit(
    parts: Parts,
    caller: Caller,
    job: JobRequest,
    idempotency: Idempotency | None,
    trace: Trace,
) -> Document:
    """A new job, queued. Raises Forbidden, InvalidRequest, NotFound, NotReady, QueueFull, QuotaExceeded."""
    namespace = caller.namespace
    _refuse_priority(parts, caller, job)
    earlier = repeated(parts, "job", namespace, idempotency)
    if earlier is not None:
        ensure_enqueued(parts, namespace, earlier, trace)
        return earlier
    _refuse_webhook(parts, job)
    job = with_numbers(parts, namespace, job)
    prepared = KINDS[job.kind](parts, namespace, job)
    refuse_if_full(parts, namespace, job.priority)
    _refuse_over_quota(parts, namespace)
    document = prepared.record.model_dump(mode="json")
    document["remarks"] = _passed_over(parts, namespace, job, document)
    document["reserves"] = prepared.result_bytes
    parts.quota.reserve_for_job(namespace, document["id"], document["reserves"])
    try:
        id, made = parts.records.create(
            "job", namespace, document, idempotency=idempotency, requires=_requires(document)
        )
    except UpweightError:
        parts.quota.give_back(namespace, document["id"])
        raise
    if not made:
        parts.quota.give_back(namespace, document["id"])
    stored = parts.records.get("job", namespace, id)
    if made:
        # The copy after the queue: a worker is at the job meanwhile, and the answer still waits for both.
        enqueue(parts, namespace, stored, trace, made=True)
        parts.copies.secure("job", namespace, id)
    return stored


def considered(parts: Parts, caller: Caller, job: JobRequest) -> JobRecord:
    """The record that a job would get, with what it will take; nothing is stored. Raises as `submit` does, but for what
    is full."""
    _refuse_priority(parts, caller, job)
    _refuse_webhook(parts, job)
    job = with_numbers(parts, caller.namespace, job)
    prepared = KINDS[job.kind](parts, caller.namespace, job)
    record = prepared.record
    if record.estimate is None:
        record.estimate = Estimate(
            seconds=None, bytes=prepared.result_bytes, memory_bytes=parts.settings.memory_bytes
        )
    document = record.model_dump(mode="json")
    record.remarks = _passed_over(parts, caller.namespace, job, document)
    return record


def enqueue(
    parts: Parts, namespace: str, job: Document, trace: Trace, *, made: bool = False
) -> None:
    """Puts the job's present attempt into its queue. `made`: it has just been recorded, and stands whatever happens."""
    put = parts.queue.enqueue_made if made else parts.queue.enqueue
    put(
        RUN_JOB,
        namespace,
        job["id"],
        attempt=job["attempt"],
        priority=job["request"]["priority"],
        trace=str(trace),
    )


def ensure_enqueued(parts: Parts, namespace: str, job: Document, trace: Trace) -> None:
    """Enqueues a queued job that is in no queue: the process that made it died in between."""
    if job["state"] != JobState.QUEUED:
        return
    if parts.queue.position(job["id"], job["attempt"], job["request"]["priority"]) is None:
        enqueue(parts, namespace, job, trace)


def refuse_if_full(parts: Parts, namespace: str, priority: str) -> None:
    """Raises QueueFull where no more may wait at this priority, of all namespaces or of this one."""
    parts.queue.refuse_if_full(priority)
    if priority != HIGH:
        return
    waiting, limit = parts.queue.jobs_waiting(namespace, priority), parts.settings.namespace_high
    if waiting >= limit:
        raise QueueFull(
            f"{waiting} jobs of this namespace wait at priority 'high', and {limit} may; leave 'priority' out, or wait "
            "for some to begin",
            retry_after=5,
        )


def _refuse_priority(parts: Parts, caller: Caller, job: JobRequest) -> None:
    role = Role(parts.settings.high_role)
    if job.priority == HIGH and not caller.has(role):
        raise Forbidden.field(
            "/priority",
            f"priority 'high' needs a key of role '{role}', and the key that was sent has '{caller.role}'; leave "
            f"'priority' out, for jobs of all namespaces take turns, or use a key of role '{role}'; the operator can "
            "open it to others with UPWEIGHT_HIGH_ROLE",
            job.priority,
        )


def _refuse_webhook(parts: Parts, job: JobRequest) -> None:
    if job.webhook is None:
        return
    try:
        Destination.of(job.webhook.url, webhook_policy(parts.settings))
    except Refused as error:
        shown = job.webhook.url if "@" not in job.webhook.url else None  # it may hold a password
        raise InvalidRequest.field(
            "/webhook/url", f"the webhook's address {error}", shown
        ) from None


def _refuse_over_quota(parts: Parts, namespace: str) -> None:
    unfinished = sum(
        parts.records.count("job", namespace, state) for state in JobState if state not in TERMINAL
    )
    if unfinished >= parts.settings.namespace_jobs:
        raise QueueFull(
            f"{unfinished} jobs of this namespace are unfinished, which is the limit; wait for some to end",
            retry_after=10,
        )


def _passed_over(parts: Parts, namespace: str, job: JobRequest, record: Document) -> list[str]:
    """Where a name does not mean its newest version, because that was rejected: what it means instead."""
    named: list[tuple[str, Kind, str | None, str | None]] = [
        ("/model", "model", job.model, record["model_id"])
    ]
    for field, id in (("train", "train_id"), ("test", "test_id"), ("hessian_on", "hessian_id")):
        selection = getattr(job, field, None)
        if selection is not None:
            named.append((f"/{field}", "dataset", selection.dataset, record[id]))
    remarks = []
    for pointer, kind, reference, taken_id in named:
        if taken_id is None or reference is None or "@" in reference or is_id(kind, reference):
            continue
        newest = parts.records.resolve(kind, namespace, reference)
        if newest["id"] == taken_id or newest["state"] != CheckState.REJECTED:
            continue
        taken = parts.records.get(kind, namespace, taken_id)
        why = (newest.get("problem") or {}).get("detail", "its check failed")
        remarks.append(
            f"{pointer}: {reference!r} means {reference}@{taken['version']} here, for its newest version, "
            f"{newest['version']}, was rejected: {why}"
        )
    return remarks


def _requires(job: Document) -> list[tuple[Kind, str]]:
    datasets = {job[field] for field in ("train_id", "test_id", "hessian_id") if job[field]}
    return [("model", job["model_id"]), *(("dataset", id) for id in sorted(datasets))]
