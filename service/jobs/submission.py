"""Submitting a job: everything that can be known before a worker has it is checked, then it is written and enqueued."""

from __future__ import annotations

from dataclasses import replace

from service.auth import Caller
from service.jobs.states import now
from service.jobs.validation.blobs import (
    as_solved,
    factors_of,
    job_with_factors,
    refuse_what_is_not_given,
)
from service.jobs.validation.compatibility import fitted
from service.jobs.validation.inputs import Inputs, find_inputs
from service.jobs.validation.singular import refuse_singular
from service.jobs.validation.size import refuse_too_much, result_bytes
from service.parts import Parts, webhook_policy
from service.registry import repeated
from service.requests import Trace
from service.storage.keys import Document, Kind, new_id
from service.storage.queue import RUN_JOB
from service.storage.records import Idempotency
from service.webhooks.destination import Destination, Refused
from upweight.errors import InvalidRequest, QueueFull, UpweightError
from upweight.schema import (
    TERMINAL,
    ColumnMatch,
    InfluencesJob,
    JobRecord,
    JobRequest,
    JobState,
    ModelRecord,
    OwnPrecision,
)


def submit(
    parts: Parts,
    caller: Caller,
    job: JobRequest,
    idempotency: Idempotency | None,
    trace: Trace,
) -> Document:
    """A new job, queued. Raises InvalidRequest, NotFound, NotReady, QueueFull, QuotaExceeded."""
    namespace = caller.namespace
    earlier = repeated(parts, "job", namespace, idempotency)
    if earlier is not None:
        ensure_enqueued(parts, namespace, earlier, trace)
        return earlier
    _refuse_webhook(parts, job)
    inputs = find_inputs(parts, namespace, job)
    job = job.model_copy(update={"precision": job.precision or own_precision(inputs.model)})
    earlier_factors = None
    if isinstance(job, InfluencesJob) and job.factors is not None:
        earlier_factors = job_with_factors(parts, namespace, job.factors)
        job = as_solved(job, earlier_factors, inputs)
        inputs = replace(
            find_inputs(parts, namespace, job),
            given_rows=earlier_factors["result"]["factor_shape"][0],
        )
    matched = fitted(inputs, job.columns)
    refuse_what_is_not_given(parts, namespace, job, inputs, matched)
    refuse_too_much(parts.settings, job, inputs)
    if earlier_factors is None:
        refuse_singular(job, inputs)
    parts.queue.refuse_if_full(job.priority)
    _refuse_over_quota(parts, namespace)
    document = _record(job, inputs, matched, earlier_factors).model_dump(mode="json")
    parts.quota.reserve_for_job(namespace, document["id"], result_bytes(job, inputs))
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


def own_precision(model: ModelRecord) -> OwnPrecision:
    """What a job with this model computes in that does not say."""
    if model.precision is not None:
        return model.precision
    return "float64" if model.dtype == "float64" else "float32"  # checked by an earlier version


def _refuse_webhook(parts: Parts, job: JobRequest) -> None:
    if job.webhook is None:
        return
    try:
        Destination.of(job.webhook.url, webhook_policy(parts.settings))
    except Refused as error:
        shown = job.webhook.url if "@" not in job.webhook.url else None  # it may hold a password
        raise InvalidRequest.field("/webhook/url", f"the address {error}", shown) from None


def _refuse_over_quota(parts: Parts, namespace: str) -> None:
    unfinished = sum(
        parts.records.count("job", namespace, state) for state in JobState if state not in TERMINAL
    )
    if unfinished >= parts.settings.namespace_jobs:
        raise QueueFull(
            f"{unfinished} jobs of this namespace are unfinished, which is the limit; wait for some to end",
            retry_after=10,
        )


def _record(
    job: JobRequest, inputs: Inputs, matched: list[ColumnMatch], earlier: Document | None
) -> JobRecord:
    return JobRecord(
        id=new_id("job"),
        state=JobState.QUEUED,
        request=job,
        labels=job.labels,
        model_id=inputs.model.id,
        train_id=inputs.train.dataset.id,
        test_id=inputs.test.dataset.id if inputs.test is not None else None,
        hessian_id=inputs.hessian.dataset.id,
        matched=matched,
        factors_of=None if earlier is None else factors_of(earlier),
        created_at=now(),
    )


def _requires(job: Document) -> list[tuple[Kind, str]]:
    datasets = {job[field] for field in ("train_id", "test_id", "hessian_id") if job[field]}
    return [("model", job["model_id"]), *(("dataset", id) for id in sorted(datasets))]
