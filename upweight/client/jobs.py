"""Jobs: created, followed, cancelled, run again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from upweight.client.paging import Listing, items, items_async, listing
from upweight.client.request import Referable, invalid, reference
from upweight.client.webhooks import deliveries
from upweight.http import polling
from upweight.http.events import followed, followed_async
from upweight.http.flow import Call, Flow
from upweight.http.polling import OnProgress
from upweight.http.transport import AsyncTransport, Transport
from upweight.progress import Bars, logger
from upweight.results.blocking import RESULTS, Result
from upweight.results.coroutines import ASYNC_RESULTS, AsyncResult
from upweight.schema import Delivery, JobRecord, JobRequest

Reference = str | JobRecord


@cache
def _requests() -> TypeAdapter[Any]:
    """What reads requests of all kinds; made when the first job is sent, since that takes longer than all imports."""
    return TypeAdapter(JobRequest)


def checked(request: BaseModel | Mapping[str, Any]) -> Any:
    """The request as a model of the contract; InvalidRequest with all that is wrong with it."""
    fields = request.model_dump(mode="json") if isinstance(request, BaseModel) else request
    try:
        return _requests().validate_python(fields)
    except ValidationError as exc:
        raise invalid(exc, "/v1/jobs", fields) from exc


def create(request: BaseModel | Mapping[str, Any], *, dry_run: bool = False) -> Flow[JobRecord]:
    """Sends a job request, checked here first. What is to be known before waiting is logged."""
    known = checked(request)
    # Defaults are left to the service: a newer one may know better.
    body = known.model_dump(mode="json", exclude_unset=True)
    query = [("dry_run", "true")] if dry_run else []
    reply = yield Call("POST", "/v1/jobs", query, json={"kind": known.kind, **body}, creates=True)
    record = reply.read(JobRecord)
    if not dry_run and record.estimate is not None and record.estimate.remark:
        logger.warning("%s: %s", record.id, record.estimate.remark)
    return record


def wait(
    job: Reference,
    bars: Bars,
    hold: float,
    timeout: float | None,
    on_progress: OnProgress | None,
    progress: bool | None,
) -> Flow[JobRecord]:
    """The record of the job once it has succeeded."""
    record = yield from polling.until_ended(
        reference(job), bars, timeout=timeout, on_progress=on_progress, progress=progress, hold=hold
    )
    return polling.waited_for(record)


def change(job: Reference, name: str | None, note: str | None) -> Flow[JobRecord]:
    """Another name or note; an empty text takes one away."""
    given = {key: text for key, text in (("name", name), ("note", note)) if text is not None}
    body: dict[str, JsonValue] = {key: text or None for key, text in given.items()}
    reply = yield Call("PATCH", polling.path(reference(job)), json=body)
    return reply.read(JobRecord)


def _listing(
    limit: int | None,
    order: str,
    labels: Mapping[str, str] | None,
    state: str | None,
    model: Referable | None,
    dataset: Referable | None,
    kind: str | None,
    search: str | None,
) -> Listing[JobRecord]:
    return listing(
        "/v1/jobs", JobRecord, limit=limit, order=order, labels=labels, state=state, kind=kind, search=search,
        model=None if model is None else reference(model),
        dataset=None if dataset is None else reference(dataset),
    )  # fmt: skip


@dataclass(frozen=True)
class Jobs:
    """`client.jobs`."""

    _link: Transport
    _bars: Bars

    def create(self, request: BaseModel | Mapping[str, Any], *, dry_run: bool = False) -> JobRecord:
        """Sends a job request of the contract: a model of `upweight.schema` or a dict.

        `dry_run`: nothing is started or stored, and the record's `estimate` says what the job would take.
        """
        return self._link.run(create(request, dry_run=dry_run))

    def get(self, job: Reference) -> JobRecord:
        """The record."""
        return self._link.run(polling.fetch(reference(job)))

    def result(self, job: Reference) -> Result:
        """The handle of a job: InfluenceResult, FactorsResult or SelfInfluenceResult by its kind."""
        record = self.get(job)
        return RESULTS[record.request.kind](self._link, self._bars, record)

    def list(
        self,
        *,
        limit: int | None = None,
        order: str = "desc",
        state: str | None = None,
        model: Referable | None = None,
        dataset: Referable | None = None,
        labels: Mapping[str, str] | None = None,
        kind: str | None = None,
        search: str | None = None,
    ) -> Iterator[JobRecord]:
        """The records, newest first, page after page as they are needed.

        `search` is a part of the id, the name, the note or a label.
        """
        return items(
            self._link, _listing(limit, order, labels, state, model, dataset, kind, search)
        )

    def wait(
        self,
        job: Reference,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
        progress: bool | None = None,
    ) -> JobRecord:
        """The record once the job has succeeded; raises what it failed of, JobCancelled, or WaitTimedOut."""
        hold = self._link.connection.hold
        return self._link.run(wait(job, self._bars, hold, timeout, on_progress, progress))

    def events(self, job: Reference) -> Iterator[JobRecord]:
        """Every change of the job until it ends; broken streams are resumed, or replaced by polling."""
        return followed(self._link, reference(job))

    def change(
        self, job: Reference, *, name: str | None = None, note: str | None = None
    ) -> JobRecord:
        """Gives the job another name or note; what is left out stays, and an empty text takes it away."""
        return self._link.run(change(job, name, note))

    def cancel(self, job: Reference) -> JobRecord:
        """Asks for the job's end."""
        return self._link.run(polling.act(reference(job), "cancel"))

    def retry(self, job: Reference) -> JobRecord:
        """Runs a failed or cancelled job again, from the blocks that are done."""
        return self._link.run(polling.act(reference(job), "retry"))

    def deliveries(self, job: Reference) -> Sequence[Delivery]:
        """What became of the events that the job's webhook was to be told, the oldest first."""
        return self._link.run(deliveries(reference(job)))

    def delete(self, job: Reference) -> None:
        """Removes an ended job and its result."""
        self._link.run(polling.delete(reference(job)))


@dataclass(frozen=True)
class AsyncJobs:
    """`client.jobs` of an AsyncClient."""

    _link: AsyncTransport
    _bars: Bars

    async def create(
        self, request: BaseModel | Mapping[str, Any], *, dry_run: bool = False
    ) -> JobRecord:
        """Sends a job request of the contract: a model of `upweight.schema` or a dict.

        `dry_run`: nothing is started or stored, and the record's `estimate` says what the job would take.
        """
        return await self._link.run(create(request, dry_run=dry_run))

    async def get(self, job: Reference) -> JobRecord:
        """The record."""
        return await self._link.run(polling.fetch(reference(job)))

    async def result(self, job: Reference) -> AsyncResult:
        """The handle of a job: InfluenceResult, FactorsResult or SelfInfluenceResult by its kind."""
        record = await self.get(job)
        return ASYNC_RESULTS[record.request.kind](self._link, self._bars, record)

    def list(
        self,
        *,
        limit: int | None = None,
        order: str = "desc",
        state: str | None = None,
        model: Referable | None = None,
        dataset: Referable | None = None,
        labels: Mapping[str, str] | None = None,
        kind: str | None = None,
        search: str | None = None,
    ) -> AsyncIterator[JobRecord]:
        """The records, newest first, page after page as they are needed. Iterate with `async for`.

        `search` is a part of the id, the name, the note or a label.
        """
        return items_async(
            self._link, _listing(limit, order, labels, state, model, dataset, kind, search)
        )

    async def wait(
        self,
        job: Reference,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
        progress: bool | None = None,
    ) -> JobRecord:
        """The record once the job has succeeded; raises what it failed of, JobCancelled, or WaitTimedOut."""
        hold = self._link.connection.hold
        return await self._link.run(wait(job, self._bars, hold, timeout, on_progress, progress))

    def events(self, job: Reference) -> AsyncIterator[JobRecord]:
        """Every change of the job until it ends; broken streams are resumed, or replaced by polling.

        Iterate with `async for`.
        """
        return followed_async(self._link, reference(job))

    async def change(
        self, job: Reference, *, name: str | None = None, note: str | None = None
    ) -> JobRecord:
        """Gives the job another name or note; what is left out stays, and an empty text takes it away."""
        return await self._link.run(change(job, name, note))

    async def cancel(self, job: Reference) -> JobRecord:
        """Asks for the job's end."""
        return await self._link.run(polling.act(reference(job), "cancel"))

    async def retry(self, job: Reference) -> JobRecord:
        """Runs a failed or cancelled job again, from the blocks that are done."""
        return await self._link.run(polling.act(reference(job), "retry"))

    async def deliveries(self, job: Reference) -> Sequence[Delivery]:
        """What became of the events that the job's webhook was to be told, the oldest first."""
        return await self._link.run(deliveries(reference(job)))

    async def delete(self, job: Reference) -> None:
        """Removes an ended job and its result."""
        await self._link.run(polling.delete(reference(job)))
