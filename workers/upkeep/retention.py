"""Lets results expire and deletes what belongs to nothing, a little at a time. One worker does it at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import islice

from service.logs import log, log_exception
from service.retention.expiry import Expired, Expiry
from service.retention.orphans import Orphan, Orphans
from service.storage.leases import Leases
from upweight.errors import UpweightError
from workers.process.context import Context

_OFFICE = "housekeeper"  # a lease like that of a record
_SILENT_PAUSES = 2.5  # after so many without a word another worker takes over
_AT_ONCE = 200  # jobs, and objects, looked at between two pauses

Finding = Expired | Orphan | None


class Housekeeper:
    """A thread of each worker; a lease in Redis lets one of them through. It goes round and round."""

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self._context = context
        self._office = Leases(context.redis, settings.retention_pause_seconds * _SILENT_PAUSES)
        self._expiry = Expiry(context.records, context.objects, settings)
        self._orphans = Orphans(context.records, context.copies, context.objects, settings)
        self._jobs: Iterator[Finding] = iter(())
        self._objects: Iterator[Finding] = iter(())
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def _run(self) -> None:
        while not self._context.stopping.wait(self._context.settings.retention_pause_seconds):
            try:
                if self._is_mine():
                    self.sweep()
            except UpweightError as error:
                log("housekeeper-blind", level="warning", detail=error.detail)
            except Exception:
                log_exception("housekeeper-failed")

    def _is_mine(self) -> bool:
        name = self._context.name
        return self._office.renew(_OFFICE, name) or self._office.take(_OFFICE, name)

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
