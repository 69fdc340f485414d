"""The change feed: one listener on Redis for the whole process wakes whoever waits for a record to change.

No thread is held by a waiter, and what woken ones read is read by a few threads of their namespace, so that thousands
of them leave the other requests theirs. When the feed was lost, all look again; and each does by itself now and then.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from redis import Redis
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from service.limits.lanes import leave_lane
from service.storage.keys import CHANGES, Document, Kind, message
from upweight.errors import RateLimited

Read = TypeVar("Read", bound=Document)

POLL_SECONDS = 1.0
LONGEST_POLL_SECONDS = 30.0
POLLS_PER_SECOND = 100  # of all listeners together
PAUSE_SECONDS = 0.02  # a worker may report hundreds of times a second; nobody reads so fast
EVENTS_PER_SECOND = 250  # to all listeners of one namespace; others' are not slowed by them
READERS = 4  # threads for those of one namespace


class Changes:
    """Made and used on the event loop; `run` is its one thread."""

    def __init__(self, redis: Redis, limit: int) -> None:
        self._redis: Any = redis
        self._limit = limit  # streams and held answers of one namespace
        self._watched: dict[str, _Watched] = {}
        self._listeners: Counter[str] = Counter()  # by namespace
        self._places: Counter[str] = Counter()  # taken, by namespace
        self._readers: dict[str, CapacityLimiter] = {}  # by namespace
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
        self._wake_all()

    def join(self) -> None:
        """Waits for the listener, so that its connection may be closed."""
        self._thread.join(timeout=2.0)

    @contextmanager
    def place(self, namespace: str) -> Iterator[None]:
        """One of the streams and held answers that a namespace may have here. Raises RateLimited where it has all.

        Looked for and taken in one step of the event loop, so that many at once are no more than may be.
        """
        if self._places[namespace] >= self._limit:
            raise RateLimited(
                f"{self._limit} streams and held answers of this namespace are open, which is the limit; end some, or "
                "ask without wait",
                retry_after=5,
            )
        self._places[namespace] += 1
        try:
            yield
        finally:
            self._places[namespace] -= 1
            if not self._places[namespace]:
                del self._places[namespace]

    async def follow(
        self, kind: Kind, namespace: str, id: str, read: Callable[[], Read]
    ) -> AsyncIterator[Read]:
        """The record as it stands, and again when it changes, and every now and then; whoever iterates has a place.

        `read` runs in a thread. Ends when the service stops; whoever iterates ends it earlier.
        """
        with self._watch(kind, namespace, id) as (watched, changed):
            while True:
                changed.clear()
                yield await watched.read(read)
                if self.closed:
                    return
                await asyncio.sleep(max(PAUSE_SECONDS, self._crowded(namespace)))
                await _set_within(changed, self._poll_seconds())

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
        """The record once it is `done`, or as it stands after so many seconds. Raises RateLimited."""
        if seconds <= 0:
            return await run_in_threadpool(read)
        deadline = asyncio.get_running_loop().time() + seconds
        with (
            self.place(namespace),
            self._watch(kind, namespace, id) as (watched, changed),
        ):
            while True:
                changed.clear()
                document = await watched.read(read)
                left = deadline - asyncio.get_running_loop().time()
                if done(document) or left <= 0 or self.closed:
                    return document
                if (pause := self._crowded(namespace)) > PAUSE_SECONDS:
                    await asyncio.sleep(min(left, pause))
                await _set_within(changed, min(left, self._poll_seconds()))

    @contextmanager
    def _watch(
        self, kind: Kind, namespace: str, id: str
    ) -> Iterator[tuple[_Watched, asyncio.Event]]:
        name = message(kind, namespace, id)
        if namespace not in self._readers:
            self._readers[namespace] = CapacityLimiter(READERS)
        if name not in self._watched:
            self._watched[name] = _Watched(self._readers[namespace])
        watched, changed = self._watched[name], asyncio.Event()
        leave_lane()
        watched.waiting.add(changed)
        self._listeners[namespace] += 1
        try:
            yield watched, changed
        finally:
            watched.waiting.discard(changed)
            if not watched.waiting:
                del self._watched[name]
            self._listeners[namespace] -= 1
            if not self._listeners[namespace]:
                del self._listeners[namespace], self._readers[namespace]

    def _count(self) -> int:
        return self._listeners.total()

    def _crowded(self, namespace: str) -> float:
        """Seconds that a listener leaves between two looks, so that those of its namespace keep to their rate."""
        return self._listeners[namespace] / EVENTS_PER_SECOND

    def _poll_seconds(self) -> float:
        """How long a listener waits for a word: nothing may have been said, as of its place in a queue."""
        return min(LONGEST_POLL_SECONDS, max(POLL_SECONDS, self._count() / POLLS_PER_SECOND))

    def _wake(self, name: str) -> None:
        if name in self._watched:
            self._watched[name].wake()

    def _wake_all(self) -> None:
        for watched in self._watched.values():
            watched.wake()

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._redis.pubsub() as feed:
                    feed.subscribe(CHANGES)
                    while not self._stopping.is_set():
                        self._pass_on(feed.get_message(timeout=0.5))
            except RedisError:
                self._stopping.wait(0.5)

    def _pass_on(self, received: dict[str, Any] | None) -> None:
        if received is None:
            return
        if received["type"] == "message":
            self._on_loop(self._wake, received["data"].decode())
        elif (
            received["type"] == "subscribe"
        ):  # once more after a lost connection: what was said meanwhile is not known
            self._on_loop(self._wake_all)

    def _on_loop(self, call: Callable[..., None], *arguments: str) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)


class _Watched:
    """A record that somebody waits for. Those who wait for the same one share what is read of it."""

    def __init__(self, readers: CapacityLimiter) -> None:
        self.waiting: set[asyncio.Event] = set()
        self._readers = readers
        self._reading: asyncio.Task[Any] | None = None

    def wake(self) -> None:
        """It has changed: what is being read may be older."""
        self._reading = None
        for changed in self.waiting:
            changed.set()

    async def read(self, read: Callable[[], Read]) -> Read:
        """The record as it stands now. All who wait for a record give functions that read the same."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(to_thread.run_sync(read, limiter=self._readers))
            # Who waited for it may have gone, and then nobody looks at its error.
            self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
        found: Read = await asyncio.shield(self._reading)
        return found


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
