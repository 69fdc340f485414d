"""Which results expire: those of jobs that ended long ago, and the oldest of a namespace that keeps too many bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from service.lifecycle.states import now
from service.settings import Settings
from service.storage.keys import Document, by_state
from service.storage.layout import ResultPaths
from service.storage.objects import Objects
from service.storage.records import Records
from service.storage.redis import surely_past
from service.storage.shared import Shared
from upweight.errors import NotFound
from upweight.schema import TERMINAL, JobState

_PAGE = 200


@dataclass(frozen=True)
class Expired:
    """A result that has expired, or would: why, and how much it frees."""

    namespace: str
    job: str
    reason: Literal["age", "bytes"]
    size_bytes: int


class Expiry:
    """Goes through the jobs of all namespaces, the oldest first, again and again.

    How much a namespace keeps is known after a pass; what is too much expires in the next.
    """

    def __init__(
        self, records: Records, objects: Objects, settings: Settings, *, dry_run: bool = False
    ) -> None:
        self._records = records
        self._objects = objects
        self._settings = settings
        self._shared = Shared(records.redis, objects)
        self._dry_run = dry_run
        self._now = datetime.min.replace(tzinfo=UTC)  # of the pass
        self._kept: dict[str, int] = {}  # bytes by namespace, as the last pass left them

    @property
    def wanted(self) -> bool:
        """Whether anything expires here at all."""
        return (
            self._settings.retention_days is not None or self._settings.retention_bytes is not None
        )

    def one_pass(self) -> Iterator[Expired | None]:
        """One item for each job looked at, None for one that stays, so that the caller sets the pace."""
        self._now = surely_past(self._records.redis)
        for namespace in sorted(self._records.namespaces()):
            yield from self._namespace(namespace)

    def _namespace(self, namespace: str) -> Iterator[Expired | None]:
        limit = self._settings.retention_bytes
        excess = max(0, self._kept.get(namespace, 0) - limit) if limit is not None else 0
        kept = 0
        for job in self._jobs(namespace):
            if job["state"] not in TERMINAL or job.get("expired_at"):
                yield None
                continue
            reason = self._reason(job, excess)
            if reason is None or self._in_use(namespace, job):
                kept += _size(job)
                yield None
                continue
            excess -= _size(job) if reason == "bytes" else 0
            expired = self._dry_run or self._expire(namespace, job["id"])
            yield Expired(namespace, job["id"], reason, _size(job)) if expired else None
        self._kept[namespace] = kept

    def _jobs(self, namespace: str) -> Iterator[Document]:
        after = None
        while True:
            found = self._records.page(
                "job", namespace, limit=_PAGE, after=after, newest_first=False
            )
            yield from self._records.get_many("job", namespace, found.ids)
            if not found.has_more:
                return
            after = found.ids[-1]

    def _reason(self, job: Document, excess: int) -> Literal["age", "bytes"] | None:
        days = self._settings.retention_days
        if days is not None:
            age = self._now - datetime.fromisoformat(job["finished_at"])
            if age > timedelta(days=days):
                return "age"
        return "bytes" if excess > 0 and _size(job) > 0 else None

    def _in_use(self, namespace: str, job: Document) -> bool:
        """Whether a job that has not ended takes its factors."""
        if "factors" not in (job.get("result") or {}).get("stored", ()):
            return False
        return any(
            other["request"].get("factors") == job["id"] for other in self._unfinished(namespace)
        )

    def _unfinished(self, namespace: str) -> Iterator[Document]:
        for state in JobState:
            if state in TERMINAL:
                continue
            after = None
            while True:
                found = self._records.page(
                    "job", namespace, limit=_PAGE, after=after, filters=[by_state(state)]
                )
                yield from self._records.get_many("job", namespace, found.ids)
                if not found.has_more:
                    break
                after = found.ids[-1]

    def _expire(self, namespace: str, id: str) -> bool:
        """The record first: from then on nobody looks for the objects."""
        held: list[str] = []

        def change(job: Document) -> Document | None:
            if job["state"] not in TERMINAL or job.get("expired_at"):
                return None  # retried meanwhile
            held[:] = job.get("shared", ())
            return {**job, "expired_at": now(), "shared": []}

        try:
            after = self._records.update("job", namespace, id, change)
        except NotFound:
            return False
        if not after.get("expired_at"):
            return False
        paths = ResultPaths(namespace, id)
        self._objects.delete([paths.manifest])
        self._objects.delete_prefix(paths.prefix)
        for folder in held:
            self._shared.let_go(namespace, folder, id)
        return True


def _size(job: Document) -> int:
    return int((job.get("result") or {}).get("size_bytes", 0))
