"""A job's events until it ends: lost streams are resumed; where none gets through, the job is polled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from upweight.errors import Conflict, UpweightError
from upweight.http.flow import Call, Flow, Pause, UnexpectedAnswer
from upweight.http.polling import WATCHED_POLL, ended, fetch, paced, path
from upweight.http.transport import AsyncTransport, ConnectionFailed, Transport
from upweight.schema import JobRecord

if TYPE_CHECKING:
    import httpx2


LOSSES = 3  # streams lost without one event between, after which events are polled


def followed(link: Transport, job_id: str) -> Iterator[JobRecord]:
    """Every change of the job until it ends."""
    following = Following(job_id, link.connection.hold)
    while not following.ended:
        if following.polls:
            record = link.run(following.poll())
            if following.is_news(record):
                yield record
            continue
        error: UpweightError | None = None
        try:
            for event in link.events(following.call()):
                news = following.heard(event)
                if news is not None:
                    yield news
                if following.ended:
                    return
        except UpweightError as caught:
            error = caught
        link.run(following.lost(error))


async def followed_async(link: AsyncTransport, job_id: str) -> AsyncIterator[JobRecord]:
    """`followed` for an event loop."""
    following = Following(job_id, link.connection.hold)
    while not following.ended:
        if following.polls:
            record = await link.run(following.poll())
            if following.is_news(record):
                yield record
            continue
        error: UpweightError | None = None
        try:
            async for event in link.events(following.call()):
                news = following.heard(event)
                if news is not None:
                    yield news
                if following.ended:
                    return
        except UpweightError as caught:
            error = caught
        await link.run(following.lost(error))


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
