"""Requests a second of a namespace over all front ends, and its uploads and questions at once in one.

Requests: a bucket of tokens in Redis, filled by Redis's clock.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis import Redis

from service.storage.keys import PREFIX
from service.storage.redis import reachable
from upweight.errors import RateLimited

WINDOW_SECONDS = 10  # what a namespace did not use for so long, it may use at once

# KEYS: bucket. ARGV: tokens a second, most tokens.
_SPEND = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local rate, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local before = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local passed = math.max(0, now - (tonumber(before[2]) or now))
local tokens = math.min(most, (tonumber(before[1]) or most) + passed * rate)
local spent = 0
if tokens >= 1 then spent = 1 end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens - spent), 'at', tostring(now))
redis.call('PEXPIRE', KEYS[1], math.ceil(most / rate * 1000) + 1000)
return {spent, tostring(tokens - spent)}
"""


@dataclass(frozen=True)
class RateLimit:
    """The limit, and what is left of it; as the draft of the IETF writes it into headers."""

    most: int
    left: int
    full_in: int  # seconds

    @property
    def headers(self) -> dict[str, str]:
        """`RateLimit` and `RateLimit-Policy`."""
        return {
            "RateLimit-Policy": f'"requests";q={self.most};w={WINDOW_SECONDS}',
            "RateLimit": f'"requests";r={self.left};t={self.full_in}',
        }


class OverRate(RateLimited):
    """Too many requests; the answer tells when the next one is welcome."""

    def __init__(self, detail: str, limit: RateLimit, retry_after: float) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.headers = limit.headers


class Rate:
    """The requests of all namespaces; `per_second` None is no limit."""

    def __init__(self, redis: Redis, per_second: float | None) -> None:
        self._per_second = per_second
        self._spend: Any = redis.register_script(_SPEND)

    def spend(self, namespace: str) -> dict[str, str]:
        """Counts one request; the headers of its answer. Raises RateLimited."""
        rate = self._per_second
        if rate is None:
            return {}
        most = max(1, math.floor(rate * WINDOW_SECONDS))
        with reachable():
            spent, tokens = self._spend(keys=[f"{PREFIX}:rate:{namespace}"], args=[rate, most])
        left = float(tokens)
        limit = RateLimit(most, math.floor(left), math.ceil((most - left) / rate))
        if not spent:
            raise OverRate(
                f"this namespace may make {rate:g} requests a second, {most} at once after a pause; wait, and "
                "poll less often: GET /v1/jobs/{id}?wait=60 holds until a job has ended",
                limit,
                retry_after=max(0.001, (1 - left) / rate),
            )
        return limit.headers


class AtOnce:
    """Used on the event loop alone."""

    def __init__(self, at_once: int, what: str) -> None:
        """`what`: their name, for whoever is refused."""
        self._limit, self._what = at_once, what
        self._running: Counter[str] = Counter()

    @contextmanager
    def one(self, namespace: str) -> Iterator[None]:
        """For as long as one takes. Raises RateLimited."""
        if self._running[namespace] >= self._limit:
            raise RateLimited(
                f"{self._limit} {self._what} of this namespace are under way, which is the limit; wait for one to end",
                retry_after=1,
            )
        self._running[namespace] += 1
        try:
            yield
        finally:
            self._running[namespace] -= 1
            if not self._running[namespace]:
                del self._running[namespace]
