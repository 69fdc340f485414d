"""Connections to Redis: one way to make them, and one translation of their failures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, TimeoutError
from redis.retry import Retry

from upweight.errors import Unavailable


def connect(url: str, *, patience: int = 1) -> Redis:
    """A client with its pool. `patience`: tries after a lost connection, half a second to five seconds apart.

    The front end answers 503 soon (1); a worker outlives a restart of Redis (30: about two minutes).
    """
    return Redis.from_url(
        url,
        socket_timeout=30 if patience > 1 else 5,
        socket_connect_timeout=5,
        retry=Retry(ExponentialBackoff(cap=5, base=0.5), patience),
        health_check_interval=15,
    )


@contextmanager
def reachable() -> Iterator[None]:
    """Turns a lost Redis into Unavailable (503 with Retry-After)."""
    try:
        yield
    except (ConnectionError, TimeoutError, BusyLoadingError) as error:
        raise Unavailable(
            "Redis does not answer; try again in a few seconds", retry_after=5
        ) from error


def surely_past(redis: Redis) -> datetime:
    """A moment that has passed: the earlier of this machine's clock and Redis's.

    What deletes by age asks for it, so that one clock that jumps ahead deletes nothing too early.
    """
    client: Any = redis
    with reachable():
        seconds, microseconds = client.time()
    theirs = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)
    return min(datetime.now(UTC), theirs)
