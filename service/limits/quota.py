"""Stored bytes of a namespace: measured in the object storage now and then, and counted on from there.

A blob is refused before it is read. What a job will store is not known so exactly: a namespace that is over its quota
begins no more, and one result at most goes beyond it for each job that was accepted before.
"""

from __future__ import annotations

from typing import Any

from redis import Redis

from service.results.layout import namespace_prefixes
from service.storage.keys import PREFIX
from service.storage.objects import Objects
from service.storage.redis import reachable
from upweight.errors import QuotaExceeded

MEASURED_SECONDS = 300


class Quota:
    """The bytes of all namespaces; `limit` None is no limit, and nothing is measured."""

    def __init__(self, redis: Redis, objects: Objects, limit: int | None) -> None:
        self._redis: Any = redis
        self._objects = objects
        self._limit = limit

    def refuse_over(self, namespace: str) -> None:
        """Raises QuotaExceeded when the namespace stores as much as it may."""
        if self._limit is not None and (stored := self._stored(namespace)) >= self._limit:
            raise self._exceeded(stored)

    def take(self, namespace: str, size: int) -> None:
        """Takes room for what is to be stored. Raises QuotaExceeded, and has taken none then."""
        if self._limit is None:
            return
        self.refuse_over(namespace)
        with reachable():  # in one step, so that uploads side by side don't share the room
            together = int(self._redis.incrby(_bytes_key(namespace), size))
        if together > self._limit:
            self.add(namespace, -size)
            raise self._exceeded(together - size, size)

    def _exceeded(self, stored: int, coming: int = 0) -> QuotaExceeded:
        more = f", and {coming} more would be stored" if coming else ""
        return QuotaExceeded(
            f"this namespace stores {stored} bytes{more}; its limit is {self._limit}. Delete jobs whose results are "
            "no longer needed, or ask the operator for more"
        )

    def add(self, namespace: str, size: int) -> None:
        """Counts what was stored, or was not after all, since the last measuring."""
        if self._limit is not None and size:
            with reachable():
                self._redis.incrby(_bytes_key(namespace), size)

    def measure_again(self, namespace: str) -> None:
        """After something was deleted."""
        if self._limit is not None:
            with reachable():
                self._redis.delete(_fresh_key(namespace))

    def _stored(self, namespace: str) -> int:
        with reachable():
            mine = self._redis.set(_fresh_key(namespace), 1, nx=True, ex=MEASURED_SECONDS)
            known = self._redis.get(_bytes_key(namespace))
        if not mine and known is not None:
            return int(known)
        prefixes = namespace_prefixes(namespace)
        found = sum(meta.size for prefix in prefixes for meta in self._objects.walk(prefix))
        with reachable():
            self._redis.set(_bytes_key(namespace), found)
        return found


def _bytes_key(namespace: str) -> str:
    return f"{PREFIX}:stored:{namespace}"


def _fresh_key(namespace: str) -> str:
    return f"{PREFIX}:stored-measured:{namespace}"
