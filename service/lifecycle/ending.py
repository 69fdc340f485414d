"""How a job that many workers have in hand comes to its end: what waits is dropped, what is stored goes or stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

from service.lifecycle.states import LeaseLost, Lifecycle
from service.logs import log
from service.storage.grids import Grids
from service.storage.keys import Document
from service.storage.layout import ResultPaths
from service.storage.leases import Leases
from service.storage.objects import Objects
from service.storage.queue import TaskQueue
from service.storage.records import Records
from service.storage.shared import Shared
from upweight.errors import NotFound, Unavailable, UpweightError
from upweight.schema import RESUMABLE, JobState


@contextmanager
def postponed_where_away(id: str) -> Iterator[None]:
    """A storage that is away is no reason not to say how a job ended: retention deletes its objects later."""
    try:
        yield
    except Unavailable as error:
        log("discard-postponed", level="warning", job=id, detail=error.detail)


def keeps_nothing(job: Document) -> bool:
    """Whether nothing that it stored stays. Finished blocks of a failed job do, for a retry goes on from them."""
    state = job["state"]
    resumed = job.get("plan") or job["request"]["kind"] in RESUMABLE
    return state == JobState.CANCELLED or (state == JobState.FAILED and not resumed)


@dataclass(frozen=True)
class Ending:
    """Of all jobs of all namespaces; any process may do it, and two at once do no harm."""

    records: Records
    lifecycle: Lifecycle
    leases: Leases
    queue: TaskQueue
    objects: Objects
    grids: Grids
    shared: Shared

    def cancelled_if_free(self, namespace: str, job: Document) -> bool:
        """cancelling → cancelled once no worker has a block of it in hand; says whether it has ended.

        What it stored is deleted before it is said to have ended: who then tries it again, or looks, finds nothing of
        it, and recovery begins anew what is cut off in between.
        """
        id, attempt = job["id"], job["attempt"]
        if job.get("plan"):
            self.queue.drop_blocks(id, job["request"]["priority"])
        if self.grids.in_hand(id):
            return False
        with self._alone(id) as alone:
            if not alone:
                return False
            try:
                now = self.records.get("job", namespace, id)
                if now["state"] != JobState.CANCELLING or now["attempt"] != attempt:
                    return True  # another has been here
                if self.grids.in_hand(id):
                    return False
                with postponed_where_away(id):
                    self.discard(namespace, now)
                self.lifecycle.cancelled(namespace, id, attempt)
            except (LeaseLost, NotFound):
                pass
        return True

    @contextmanager
    def _alone(self, id: str) -> Iterator[bool]:
        """Whether nobody else is ending it: a second one would delete what the user's next try stores."""
        lease, holder = f"{id}.ending", uuid4().hex
        taken = self.leases.take(lease, holder)
        try:
            yield taken
        finally:
            if taken:
                self.leases.release(lease, holder)

    def failed(self, namespace: str, job: Document, error: UpweightError) -> None:
        """running → failed. Finished blocks stay, for a retry goes on from them. Raises LeaseLost, NotFound."""
        self.lifecycle.fail(namespace, job["id"], job["attempt"], error)
        self.queue.drop_blocks(job["id"], job["request"]["priority"])
        self.grids.close(job["id"])

    def discard(self, namespace: str, job: Document) -> None:
        """Deletes all that a job has stored; what it shares with others stays while they use it."""
        self.grids.close(job["id"])
        self.objects.delete_prefix(ResultPaths(namespace, job["id"]).prefix)
        self.let_go(namespace, job)

    def let_go(self, namespace: str, job: Document) -> None:
        """The job uses its fits and factors no more."""
        for name in job.get("shared", ()):
            self.shared.let_go(namespace, name, job["id"])
