"""Lets results expire and deletes what belongs to nothing, a little at a time. One worker does it at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from service.logs import log
from service.retention.expiry import Expired, Expiry
from service.retention.orphans import Orphan, Orphans
from workers.process.background import InTurn
from workers.process.context import Context

_TURN = "housekeeper"  # as workers of earlier versions call it
_AT_ONCE = 200  # jobs, and objects, looked at between two pauses

Finding = Expired | Orphan | None


class Retention(InTurn):
    """Deletes what is too old, and what nobody holds. It goes round and round."""

    def __init__(self, context: Context) -> None:
        settings = context.settings
        super().__init__("retention", _TURN, context, settings.retention_pause_seconds)
        self._expiry = Expiry(context.records, context.objects, settings)
        self._orphans = Orphans(context.records, context.copies, context.objects, settings)
        self._jobs: Iterator[Finding] = iter(())
        self._objects: Iterator[Finding] = iter(())

    def sweep(self) -> None:
        """Looks at the next jobs and objects."""
        if self._expiry.wanted:
            self._jobs = self._looked(self._jobs, self._expiry.one_pass)
        self._objects = self._looked(self._objects, self._orphans.one_pass)

    def _looked(
        self, walk: Iterator[Finding], anew: Callable[[], Iterator[Finding]]
    ) -> Iterator[Finding]:
        seen = 0
        for found in islice(walk, _AT_ONCE):
            seen += 1
            if isinstance(found, Expired):
                log("result-expired", job=found.job, reason=found.reason, bytes=found.size_bytes)
            elif isinstance(found, Orphan):
                log("orphan-deleted", path=found.path, bytes=found.size_bytes)
        return walk if seen == _AT_ONCE else anew()
