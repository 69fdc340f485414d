"""RQ's queues as we use them: JSON payloads, one task by its dotted path, nothing popped without a safety net.

RQ only carries tasks; our record of a job is the truth. A worker listening to several queues would pop with BLPOP,
and lose the task if it died at once; so each queue is popped with LMOVE, and a doorbell list wakes the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.exceptions import ConnectionError, ResponseError
from rq import Queue
from rq.exceptions import DequeueTimeout
from rq.job import Job
from rq.serializers import JSONSerializer

from service.logs import carried_trace, log
from service.storage.keys import PREFIX, Kind
from service.storage.redis import reachable, takes_no_more
from upweight.errors import QueueFull, Unavailable
from upweight.schema.base import CONTRACT

PRIORITIES = ("high", "default", "low")
# Blocks of large jobs wait in queues of their own, so that a small job need not wait for all of them.
BLOCKS = {name: f"{name}-blocks" for name in PRIORITIES}
RUN_JOB = "workers.tasks.run_job"
RUN_BLOCK = "workers.tasks.run_block"
CHECK_MODEL = "workers.tasks.check_model"
CHECK_DATASET = "workers.tasks.check_dataset"
CHECKS: dict[Kind, str] = {"model": CHECK_MODEL, "dataset": CHECK_DATASET}
CHECK_PRIORITY = "high"  # a check is short, and somebody waits for it

DOORBELL = f"{PREFIX}:doorbell"
_DOORBELL_LENGTH = 64  # more rings than workers are of no use
_KEPT_SECONDS = 600  # RQ's own traces of a task; our record outlives them
_AT_ONCE = 1_000  # blocks put into a queue in one step
# KEYS: queue. ARGV: what the ids to be taken out begin with. Answers these ids.
_DROP = """
local kept, dropped = {}, {}
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  if string.sub(id, 1, #ARGV[1]) == ARGV[1] then table.insert(dropped, id) else table.insert(kept, id) end
end
if #dropped > 0 then
  redis.call('DEL', KEYS[1])
  for start = 1, #kept, 1000 do
    redis.call('RPUSH', KEYS[1], unpack(kept, start, math.min(start + 999, #kept)))
  end
end
return dropped
"""
NO_TIMEOUT = -1  # RQ's SIGALRM is not used: a job's time is watched between two batches


class DoorbellQueue(Queue):
    """A queue that several can be listened to without losing a task."""

    @classmethod
    def dequeue_any(
        cls,
        queues: Any,
        timeout: int | None,
        connection: Redis,
        job_class: type[Job] | None = None,
        serializer: Any = None,
        death_penalty_class: Any = None,
    ) -> Any:
        """The first task of the first queue that has one; waits up to `timeout` seconds for the doorbell."""
        look = (queues, connection, job_class, serializer, death_penalty_class)
        try:
            found = cls._first(*look)
            if found is None and timeout is not None:
                # A lost ring costs this wait, never a task; RQ's own re-enqueueing does not ring.
                connection.blpop([DOORBELL], timeout=min(timeout, 1))
                found = cls._first(*look)
        except ResponseError as error:
            if takes_no_more(error):
                raise ConnectionError(
                    str(error)
                ) from error  # which RQ waits for, and others end it
            raise
        if found is None and timeout is not None:
            raise DequeueTimeout  # RQ takes None for the end of its work
        return found

    @classmethod
    def _first(
        cls, queues: Any, connection: Redis, job_class: Any, serializer: Any, penalty: Any
    ) -> Any:
        for queue in queues:
            found = Queue.dequeue_any.__func__(  # type: ignore[attr-defined]
                cls, [queue], None, connection, job_class, serializer, penalty
            )
            if found is not None:
                return found
        return None


class TaskQueue:
    """Puts tasks into the queues and knows what waits there."""

    def __init__(self, redis: Redis, length_limit: int) -> None:
        self._redis: Any = redis
        self._limit = length_limit
        self._queues = {
            name: DoorbellQueue(name, connection=redis, serializer=JSONSerializer)
            for name in (*PRIORITIES, *BLOCKS.values())
        }
        self._drop = redis.register_script(_DROP)

    def refuse_if_full(self, priority: str) -> None:
        """Raises QueueFull."""
        with reachable():
            waiting = self._queues[priority].count
        if waiting >= self._limit:
            raise QueueFull(
                f"{waiting} tasks wait in queue {priority!r}, which takes {self._limit}; try again later",
                retry_after=30,
            )

    def enqueue(
        self,
        task: str,
        namespace: str,
        id: str,
        *,
        attempt: int = 0,
        priority: str = "default",
        trace: str = "",
    ) -> None:
        """Puts a task at the end of its queue and rings the doorbell. The same task and attempt is put once."""
        with reachable():
            self._queues[priority].enqueue_call(
                task,
                args=(namespace, id),
                job_id=task_id(id, attempt),
                timeout=NO_TIMEOUT,
                result_ttl=0,
                failure_ttl=_KEPT_SECONDS,
                description=f"{task} {id}",
                meta={"trace": trace, "contract": CONTRACT},
            )
            self.ring()

    def enqueue_made(self, task: str, namespace: str, id: str, **choices: Any) -> None:
        """`enqueue` for a record that has just been made, and so will be done.

        Where Redis takes it no more, a worker finds the record later and puts it into the queue: it stands, and who
        asked for it must not hear that it was refused.
        """
        try:
            self.enqueue(task, namespace, id, **choices)
        except Unavailable as error:
            log("enqueue-postponed", level="warning", record=id, detail=error.detail)

    def enqueue_blocks(
        self,
        namespace: str,
        id: str,
        blocks: Sequence[str],
        *,
        priority: str = "default",
        first: bool = False,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        """Puts blocks (`stage-number`) of a job at the end of their queue, or before all others.

        `between` is called now and then, and may raise. A block that is put twice is done once: its object exists.
        """
        queue = self._queues[BLOCKS[priority]]
        meta = {"trace": carried_trace(), "contract": CONTRACT}
        for start in range(0, len(blocks), _AT_ONCE):
            here = blocks[start : start + _AT_ONCE]
            data = [
                Queue.prepare_data(
                    RUN_BLOCK,
                    args=(namespace, id, block),
                    job_id=f"{id}-{block}-{uuid4().hex[:6]}",
                    timeout=NO_TIMEOUT,
                    result_ttl=0,
                    failure_ttl=_KEPT_SECONDS,
                    description=block,
                    meta=meta,
                    at_front=first,
                )
                for block in here
            ]
            with reachable():
                queue.enqueue_many(data)
                self.ring(len(here))
            between()

    def drop_blocks(self, id: str, priority: str) -> None:
        """Takes all blocks of a job out of their queue."""
        queue = self._queues[BLOCKS[priority]]
        with reachable():
            dropped = self._drop(keys=[queue.key], args=[f"{id}-"])
            for start in range(0, len(dropped), _AT_ONCE):
                here = dropped[start : start + _AT_ONCE]
                names = [Job.key_for(each.decode()) for each in here]
                self._redis.unlink(*names)

    def blocks_waiting(self, priority: str) -> list[tuple[str, str]]:
        """Job and block of all that waits in a queue of blocks."""
        with reachable():
            ids = self._queues[BLOCKS[priority]].get_job_ids()
        return [
            (job, f"{stage}-{number}") for job, stage, number, _ in (id.split("-") for id in ids)
        ]

    def ring(self, times: int = 1) -> None:
        """Wakes waiting workers."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.rpush(DOORBELL, *[1] * min(times, _DOORBELL_LENGTH))
            pipeline.ltrim(DOORBELL, -_DOORBELL_LENGTH, -1)
            pipeline.execute()

    def oldest(self) -> dict[str, float]:
        """Seconds that the first task of each priority has waited; 0 where none waits."""
        return {
            name: max(self._waited(self._queues[each].key) for each in (name, blocks))
            for name, blocks in BLOCKS.items()
        }

    def _waited(self, queue: str) -> float:
        with reachable():
            first = self._redis.lindex(queue, 0)
            job = Job.key_for(first.decode()) if first is not None else ""
            at = self._redis.hget(job, "enqueued_at") if job else None
        return _age(at.decode()) if at else 0.0

    def position(self, id: str, attempt: int, priority: str) -> int | None:
        """How many tasks are before this one, or None when it does not wait."""
        with reachable():
            place = self._redis.lpos(self._queues[priority].key, task_id(id, attempt))
        return int(place) if place is not None else None

    def remove(self, id: str, attempt: int, priority: str) -> None:
        """Takes a waiting task out of its queue."""
        with reachable():
            self._queues[priority].remove(task_id(id, attempt))

    def waiting(self) -> set[str]:
        """The ids of all tasks that wait, without blocks (see `task_id`)."""
        with reachable():
            return {id for name in PRIORITIES for id in self._queues[name].get_job_ids()}

    def lengths(self) -> dict[str, int]:
        """Tasks waiting, by priority: whole jobs and blocks."""
        with reachable():
            return {
                name: self._queues[name].count + self._queues[blocks].count
                for name, blocks in BLOCKS.items()
            }


def _age(moment: str) -> float:
    at = datetime.fromisoformat(moment)
    return max(0.0, (datetime.now(UTC) - at).total_seconds())


def task_id(id: str, attempt: int) -> str:
    """RQ's id of one attempt at a record's task."""
    return f"{id}-{attempt}"


def queues(redis: Redis, names: Sequence[str]) -> list[DoorbellQueue]:
    """The queues a worker listens to, in order of priority: blocks of each after its whole jobs."""
    every = [each for name in names for each in (name, BLOCKS[name])]
    return [DoorbellQueue(name, connection=redis, serializer=JSONSerializer) for name in every]
