"""HTTP for jobs."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Query, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from service.answers.events import MEDIA_TYPE, EventStream
from service.dependencies import (
    IdempotencyKey,
    LabelQuery,
    PagingQuery,
    PartsNow,
    Reader,
    TraceNow,
    Wait,
    Writer,
    idempotency,
    json_only,
)
from service.jobs import actions
from service.jobs.actions import events, job_filters
from service.jobs.examples import EXAMPLES
from service.jobs.kinds import KINDS
from service.jobs.submission import considered, submit
from service.problems import EVERYWHERE, documented
from service.registry import page_of, searched_page
from upweight.errors import (
    Conflict,
    Forbidden,
    IdempotencyConflict,
    InvalidRequest,
    NotFound,
    NotReady,
    NotStored,
    QueueFull,
    QuotaExceeded,
    RateLimited,
    ResultTooLarge,
    TooLarge,
    UnsupportedMediaType,
)
from upweight.schema import TERMINAL, JobChange, JobRecord, JobRequest, JobState, Page

EVENT = {
    "type": "object",
    "properties": {
        "event": {"const": "job"},
        "id": {"type": "string", "description": "The record's revision."},
        "data": {"type": "string", "description": "A JobRecord as JSON."},
    },
}
_CHANGES: Any = {
    "named": {
        "summary": "Named after the fact",
        "value": {"name": "baseline", "note": "Before the labels were cleaned."},
    },
}
router = APIRouter(
    prefix="/v1/jobs",
    tags=["Jobs"],
    responses=documented(*EVERYWHERE),
)


@router.post(
    "",
    summary="Start a job",
    status_code=202,
    dependencies=[Depends(json_only)],
    responses={
        200: {
            "model": JobRecord,
            "description": "With `dry_run`: what the job would take, as `estimate`. Its id leads nowhere.",
        },
        **documented(
            InvalidRequest,
            IdempotencyConflict,
            ResultTooLarge,
            NotFound,
            NotReady,
            NotStored,
            TooLarge,
            UnsupportedMediaType,
            QueueFull,
            RateLimited,
            Forbidden,
            QuotaExceeded,
        ),
    },
)
def create(
    request: Annotated[JobRequest, Body(openapi_examples=EXAMPLES)],
    parts: PartsNow,
    caller: Writer,
    trace: TraceNow,
    response: Response,
    key: IdempotencyKey = None,
    dry_run: Annotated[
        bool, Query(description="Check it and answer what it would take; start and store nothing.")
    ] = False,
) -> JobRecord:
    """Starts a job, once everything about it that can be checked beforehand has been."""
    if dry_run:
        response.status_code = 200
        return considered(parts, caller, request)
    once = idempotency(key, "POST /v1/jobs", request)
    job = submit(parts, caller, request, once, trace)
    response.headers["Location"] = f"/v1/jobs/{job['id']}"
    return JobRecord.model_validate(job)


@router.get("", summary="List jobs", responses=documented(NotFound))
def listing(
    parts: PartsNow,
    caller: Reader,
    paging: PagingQuery,
    state: JobState | None = None,
    model: Annotated[str | None, Query(description="Id, name or name@version.")] = None,
    dataset: Annotated[str | None, Query(description="Id, name or name@version.")] = None,
    label: LabelQuery = [],  # noqa: B006 (FastAPI copies it)
    kind: Annotated[str | None, Query(description=f"One of {', '.join(KINDS)}.")] = None,
    search: Annotated[
        str | None,
        Query(max_length=200, description="Part of the id, the name, the note or a label."),
    ] = None,
) -> Page[JobRecord]:
    """Jobs, newest first.

    `kind` and `search` are looked for in the records themselves: a page may have fewer items than `limit`, and more
    come after it.
    """
    filters = job_filters(parts, caller.namespace, state, model, dataset, label)
    if kind is not None and kind not in KINDS:
        words = f"the kind must be one of {', '.join(KINDS)}; it is {kind!r}"
        raise InvalidRequest.field("query:kind", words, kind)
    if kind is None and search is None:
        page = page_of(parts, "job", caller.namespace, paging, filters)
    else:
        wanted = partial(actions.is_meant, kind=kind, search=(search or "").casefold())
        page = searched_page(parts, "job", caller.namespace, paging, filters, wanted)
    actions.with_quality(parts, caller.namespace, page["items"])
    return Page[JobRecord].model_validate(page)


@router.get("/{id}", summary="Show a job, or wait for its end", responses=documented(NotFound))
async def get(id: str, parts: PartsNow, caller: Reader, wait: Wait = 0) -> JobRecord:
    """A job as it stands; with `wait`, as soon as it has ended."""
    job = await parts.changes.until(
        "job",
        caller.namespace,
        id,
        partial(actions.current_job, parts, caller.namespace, id),
        done=lambda job: job["state"] in TERMINAL,
        seconds=wait,
    )
    return JobRecord.model_validate(job)


@router.get(
    "/{id}/events",
    summary="Follow a job by events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Events `job`, each with a JobRecord as data and its revision as id.",
            "content": {MEDIA_TYPE: {"schema": EVENT}},
        },
        204: {"description": "The job has ended, and the client has seen that."},
        **documented(NotFound),
    },
)
async def stream(
    id: str,
    parts: PartsNow,
    caller: Reader,
    last_event_id: Annotated[str | None, Header(pattern=r"^\d{1,15}$")] = None,
) -> Response:
    """A job's changes as server-sent events, until it has ended."""
    job = await run_in_threadpool(actions.current_job, parts, caller.namespace, id)
    seen = int(last_event_id) if last_event_id is not None else None
    if job["state"] in TERMINAL and job["revision"] == seen:
        return Response(status_code=204)  # a browser's EventSource would connect again for ever
    return EventStream(
        events(parts, caller.namespace, id, seen), lambda: parts.changes.place(caller.namespace)
    )


@router.patch(
    "/{id}",
    summary="Name a job, or note something about it",
    dependencies=[Depends(json_only)],
    responses=documented(NotFound, Conflict, InvalidRequest, TooLarge, UnsupportedMediaType),
)
def change(
    id: str,
    wanted: Annotated[JobChange, Body(openapi_examples=_CHANGES)],
    parts: PartsNow,
    caller: Writer,
) -> JobRecord:
    """Changes a job's name and note: what is given, and nothing else. Null takes one away."""
    return JobRecord.model_validate(actions.change(parts, caller.namespace, id, wanted))


@router.post(
    "/{id}/cancel",
    summary="Cancel a job",
    status_code=202,
    responses=documented(NotFound, Conflict),
)
def cancel(id: str, parts: PartsNow, caller: Writer) -> JobRecord:
    """Stops a job: at once when it waits, within two seconds when it runs."""
    return JobRecord.model_validate(actions.cancel(parts, caller.namespace, id))


@router.post(
    "/{id}/retry",
    summary="Retry a job",
    status_code=202,
    responses=documented(
        NotFound,
        Conflict,
        IdempotencyConflict,
        InvalidRequest,
        QueueFull,
        QuotaExceeded,
        RateLimited,
    ),
)
def retry(
    id: str, parts: PartsNow, caller: Writer, trace: TraceNow, key: IdempotencyKey = None
) -> JobRecord:
    """Runs a failed or cancelled job again, from what it had finished."""
    once = idempotency(key, f"POST /v1/jobs/{id}/retry")
    return JobRecord.model_validate(actions.retry(parts, caller.namespace, id, once, trace))


@router.delete(
    "/{id}",
    summary="Delete a job and its result",
    status_code=204,
    responses=documented(NotFound, Conflict),
)
def delete(id: str, parts: PartsNow, caller: Writer) -> None:
    """Deletes an ended job and its result."""
    actions.delete(parts, caller.namespace, id)
