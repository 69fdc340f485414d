"""Uploads at once of a namespace, so that no other finds all threads taken. Each front end counts its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from upweight.errors import RateLimited


class Uploads:
    """Used on the event loop alone."""

    def __init__(self, at_once: int) -> None:
        self._limit = at_once
        self._running: Counter[str] = Counter()

    @contextmanager
    def one(self, namespace: str) -> Iterator[None]:
        """For as long as an upload takes. Raises RateLimited."""
        if self._running[namespace] >= self._limit:
            raise RateLimited(
                f"{self._limit} uploads of this namespace are under way, which is the limit; wait for one to end",
                retry_after=1,
            )
        self._running[namespace] += 1
        try:
            yield
        finally:
            self._running[namespace] -= 1
            if not self._running[namespace]:
                del self._running[namespace]
