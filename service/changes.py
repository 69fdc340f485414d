"""The change feed: one listener on Redis for the whole process wakes whoever waits for a record to change.

No thread is held by a waiter. A message that is lost costs a second: waiters look again by themselves.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from service.storage.keys import CHANGES, Document, Kind, message

POLL_SECONDS = 1.0
PAUSE_SECONDS = 0.02  # a worker may report hundreds of times a second; nobody reads so fast


class Changes:
    """Made and used on the event loop; `run` is its one thread."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._stopping = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._listen, name="changes", daemon=True)

    def start(self) -> None:
        """Begins to listen."""
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether waiters must end now."""
        return self._stopping.is_set()

    def close(self) -> None:
        """Ends all waiting at once; the listener follows within a second."""
        self._stopping.set()
        for events in self._waiting.values():
            for event in events:
                event.set()

    def join(self) -> None:
        """Waits for the listener, so that its connection may be closed."""
        self._thread.join(timeout=2.0)

    async def follow(
        self, kind: Kind, namespace: str, id: str, read: Callable[[], Document]
    ) -> AsyncIterator[Document]:
        """The record as it stands, and again at least every second; the sooner when it changes.

        `read` runs in a thread. Ends when the service stops; whoever iterates ends it earlier.
        """
        with self._watch(message(kind, namespace, id)) as changed:
            while True:
                changed.clear()
                yield await run_in_threadpool(read)
                if self.closed:
                    return
                await asyncio.sleep(PAUSE_SECONDS)
                await _set_within(changed, POLL_SECONDS)

    async def until(
        self,
        kind: Kind,
        namespace: str,
        id: str,
        read: Callable[[], Document],
        *,
        done: Callable[[Document], bool],
        seconds: float,
    ) -> Document:
        """The record once it is `done`, or as it stands after so many seconds."""
        deadline = asyncio.get_running_loop().time() + seconds
        document: Document = {}
        with self._watch(message(kind, namespace, id)) as changed:
            while True:
                changed.clear()
                document = await run_in_threadpool(read)
                left = deadline - asyncio.get_running_loop().time()
                if done(document) or left <= 0 or self.closed:
                    return document
                await _set_within(changed, min(left, POLL_SECONDS))

    @contextmanager
    def _watch(self, name: str) -> Iterator[asyncio.Event]:
        changed = asyncio.Event()
        self._waiting.setdefault(name, set()).add(changed)
        try:
            yield changed
        finally:
            self._waiting[name].discard(changed)
            if not self._waiting[name]:
                del self._waiting[name]

    def _wake(self, name: str) -> None:
        for changed in self._waiting.get(name, ()):
            changed.set()

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._redis.pubsub(ignore_subscribe_messages=True) as feed:
                    feed.subscribe(CHANGES)
                    while not self._stopping.is_set():
                        self._pass_on(feed.get_message(timeout=0.5))
            except RedisError:
                self._stopping.wait(0.5)

    def _pass_on(self, received: dict[str, Any] | None) -> None:
        if received is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, received["data"].decode())


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
