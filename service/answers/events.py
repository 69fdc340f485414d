"""Server-sent events as an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

KEEPALIVE_SECONDS = 15.0
MEDIA_TYPE = "text/event-stream"


class EventStream(StreamingResponse):
    """A stream that holds a place of its namespace while it is sent; what entering it raises comes before it begins."""

    def __init__(
        self, content: AsyncIterator[bytes], place: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(content, media_type=MEDIA_TYPE, headers=headers)
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        with self._place():
            await super().__call__(scope, receive, send)
