"""How a job that many workers have in hand comes to its end: what waits is dropped, what is stored goes or stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.jobs.lifecycle import LeaseLost, Lifecycle
from service.logs import log
from service.results.layout import ResultPaths
from service.storage.grids import Grids
from service.storage.keys import Document
from service.storage.objects import Objects
from service.storage.queue import TaskQueue
from service.storage.shared import Shared
from upweight.errors import NotFound, Unavailable, UpweightError


@contextmanager
def postponed_where_away(id: str) -> Iterator[None]:
    """A storage that is away is no reason not to say how a job ended: retention deletes its objects later."""
    try:
        yield
    except Unavailable as error:
        log("discard-postponed", level="warning", job=id, detail=error.detail)


@dataclass(frozen=True)
class Ending:
    """Of all jobs of all namespaces; any process may do it, and two at once do no harm."""

    lifecycle: Lifecycle
    queue: TaskQueue
    objects: Objects
    grids: Grids
    shared: Shared

    def cancelled_if_free(self, namespace: str, job: Document) -> bool:
        """cancelling → cancelled once no worker has a block of it in hand; says whether that is so."""
        self.queue.drop_blocks(job["id"], job["request"]["priority"])
        if self.grids.in_hand(job["id"]):
            return False
        try:
            self.lifecycle.cancelled(namespace, job["id"], job["attempt"])
        except (LeaseLost, NotFound):  # another has been here
            return True
        self.discard(namespace, job)
        return True

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
