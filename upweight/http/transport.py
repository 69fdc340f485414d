"""Sending: httpx2, retries, timeouts, and errors as exceptions. Knows nothing of what is sent.

UpweightError
├── ConnectionFailed   connection-failed: no answer came at all
└── UnexpectedAnswer   unexpected-answer (upweight.http.flow)
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeVar

import upweight.late.httpx2 as httpx2
from upweight.errors import NotFound, UpweightError
from upweight.http.answer import Collected, error_of, retryable
from upweight.http.connection import Connection, Retries
from upweight.http.flow import Call, Flow, Pause, Reply, Step, UnexpectedAnswer, Work

T = TypeVar("T")


class ConnectionFailed(UpweightError):
    """No answer came: nothing listens there, the network broke, or it took too long."""

    type, title, status = "connection-failed", "The service could not be reached", 0


def attempts(call: Call, retries: Retries) -> Flow[Reply]:
    """The flow of one call: again after a loss, with the same keys, until it answers or tries are used up."""
    call = _identified(call)
    for attempt in count():
        try:
            return (yield call)
        except UpweightError as error:
            if attempt and call.method == "DELETE" and isinstance(error, NotFound):
                return Reply(204, {})  # the first try did it and its answer was lost
            lost = isinstance(error, ConnectionFailed) or retryable(error)
            if call.once or attempt >= retries.attempts or not lost:
                raise
            wait = retries.delay(attempt, error.retry_after, random.random())
        yield Pause(wait)
    raise AssertionError("unreachable")


def _identified(call: Call) -> Call:
    headers = {"X-Request-ID": uuid.uuid4().hex}
    if call.creates:
        headers["Idempotency-Key"] = uuid.uuid4().hex
    return replace(call, headers={**headers, **call.headers})


@dataclass
class _Link:
    """What both kinds of sending share."""

    connection: Connection

    def _request(self, call: Call) -> dict[str, Any]:
        headers = {**call.headers, **(call.sink.headers() if call.sink else {})}
        request: dict[str, Any] = {"method": call.method, "url": call.path, "headers": headers}
        if call.query:
            request["params"] = list(call.query)
        if call.json is not None:
            request["json"] = call.json
        return request

    def _failed(self, exc: httpx2.TransportError | httpx2.DecodingError) -> ConnectionFailed:
        return ConnectionFailed(self.connection.explain(exc))

    def _options(self) -> dict[str, Any]:
        return {
            "base_url": self.connection.url,
            "headers": self.connection.headers(),
            "timeout": self.connection.timeout,
            # Without TLS there are no certificates to check, and none to load (36 ms); redirects are not followed.
            "verify": self.connection.url.startswith("https://"),
        }


class Transport(_Link):
    """Runs flows, blocking."""

    def __init__(
        self, connection: Connection, transport: httpx2.BaseTransport | None = None
    ) -> None:
        super().__init__(connection)
        self._http = httpx2.Client(**self._options(), transport=transport)

    def run(self, flow: Flow[T]) -> T:
        """The flow's outcome."""
        return drive(flow, self._perform)

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Call):
            return drive(attempts(step, self.connection.retries), self._once)
        return self._once(step)

    def _once(self, step: Step) -> Any:
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        if isinstance(step, Work):
            return step.do()
        sink = step.sink or Collected()
        with self._answer(step) as response:
            sink.begin(response.status_code, response.headers)
            for chunk in response.iter_bytes():
                sink.write(chunk)
        sink.finish()
        body = sink.body() if isinstance(sink, Collected) else b""
        return Reply(response.status_code, response.headers, body)

    @contextmanager
    def _answer(self, call: Call) -> Iterator[httpx2.Response]:
        content = iter(call.content()) if call.content else None
        try:
            with self._http.stream(**self._request(call), content=content) as response:
                if not response.is_success and response.status_code not in call.accepts:
                    response.read()
                    raise error_of(response)
                yield response
        except (httpx2.TransportError, httpx2.DecodingError) as exc:
            raise self._failed(exc) from exc

    def events(self, call: Call) -> Iterator[httpx2.ServerSentEvent]:
        """Server-sent events as they come; a lost stream is ConnectionFailed."""
        with self._answer(_identified(call)) as response:
            _check_events(response.headers)
            yield from httpx2.EventSource(response)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()


class AsyncTransport(_Link):
    """Runs flows on asyncio's event loop."""

    def __init__(
        self, connection: Connection, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        super().__init__(connection)
        self._http = httpx2.AsyncClient(**self._options(), transport=transport)

    async def run(self, flow: Flow[T]) -> T:
        """The flow's outcome."""
        return await drive_async(flow, self._perform)

    async def _perform(self, step: Step) -> Any:
        if isinstance(step, Call):
            return await drive_async(attempts(step, self.connection.retries), self._once)
        return await self._once(step)

    async def _once(self, step: Step) -> Any:
        import asyncio

        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, Work):
            return await asyncio.to_thread(step.do)
        sink = step.sink or Collected()
        async with self._answer(step) as response:
            sink.begin(response.status_code, response.headers)
            async for chunk in response.aiter_bytes():
                sink.write(chunk)
        sink.finish()
        body = sink.body() if isinstance(sink, Collected) else b""
        return Reply(response.status_code, response.headers, body)

    @asynccontextmanager
    async def _answer(self, call: Call) -> AsyncIterator[httpx2.Response]:
        content = _in_threads(call.content()) if call.content else None
        try:
            async with self._http.stream(**self._request(call), content=content) as response:
                if not response.is_success and response.status_code not in call.accepts:
                    await response.aread()
                    raise error_of(response)
                yield response
        except (httpx2.TransportError, httpx2.DecodingError) as exc:
            raise self._failed(exc) from exc

    async def events(self, call: Call) -> AsyncIterator[httpx2.ServerSentEvent]:
        """Server-sent events as they come; a lost stream is ConnectionFailed."""
        async with self._answer(_identified(call)) as response:
            _check_events(response.headers)
            async for event in httpx2.EventSource(response):
                yield event

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()


def drive(flow: Generator[Step, Any, T], perform: Callable[[Step], Any]) -> T:
    """Performs a flow's steps one after the other; failures are thrown into it."""
    try:
        step = next(flow)
        while True:
            try:
                outcome = perform(step)
            except Exception as error:
                step = flow.throw(error)
            else:
                step = flow.send(outcome)
    except StopIteration as stop:
        return stop.value
    finally:
        flow.close()  # an interrupt leaves it in the midst: it clears up now, not some time later


async def drive_async(
    flow: Generator[Step, Any, T], perform: Callable[[Step], Awaitable[Any]]
) -> T:
    """`drive` for an event loop."""
    try:
        step = next(flow)
        while True:
            try:
                outcome = await perform(step)
            except Exception as error:
                step = flow.throw(error)
            else:
                step = flow.send(outcome)
    except StopIteration as stop:
        return stop.value
    finally:
        flow.close()  # an interrupt leaves it in the midst: it clears up now, not some time later


async def _in_threads(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    import asyncio

    iterator = iter(chunks)
    while (chunk := await asyncio.to_thread(next, iterator, None)) is not None:
        yield chunk


def _check_events(headers: Mapping[str, str]) -> None:
    kind = headers.get("content-type", "")
    if not kind.startswith("text/event-stream"):
        raise UnexpectedAnswer(f"expected server-sent events; the answer is {kind or 'untyped'}")
