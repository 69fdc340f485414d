"""Connections to Redis: one way to make them, and one translation of their failures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
    TimeoutError,
)
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


def takes_no_more(error: RedisError) -> bool:
    """Whether Redis answers, and refuses to write: the disk under its append-only file is full, or its memory."""
    return isinstance(error, OutOfMemoryError) or "MISCONF" in str(error)


@contextmanager
def reachable() -> Iterator[None]:
    """Turns a Redis that is lost, or takes no more, into Unavailable (503 with Retry-After)."""
    try:
        yield
    except (ConnectionError, TimeoutError, BusyLoadingError) as error:
        raise Unavailable(
            "Redis does not answer; try again in a few seconds", retry_after=5
        ) from error
    except ResponseError as error:
        if not takes_no_more(error):
            raise
        raise Unavailable(
            "Redis takes no more: the disk under its append-only file, or its memory, is full; nothing that is "
            "stored is lost, and it goes on when there is room",
            retry_after=30,
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
