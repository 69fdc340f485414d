"""Connections that say nothing, or too much before they say what they want.

The silent are closed after a while, and before others are kept out for want of handles.

uvicorn closes what is silent after an answer; here is the time for a request's head, for the next piece of its body,
and the number of connections. The oldest silent one makes room for a new one. Where all are at work, some more are
taken for requests with a key, some after these for questions after our health, and others are told to come again.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from functools import cache
from typing import Any
from uuid import uuid4

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.auth import looks_like_a_key
from service.problems import MEDIA_TYPE, respond
from upweight.errors import HeadTooLarge, Unavailable

HEAD_SECONDS = 20.0  # from the connection, or the first byte, to the end of a request's head
BODY_SECONDS = 60.0  # between two pieces of a body, while we read
CROWDED_BODY_SECONDS = 5.0  # the same, where there is no room
LOOK_SECONDS = 2.0
LINGER_SECONDS = 2.0  # for the rest of a head that was refused
# The longest list of rows that the contract takes in an address, each character percent-encoded, fits.
HEAD_BYTES = 256 * 1024
BACKLOG = 100  # connections that are taken in one go
# Connections beyond the most that there are: those for requests with a key, then those for questions after health.
KEPT_FOR_KEYS = 64
KEPT_FOR_HEALTH = 32
# For Redis, the object storage and files; and for connections that are taken before others have been closed for them.
HANDLES_KEPT = 4 * BACKLOG + 128 + KEPT_FOR_KEYS
HEALTH = frozenset({"/healthz", "/readyz", "/metrics"})
NEEDS_KEY = "/v1/"  # where no route answers without one, once there are keys
MOST_HANDLES = 65_536
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 5\r\n"
    b"connection: close\r\ncontent-length: 0\r\n\r\n"
)


@cache
def most_connections() -> int:
    """How many this process holds, once its limit of handles was raised as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wished = MOST_HANDLES if hard == resource.RLIM_INFINITY else min(hard, MOST_HANDLES)
    if soft != resource.RLIM_INFINITY and soft < wished:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wished, hard))
        soft = wished
    handles = MOST_HANDLES if soft == resource.RLIM_INFINITY else min(soft, MOST_HANDLES)
    return max(16, handles - HANDLES_KEPT)


class Connection(H11Protocol):
    """uvicorn's connection, with an eye on the clock."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._heard = (
            time.monotonic()
        )  # when the head at hand was begun, or the last piece of a body came
        self._head_begun = True  # the first one begins with the connection
        self._watch: asyncio.TimerHandle | None = None
        self._refused = False  # what still comes is read and dropped
        self._set_aside = False  # beyond the most that there are

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Makes room where there is none."""
        super().connection_made(transport)
        beyond = len(self.connections) - most_connections()
        if beyond > 0 and not self._made_room():
            if beyond > KEPT_FOR_KEYS + KEPT_FOR_HEALTH:
                transport.write(_BUSY)
                transport.close()
                return
            self.app = _set_aside(self.app, for_keys=beyond <= KEPT_FOR_KEYS)
            self._set_aside = True
        self._watch = self.loop.call_later(LOOK_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the watch."""
        super().connection_lost(exc)
        if self._watch is not None:
            self._watch.cancel()

    def data_received(self, data: bytes) -> None:
        """Notes the time, but not of a head that comes byte by byte."""
        if self._refused:
            return
        if self.conn.their_state is not h11.IDLE or not self._head_begun:
            self._heard = time.monotonic()
        self._head_begun = True
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._heard = time.monotonic()

    def on_response_complete(self) -> None:
        """uvicorn's own time for connections that are kept begins."""
        super().on_response_complete()
        if self._set_aside and self.conn.their_state is h11.SEND_BODY:
            self._end_soon()  # refused before the body had come, which might now take its time
        self._head_begun = bool(self.conn.trailing_data[0])
        self._heard = time.monotonic()

    def send_400_response(self, msg: str) -> None:
        """Answers a head that is too long in the words of all our errors; uvicorn has a plain 400 for it."""
        error = sys.exc_info()[1]
        if not isinstance(error, h11.RemoteProtocolError) or error.error_status_hint != 431:
            super().send_400_response(msg)
            return
        refused = HeadTooLarge(
            f"address and headers together may have {HEAD_BYTES:,} bytes; send what is long in the body, "
            "or in several requests"
        )
        body = bytes(respond(refused, f"req_{uuid4().hex}").body)
        head = f"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: {MEDIA_TYPE}\r\n"
        head += f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)
        self._end_soon()

    def _end_soon(self) -> None:
        """Closed at once, with bytes unread, the answer could be lost on its way."""
        self._refused = True
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _look(self) -> None:
        silent = time.monotonic() - self._heard
        match self.conn.their_state:
            case h11.IDLE:
                over = self._head_begun and silent > HEAD_SECONDS
            case h11.SEND_BODY:
                over = not self.flow.read_paused and silent > BODY_SECONDS
            case _:
                over = False
        if over:
            self.transport.abort()
        else:
            self._watch = self.loop.call_later(LOOK_SECONDS, self._look)

    def _made_room(self) -> bool:
        """Whether another connection was closed: the one that has said nothing for longest where we wait for a word."""
        silent = [
            each
            for each in self.connections
            if isinstance(each, Connection)
            and each is not self
            and each._is_silent()
            and not each.transport.is_closing()
        ]
        oldest = min(silent, key=lambda each: each._heard, default=None)
        if oldest is None:
            return False
        oldest.transport.abort()
        return True

    def _is_silent(self) -> bool:
        """Between requests or within a head, or late with a body that we would read."""
        if self.conn.their_state is not h11.SEND_BODY:
            return self.conn.their_state is h11.IDLE
        return not self.flow.read_paused and time.monotonic() - self._heard > CROWDED_BODY_SECONDS


def _set_aside(app: ASGIApp, *, for_keys: bool) -> ASGIApp:
    """The app for questions after its health and, `for_keys`, for requests with a key; others are told to come again.

    Whether the key is known is for the app to say: its 401 ends the connection.
    """

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["path"] in HEALTH
            or (for_keys and scope["path"].startswith(NEEDS_KEY) and _has_key(scope))
        ):
            await app(scope, receive, send)
            return
        busy = Unavailable(
            "all connections that this front end can hold are at work; try again", retry_after=5
        )
        answer = respond(busy, f"req_{uuid4().hex}", {"Connection": "close"})
        await answer(scope, receive, send)

    return answered


def _has_key(scope: Scope) -> bool:
    """Whether something that looks like a key was sent."""
    sent = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
    scheme, _, key = sent.partition(" ")
    return scheme.lower() == "bearer" and looks_like_a_key(key.strip())
