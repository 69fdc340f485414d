"""Waiting by long polls: how long may be waited, and not to hammer a service that does not hold."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

from upweight.errors import UpweightError
from upweight.exchange import Flow, Pause

T = TypeVar("T")
SHORTEST_POLL = 0.2  # seconds from one poll's beginning to the next's


class WaitTimedOut(UpweightError, TimeoutError):
    """What was waited for goes on; only the waiting has ended."""

    type, title, status = "wait-timed-out", "It was not done in the time given", 0


def left(deadline: float | None) -> float:
    """Seconds until a deadline: infinitely many without one, 0 past it."""
    return math.inf if deadline is None else max(0.0, deadline - time.monotonic())


def paced(flow: Flow[T], done: Callable[[T], bool]) -> Flow[T]:
    """One poll; with a pause if it is not the last and the service did not hold it."""
    begun = time.monotonic()
    outcome = yield from flow
    spent = time.monotonic() - begun
    if spent < SHORTEST_POLL and not done(outcome):
        yield Pause(SHORTEST_POLL - spent)
    return outcome
