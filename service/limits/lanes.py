"""Turns in a front end: of one namespace a few requests are worked on at a time while others ask for something, too.

All requests share one core, so that each is slowed by all others that are worked on. A namespace that is alone has as
many as it likes. What waits, for a change or for a sender, is not worked on and gives its lane to the next.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

BESIDE = 2  # requests of one namespace that are worked on at a time
COMPANY_SECONDS = 5.0  # that others count for, after their last request
_here: ContextVar[Place | None] = ContextVar("lane", default=None)


class Lanes:
    """Used on the event loop alone."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}
        self._asked: OrderedDict[str, float] = OrderedDict()  # by the last time; the latest is last

    async def enter(self, namespace: str) -> Place:
        """A place, once it is this request's turn among those of its namespace; to be left."""
        self._note(namespace)
        lane = self._lanes.setdefault(namespace, _Lane())
        if lane.waiting or (lane.running >= BESIDE and self._in_company(namespace)):
            granted = lane.queue()
            try:
                await granted  # whoever grants it has counted it
            except asyncio.CancelledError:
                if granted.done() and not granted.cancelled():
                    self.left(namespace)
                raise
        else:
            lane.running += 1
        return Place(self, namespace)

    @contextmanager
    def here(self, place: Place) -> Iterator[None]:
        """A request that is worked on, which may leave early: see `leave_lane`."""
        token = _here.set(place)
        try:
            yield
        finally:
            _here.reset(token)
            place.leave()

    def left(self, namespace: str) -> None:
        """One has left its place: others come in, as many as may."""
        lane = self._lanes[namespace]
        lane.running -= 1
        while lane.waiting and (lane.running < BESIDE or not self._in_company(namespace)):
            lane.next()
        if not lane.running and not lane.waiting:
            del self._lanes[namespace]

    def _note(self, namespace: str) -> None:
        self._asked[namespace] = time.monotonic()
        self._asked.move_to_end(namespace)
        oldest = next(iter(self._asked))
        if time.monotonic() - self._asked[oldest] > COMPANY_SECONDS:
            del self._asked[oldest]

    def _in_company(self, namespace: str) -> bool:
        others = (at for each, at in reversed(self._asked.items()) if each != namespace)
        return time.monotonic() - next(others, -COMPANY_SECONDS) < COMPANY_SECONDS


class _Lane:
    """Of one namespace: how many are worked on, and who waits."""

    def __init__(self) -> None:
        self.running = 0
        self.waiting: deque[asyncio.Future[None]] = deque()

    def queue(self) -> asyncio.Future[None]:
        """Done when it is the caller's turn."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(granted)
        return granted

    def next(self) -> None:
        """Lets the first in; one that has gone is passed over."""
        granted = self.waiting.popleft()
        if not granted.done():
            self.running += 1
            granted.set_result(None)


class Place:
    """Of one request in its namespace's lane."""

    def __init__(self, lanes: Lanes, namespace: str) -> None:
        self._lanes: Lanes | None = lanes
        self._namespace = namespace

    def leave(self) -> None:
        """The next one may come. To be called once or more often."""
        lanes, self._lanes = self._lanes, None
        if lanes is not None:
            lanes.left(self._namespace)


def leave_lane() -> None:
    """What the request does from now on is wait."""
    place = _here.get()
    if place is not None:
        place.leave()
