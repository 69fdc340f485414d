"""Submitting a job: everything that can be known before a worker has it is checked, then it is written and enqueued."""

from __future__ import annotations

from dataclasses import replace

from service.auth import Caller, Role
from service.jobs.validation.blobs import (
    as_solved,
    factors_of,
    job_with_factors,
    refuse_what_is_not_given,
)
from service.jobs.validation.compatibility import fitted, refuse_curvature
from service.jobs.validation.inputs import Chosen, Inputs
from service.jobs.validation.singular import refuse_singular
from service.jobs.validation.size import refuse_too_much, result_bytes
from service.lifecycle.states import now
from service.parts import Parts, webhook_policy
from service.registry import repeated, resolve
from service.requests import Trace
from service.storage.keys import Document, Kind, new_id
from service.storage.queue import HIGH, RUN_JOB
from service.storage.records import Idempotency
from service.webhooks.destination import Destination, Refused
from upweight.errors import Forbidden, InvalidRequest, NotFound, NotReady, QueueFull, UpweightError
from upweight.schema import (
    TERMINAL,
    CheckState,
    ColumnMatch,
    DatasetRecord,
    InfluencesJob,
    JobRecord,
    JobRequest,
    JobState,
    ModelRecord,
    OwnPrecision,
    Selection,
    parse_rows,
)


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
    inputs = find_inputs(parts, namespace, job)
    job = job.model_copy(update={"precision": job.precision or own_precision(inputs.model)})
    earlier_factors = None
    if isinstance(job, InfluencesJob) and job.factors is not None:
        earlier_factors = job_with_factors(parts, namespace, job.factors)
        job = as_solved(job, earlier_factors, inputs)
        inputs = replace(
            find_inputs(parts, namespace, job),
            given_rows=earlier_factors["result"]["factor_shape"][-2],
        )
    refuse_curvature(job, inputs.model)
    matched = fitted(inputs, job.columns)
    refuse_what_is_not_given(parts, namespace, job, inputs, matched)
    refuse_too_much(parts.settings, job, inputs)
    if earlier_factors is None:
        refuse_singular(job, inputs)
    refuse_if_full(parts, namespace, job.priority)
    _refuse_over_quota(parts, namespace)
    document = _record(job, inputs, matched, earlier_factors).model_dump(mode="json")
    document["reserves"] = result_bytes(job, inputs)
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


def find_inputs(parts: Parts, namespace: str, job: JobRequest) -> Inputs:
    """Raises NotFound, NotReady, InvalidRequest, each naming its field."""
    model = ModelRecord.model_validate(_ready(parts, "model", namespace, job.model, "/model"))
    train = _chosen(parts, namespace, job.train, "/train")
    test = getattr(job, "test", None)
    # Over all rows, whichever of them influence is asked for.
    whole = Chosen("/train", train.dataset, parse_rows(None, train.dataset.rows or 0))
    return Inputs(
        model=model,
        train=train,
        test=_chosen(parts, namespace, test, "/test") if test is not None else None,
        hessian=_chosen(parts, namespace, job.hessian_on, "/hessian_on")
        if job.hessian_on is not None
        else whole,
    )


def _chosen(parts: Parts, namespace: str, selection: Selection, pointer: str) -> Chosen:
    found = _ready(parts, "dataset", namespace, selection.dataset, f"{pointer}/dataset")
    dataset = DatasetRecord.model_validate(found)
    try:
        rows = parse_rows(selection.rows, dataset.rows or 0)
    except ValueError as error:
        raise InvalidRequest.field(f"{pointer}/rows", str(error), selection.rows) from None
    if len(rows) == 0:
        raise InvalidRequest.field(
            f"{pointer}/rows",
            f"chooses no row of {dataset.name!r}, which has {dataset.rows}; write '0:100', or leave it out for all",
            selection.rows,
        )
    return Chosen(pointer, dataset, rows)


def _ready(
    parts: Parts, kind: Kind, namespace: str, reference: str, pointer: str
) -> dict[str, object]:
    try:
        found = resolve(parts, kind, namespace, reference)
    except NotFound as missing:
        raise NotFound.field(pointer, missing.detail, reference) from None
    if found["state"] == CheckState.READY:
        return found
    name = f"{kind} {found['name']}@{found['version']}"
    if found["state"] == CheckState.CHECKING:
        error = NotReady.field(
            pointer,
            f"{name} is still being checked; GET /v1/{kind}s/{found['id']}?wait=60 holds until it is",
            reference,
        )
        error.retry_after = 1
        raise error
    reason = (found.get("problem") or {}).get("detail", "its check failed")
    raise NotReady.field(pointer, f"{name} was rejected: {reason}", reference)


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
