"""Around every request: its id and trace, the limit of its body, a line in the log, an answer whatever happens."""

from __future__ import annotations

import hashlib
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.auth import Caller
from service.limits.lanes import Lanes
from service.logs import log, log_exception
from service.metrics import Metrics
from service.problems import respond
from service.tracing import Tracing
from upweight.errors import InternalError, TooLarge, UpweightError

_REQUEST_ID = re.compile(r"^[\x21-\x7e]{1,128}$")
_SMALL_UPLOAD = 16 * 1024  # bytes that are received before the request is worked on
_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")


@dataclass
class Trace:
    """By what a request is followed through the logs, and who made it, once that is known."""

    request_id: str
    traceparent: str | None = None
    caller: Caller | None = None
    headers: dict[str, str] = field(default_factory=dict)  # of the answer

    @classmethod
    def of(cls, headers: Headers) -> Trace:
        """The ids that the client gave, or new ones."""
        given = headers.get("x-request-id", "")
        traceparent = headers.get("traceparent", "")
        return cls(
            given if _REQUEST_ID.fullmatch(given) else f"req_{uuid4().hex}",
            traceparent if _TRACEPARENT.fullmatch(traceparent) else None,
        )

    def __str__(self) -> str:
        """As tasks carry it: the request's id, and the traceparent after a space if there is one."""
        return f"{self.request_id} {self.traceparent}" if self.traceparent else self.request_id


class Requests:
    """ASGI middleware; everything else of the application is inside it."""

    def __init__(
        self, app: ASGIApp, *, body_limit: int, metrics: Metrics, tracing: Tracing
    ) -> None:
        self._app = app
        self._body_limit = body_limit
        self._metrics = metrics
        self._tracing = tracing
        self._lanes = Lanes()
        self._namespaces: dict[
            bytes, str
        ] = {}  # by the digests of keys that were found to be right

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its first byte to its line in the log."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        trace = Trace.of(headers)
        scope.setdefault("state", {})["trace"] = trace
        with self._tracing.span(scope["method"], parent=trace.traceparent, server=True) as span:
            trace.traceparent = span.traceparent or trace.traceparent
            status = await self._traced(scope, headers, receive, _Answer(send, trace), trace)
            span.named(
                f"{scope['method']} {_route(scope)}",
                request_id=trace.request_id,
                **{"http.response.status_code": status},
            )
            if status >= 500:
                span.failed(f"status {status}")

    async def _traced(
        self, scope: Scope, headers: Headers, receive: Receive, answer: _Answer, trace: Trace
    ) -> int:
        begun = time.perf_counter()
        body = _Counted(receive)
        try:
            await self._answered(scope, headers, body, answer)
        except UpweightError as error:
            await _fail(error, answer, scope, receive)
        except Exception:
            log_exception("crash", request_id=trace.request_id)
            words = (
                "something went wrong on our side; the request_id leads to it in the service's log"
            )
            await _fail(InternalError(words), answer, scope, receive)
        finally:
            self._record(scope, trace, answer.status, time.perf_counter() - begun)
            self._metrics.traffic(_route(scope), body.bytes, answer.bytes)
        return answer.status

    async def _answered(
        self, scope: Scope, headers: Headers, receive: Receive, answer: _Answer
    ) -> None:
        if _is_upload(scope):
            if not 0 < _length(headers) <= _SMALL_UPLOAD:
                # It takes as long as its sender, and has limits of its own.
                await self._app(scope, receive, answer)
                return
            receive = await _received(receive)
        else:
            receive = await _within_limit(headers, receive, self._body_limit)
        if not scope["path"].startswith("/v1/"):  # health, pages
            await self._app(scope, receive, answer)
            return
        key = hashlib.sha256(headers.get("authorization", "").encode()).digest()
        namespace = self._namespaces.get(key)
        if namespace is None:
            await self._app(scope, receive, answer)
            caller = scope["state"]["trace"].caller
            if caller is not None:
                self._namespaces[key] = caller.namespace
            return
        place = await self._lanes.enter(namespace)
        answer.begun = place.leave
        with self._lanes.here(place):
            await self._app(scope, receive, answer)

    def _record(self, scope: Scope, trace: Trace, status: int, seconds: float) -> None:
        route = _route(scope)
        self._metrics.request(scope["method"], route, status, seconds)
        log(
            "request",
            method=scope["method"],
            route=route,
            status=status,
            ms=round(seconds * 1000, 2),
            request_id=trace.request_id,
            traceparent=trace.traceparent,
            namespace=trace.caller.namespace if trace.caller else None,
            key=trace.caller.key_id if trace.caller else None,
        )


class _Answer:
    """Sends on, with the ids in the headers; remembers the status."""

    def __init__(self, send: Send, trace: Trace) -> None:
        self._send = send
        self._trace = trace
        self.begun: Callable[[], None] = lambda: None  # called when it begins to answer
        self.status = 0
        self.bytes = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.begun()
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._trace.request_id
            if self._trace.traceparent:
                headers["traceparent"] = self._trace.traceparent
            headers.update(self._trace.headers)
        self.bytes += len(message.get("body", b""))
        await self._send(message)


class _Counted:
    """Receives, and counts the body's bytes."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.bytes = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self.bytes += len(message.get("body", b""))
        return message


async def _fail(error: UpweightError, answer: _Answer, scope: Scope, receive: Receive) -> None:
    # What has begun can't become a problem: the server breaks the connection, so that the client sees it is torn.
    if answer.status == 0:
        await respond(error, scope["state"]["trace"].request_id)(scope, receive, answer)


def _route(scope: Scope) -> str:
    """The address as it is documented, without what stands in its place: few values, nothing of users."""
    return getattr(scope.get("route"), "path", None) or "none"


def _is_upload(scope: Scope) -> bool:
    return scope["method"] == "PUT" and scope["path"].startswith("/v1/blobs/")


def _length(headers: Headers) -> int:
    """Bytes of the body; 0 where it isn't said."""
    header = headers.get("content-length", "0")
    return int(header) if header.isdecimal() else 0


async def _received(receive: Receive) -> Receive:
    """The messages of a body, or of a sender that broke off, once all are there."""
    messages: deque[Message] = deque()
    while not messages or messages[-1].get("more_body", False):
        messages.append(await receive())

    async def replay() -> Message:
        return messages.popleft() if messages else await receive()

    return replay


async def _within_limit(headers: Headers, receive: Receive, limit: int) -> Receive:
    """The body, received whole: JSON is small. Raises TooLarge before more than the limit has been read."""
    length = _length(headers)
    if length == 0 and "transfer-encoding" not in headers:
        return receive
    if length > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
        if sum(map(len, chunks)) > limit:
            raise _too_large(limit)
    return _replayed(b"".join(chunks), receive)


def _replayed(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {limit} bytes, the limit of what is no blob: ask for less at a time; "
        "data goes up as blobs: PUT /v1/blobs/sha256:…"
    )
