"""Recovery of blocks of large jobs whose workers are silent, or which no queue has any more."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from service.lifecycle.states import LeaseLost
from service.logs import log
from service.storage.keys import Document
from service.storage.queue import PRIORITIES
from upweight.errors import NotFound, WorkerLost
from upweight.schema import JobState
from workers.jobs.plan import stages_of
from workers.jobs.tasks import lease_of
from workers.process.context import Context


class LostBlocks:
    """Puts them back; a block that ends one worker after the other fails its job."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._missing: set[tuple[str, str]] = set()

    def recover(self, namespace: str, job: Document) -> None:
        """Blocks in hand without a lease: their worker has died."""
        context, id = self._context, job["id"]
        for block in context.grids.in_hand(id):
            if context.leases.held(lease_of(id, block)):
                continue
            if block not in context.grids.in_hand(id):
                continue  # its worker has left it meanwhile, and then let go of the lease
            context.grids.leave(id, block)
            log("block-lost", level="warning", job=id, block=block)
            if job["state"] == JobState.RUNNING and not self._put_back(namespace, job, block):
                return
        if job["state"] == JobState.CANCELLING:
            context.ending.cancelled_if_free(namespace, job)

    def _put_back(self, namespace: str, job: Document, block: str) -> bool:
        """Whether it has tries left."""
        context, attempts = self._context, self._context.settings.attempts
        if context.grids.fallen(job["id"], block) < attempts:
            self._enqueue(namespace, job, [block])
            return True
        error = WorkerLost(
            f"{attempts} workers died while they had block {block} of this job in hand; it may need more memory than "
            "they have: use smaller blocks ('blocks'), fewer rows, a smaller batch_size or another method"
        )
        with suppress(LeaseLost, NotFound):
            context.ending.failed(namespace, job, error)
        return False

    def requeue_missing(self, jobs: Iterable[tuple[str, Document]]) -> None:
        """Blocks that are not done, in nobody's hand and in no queue, twice in a row, are put into theirs."""
        waiting: dict[str, set[str]] = {}
        for priority in PRIORITIES:
            for id, block in self._context.queue.blocks_waiting(priority):
                waiting.setdefault(id, set()).add(block)
        missing: set[tuple[str, str]] = set()
        for namespace, job in jobs:
            if self._context.leases.held(job["id"]):
                continue  # its blocks are being put into the queue at this moment
            lost = self._lost(job, waiting.get(job["id"], set()))
            again = [block for block in lost if (job["id"], block) in self._missing]
            missing |= {(job["id"], block) for block in lost}
            if again:
                log("blocks-requeued", level="warning", job=job["id"], count=len(again))
                self._enqueue(namespace, job, again)
        self._missing = missing

    def _lost(self, job: Document, waiting: set[str]) -> list[str]:
        grids, id = self._context.grids, job["id"]
        stages = stages_of(job["plan"])
        counts = grids.counts(id, list(stages))
        for (stage, total), done in zip(stages.items(), counts, strict=True):
            if done >= total:
                continue
            present = waiting | set(grids.in_hand(id))
            if done + sum(block.startswith(f"{stage}-") for block in present) >= total:
                return []
            blocks = [f"{stage}-{number}" for number in grids.missing(id, stage, range(total))]
            return [block for block in blocks if block not in present]
        return []

    def _enqueue(self, namespace: str, job: Document, blocks: list[str]) -> None:
        priority = job["request"]["priority"]
        self._context.queue.enqueue_blocks(
            namespace, job["id"], blocks, priority=priority, first=True
        )
