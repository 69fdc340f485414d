"""Objects that belong to nothing: results without a job, fits that no job holds, uploads that broke off.

Nothing is taken for left behind while Redis has lost records (`Copies.whole`): what they hold is not known then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from service.lifecycle.ending import keeps_nothing
from service.settings import Settings
from service.storage.copies import Copies
from service.storage.layout import SELF_TEST, UPLOADS
from service.storage.leftovers import broken_uploads
from service.storage.objects import ObjectMeta, Objects
from service.storage.records import Records
from service.storage.redis import surely_past
from service.storage.shared import ROOT as SHARED
from service.storage.shared import Shared
from upweight.errors import NotFound

RESULTS = "results"


@dataclass(frozen=True)
class Orphan:
    """An object, or a file of a broken upload, that is or would be deleted."""

    path: str
    size_bytes: int


class Orphans:
    """Goes through results and temporary files; only what is older than `orphan_seconds` is taken for left behind."""

    def __init__(
        self,
        records: Records,
        copies: Copies,
        objects: Objects,
        settings: Settings,
        *,
        dry_run: bool = False,
    ) -> None:
        self._records = records
        self._copies = copies
        self._objects = objects
        self._shared = Shared(records.redis, objects)
        self._settings = settings
        self._dry_run = dry_run
        self._now = datetime.min.replace(tzinfo=UTC)  # of the pass

    def one_pass(self) -> Iterator[Orphan | None]:
        """One item for each object looked at, None for one that belongs somewhere."""
        self._now = surely_past(self._records.redis)
        yield from self._broken_uploads()
        belongs: tuple[str, bool] = (
            "",
            True,
        )  # of the job looked at last: its objects come in a row
        for meta in self._objects.walk(RESULTS):
            if not self._old(meta.modified):
                yield None
                continue
            _, namespace, id, *_ = f"{meta.path}//".split("/")
            if belongs[0] != f"{namespace}/{id}":
                belongs = (f"{namespace}/{id}", self._belongs(namespace, id))
            yield None if belongs[1] else self._deleted(meta)
        yield from self._unheld()
        for prefix in (SELF_TEST, UPLOADS):
            for meta in self._objects.walk(prefix):
                yield self._deleted(meta) if self._old(meta.modified) else None

    def _unheld(self) -> Iterator[Orphan | None]:
        """Folders of fits and factors; one that no job holds is let go in the way that the last job does it."""
        for meta in self._objects.walk(SHARED):
            _, namespace, _, digest, generation, *_ = f"{meta.path}/////".split("/")
            folder = f"{digest}-{generation}"
            if not self._old(meta.modified) or self._records.users("job", namespace, folder, 1):
                yield None
                continue
            if not self._copies.whole():
                return
            if not self._dry_run:
                self._shared.let_go(namespace, folder, "")
            yield Orphan(meta.path, meta.size)

    def _belongs(self, namespace: str, id: str) -> bool:
        if not self._copies.whole():
            return True
        try:
            job = self._records.get("job", namespace, id)
        except NotFound:
            # Redis may have lost the job: it is deleted only when its copy is gone, too.
            return self._copies.there("job", namespace, id)
        # One that keeps nothing left objects when the storage was away as they should have been deleted.
        return not job.get("expired_at") and not keeps_nothing(job)

    def _deleted(self, meta: ObjectMeta) -> Orphan:
        if not self._dry_run:
            self._objects.delete([meta.path])
        return Orphan(meta.path, meta.size)

    def _broken_uploads(self) -> Iterator[Orphan | None]:
        for upload in broken_uploads(self._objects):
            if not self._old(upload.modified):
                yield None
                continue
            if not self._dry_run:
                upload.delete()
            yield Orphan(upload.path, upload.size_bytes)

    def _old(self, moment: datetime) -> bool:
        return self._now - moment > timedelta(seconds=self._settings.orphan_seconds)
