"""Models and datasets alike: registered and waited for while a worker checks them, fetched, listed, deleted."""

from __future__ import annotations

import builtins
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from pydantic import JsonValue

from upweight.client.paging import Listing, items, items_async, listing
from upweight.client.request import reference
from upweight.errors import InternalError, InUse, UpweightError, error_from
from upweight.http.flow import Call, Flow, segment
from upweight.http.polling import WaitTimedOut, left, paced
from upweight.http.transport import AsyncTransport, Transport
from upweight.progress import Bars
from upweight.schema import CheckState, DatasetRecord, ModelRecord

Record = TypeVar("Record", ModelRecord, DatasetRecord)


@dataclass(frozen=True)
class Resource(Generic[Record]):
    """The requests of a resource whose records are checked by a worker."""

    path: str
    record: type[Record]

    def create(
        self,
        body: JsonValue,
        bars: Bars,
        wait: bool,
        timeout: float | None,
        hold: float,
        path: str | None = None,
    ) -> Flow[Record]:
        """Registers it; with `wait`, the record once it is ready. Raises Rejected, WaitTimedOut.

        `path`: another one than the resource's own.
        """
        reply = yield Call("POST", path or self.path, json=body, creates=True)
        record = reply.read(self.record)
        if not wait:
            return record
        return (yield from self.until_checked(record.id, record, bars, timeout, hold))

    def get(self, reference: str, wait: float = 0.0) -> Flow[Record]:
        """The record; held for so many seconds while it is checked."""
        query = (("wait", f"{wait:g}"),) if wait else ()
        reply = yield Call("GET", f"{self.path}/{segment(reference)}", query)
        return reply.read(self.record)

    def delete(self, reference: str, with_jobs: bool = False) -> Flow[list[str]]:
        """Removes it, and with `with_jobs` the ended jobs that use it, whose ids are the answer. Raises InUse."""
        deleted: list[str] = []
        while with_jobs:  # an answer names some of its users, not all of very many
            users = (yield from self.get(reference)).used_by
            jobs = [each for each in users if each.startswith("job_")]
            for job in jobs:
                yield Call("DELETE", f"/v1/jobs/{segment(job)}")
            deleted += jobs
            if not jobs:
                break
        try:
            yield Call("DELETE", f"{self.path}/{segment(reference)}")
        except InUse as error:
            if with_jobs:
                raise
            raise InUse(
                f"{error.detail}, or give with_jobs=True", request_id=error.request_id
            ) from None
        return deleted

    def listing(
        self, limit: int | None, order: str, state: str | None, labels: Mapping[str, str] | None
    ) -> Listing[Record]:
        """Which records, in which order."""
        return listing(self.path, self.record, limit=limit, order=order, labels=labels, state=state)

    def until_checked(
        self,
        reference: str,
        record: Record | None,
        bars: Bars,
        timeout: float | None,
        hold: float,
    ) -> Flow[Record]:
        """The record once it is ready; Rejected, with the worker's reason, if it is not to be."""
        deadline = None if timeout is None else time.monotonic() + timeout
        record = record or (yield from self.get(reference))
        with bars.bar(f"checking {record.name}", unit="checks") as bar:
            while record.state == CheckState.CHECKING:
                bar.to(0, None)
                remaining = left(deadline)
                if remaining == 0:
                    raise WaitTimedOut(
                        f"{record.name} ({record.id}) was still being checked after {timeout:g} seconds; "
                        "wait again, or see that a worker runs (/readyz)"
                    )
                poll = self.get(record.id, min(hold, remaining))
                record = yield from paced(poll, lambda now: now.state != CheckState.CHECKING)
        if record.state == CheckState.REJECTED:
            raise _refusal(record)
        return record


def _refusal(record: ModelRecord | DatasetRecord) -> UpweightError:
    if record.problem is None:
        return InternalError(f"{record.name} was rejected without a reason; see the worker's log")
    return error_from(record.problem)


@dataclass(frozen=True)
class Registered(Generic[Record]):
    """What `client.models` and `client.datasets` have in common."""

    _link: Transport
    _bars: Bars
    _resource: ClassVar[Resource[Record]]

    def get(self, registered: str | Record) -> Record:
        """The record of an id or a name (`digits-cnn`, `digits-cnn@3`)."""
        return self._link.run(self._resource.get(reference(registered)))

    def list(
        self,
        *,
        limit: int | None = None,
        order: str = "desc",
        state: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Iterator[Record]:
        """The records, newest first, page after page as they are needed."""
        return items(self._link, self._resource.listing(limit, order, state, labels))

    def wait(self, registered: str | Record, timeout: float | None = None) -> Record:
        """The record once it is checked; a refused one raises Rejected."""
        return self._link.run(
            self._resource.until_checked(
                reference(registered), None, self._bars, timeout, self._link.connection.hold
            )
        )

    def delete(self, registered: str | Record, *, with_jobs: bool = False) -> builtins.list[str]:
        """Removes it, and `with_jobs` the ended jobs that use it: answers their ids. Raises InUse."""
        return self._link.run(self._resource.delete(reference(registered), with_jobs))


@dataclass(frozen=True)
class AsyncRegistered(Generic[Record]):
    """`Registered` for an AsyncClient."""

    _link: AsyncTransport
    _bars: Bars
    _resource: ClassVar[Resource[Record]]

    async def get(self, registered: str | Record) -> Record:
        """The record of an id or a name (`digits-cnn`, `digits-cnn@3`)."""
        return await self._link.run(self._resource.get(reference(registered)))

    def list(
        self,
        *,
        limit: int | None = None,
        order: str = "desc",
        state: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Record]:
        """The records, newest first; iterate with `async for`."""
        return items_async(self._link, self._resource.listing(limit, order, state, labels))

    async def wait(self, registered: str | Record, timeout: float | None = None) -> Record:
        """The record once it is checked; a refused one raises Rejected."""
        return await self._link.run(
            self._resource.until_checked(
                reference(registered), None, self._bars, timeout, self._link.connection.hold
            )
        )

    async def delete(
        self, registered: str | Record, *, with_jobs: bool = False
    ) -> builtins.list[str]:
        """Removes it, and `with_jobs` the ended jobs that use it: answers their ids. Raises InUse."""
        return await self._link.run(self._resource.delete(reference(registered), with_jobs))
