"""RQ's queues as we use them: JSON payloads, one task by its dotted path, nothing popped without a safety net.

RQ only carries tasks; our record of a job is the truth. RQ's queue is one list, first in, first out; here namespaces
take turns (see `turns`). What a worker takes is in an intermediate list until it has told so, and a doorbell list wakes
the workers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.exceptions import ConnectionError, ResponseError
from rq import Queue
from rq.exceptions import DequeueTimeout
from rq.job import Job
from rq.serializers import JSONSerializer

from service.logs import carried_trace, log
from service.storage.keys import ID_PREFIX, PREFIX, Kind
from service.storage.redis import reachable, takes_no_more
from service.storage.turns import BLOCKS_SUFFIX, Turns
from upweight.errors import QueueFull, Unavailable
from upweight.schema.base import CONTRACT

PRIORITIES = (HIGH := "high", "default", "low")
# Blocks of large jobs wait in queues of their own, so that a small job need not wait for all of them.
BLOCKS = {name: f"{name}{BLOCKS_SUFFIX}" for name in PRIORITIES}
RUN_JOB = "workers.tasks.run_job"
RUN_BLOCK = "workers.tasks.run_block"
CHECK_MODEL = "workers.tasks.check_model"
CHECK_DATASET = "workers.tasks.check_dataset"
CHECKS: dict[Kind, str] = {"model": CHECK_MODEL, "dataset": CHECK_DATASET}
CHECK_PRIORITY = HIGH  # a check is short, and somebody waits for it

DOORBELL = f"{PREFIX}:doorbell"
_DOORBELL_LENGTH = 64  # more rings than workers are of no use
_KEPT_SECONDS = 600  # RQ's own traces of a task; our record outlives them
_AT_ONCE = 1_000  # blocks put into a queue in one step
NO_TIMEOUT = -1  # RQ's SIGALRM is not used: a job's time is watched between two batches


class DoorbellQueue(Queue):
    """A queue in which namespaces take turns, and of which several can be listened to without losing a task.

    The namespace is in the task's `meta`. What RQ does with lists under a queue's key is done by `Turns` instead.
    """

    @cached_property
    def turns(self) -> Turns:
        """The queues of this connection."""
        return Turns(self.connection)

    @classmethod
    def dequeue_any(
        cls,
        queues: Any,
        timeout: int | None,
        connection: Redis,
        job_class: type[Job] | None = None,
        serializer: Any = None,
        death_penalty_class: Any = None,
        *,
        excepted: Collection[str] = (),
    ) -> Any:
        """The task whose turn it is; waits up to `timeout` seconds for the doorbell. None of `excepted` namespaces."""

        def look() -> Any:
            while (popped := turns.pop(keys, EVERY_KEY, excepted)) is not None:
                found = cls._fetch_dequeued_job(
                    connection, *popped, job_class, serializer, death_penalty_class
                )
                if found is not None:
                    return found
            return None

        turns, keys = Turns(connection), [queue.key for queue in queues]
        try:
            found = look()
            if found is None and timeout is not None:
                # A lost ring costs this wait, never a task; RQ's own re-enqueueing does not ring.
                connection.blpop([DOORBELL], timeout=min(timeout, 1))
                found = look()
        except ResponseError as error:
            if takes_no_more(error):
                raise ConnectionError(
                    str(error)
                ) from error  # which RQ waits for, and others end it
            raise
        if found is None and timeout is not None:
            raise DequeueTimeout  # RQ takes None for the end of its work
        return found

    def push_job_id(self, job_id: str, pipeline: Any = None, at_front: bool = False) -> None:
        """Puts a task into its namespace's list, after its hash has been written."""
        client = self.connection if pipeline is None else pipeline
        self.turns.push(self.key, Job.key_for(job_id), job_id, first=at_front, client=client)

    def remove(self, job_or_id: Any, pipeline: Any = None) -> Any:
        """Takes a task out."""
        id = job_or_id if isinstance(job_or_id, str) else job_or_id.id
        return self.turns.remove(self.key, id, pipeline)

    def get_job_ids(self, offset: int = 0, length: int = -1) -> list[str]:
        """Some of the tasks that wait, in no order."""
        return self.turns.ids(self.key)[offset : None if length < 0 else offset + length]

    @property
    def count(self) -> int:
        """How many tasks wait."""
        return self.turns.count(self.key)

    def get_job_position(self, job_or_id: Any) -> int | None:
        """How many tasks come before this one, or None when it does not wait."""
        id = job_or_id if isinstance(job_or_id, str) else job_or_id.id
        return self.turns.position(self.key, id)

    def pop_job_id(self) -> str | None:
        """The id of the next task, which is in the intermediate list from now on."""
        found = self.turns.pop([self.key], EVERY_KEY)
        return found[1] if found is not None else None

    def empty(self) -> int:
        """Takes all tasks out and forgets them; how many there were."""
        ids = self.get_job_ids()
        for id in ids:
            self.remove(id)
            self.connection.unlink(Job.key_for(id))
        return len(ids)

    def compact(self) -> None:
        """Takes out tasks whose hash has gone."""
        for id in self.get_job_ids():
            if not Job.exists(id, self.connection):
                self.remove(id)


EVERY = (*PRIORITIES, *BLOCKS.values())
EVERY_KEY = tuple(f"{Queue.redis_queue_namespace_prefix}{name}" for name in EVERY)


class TaskQueue:
    """Puts tasks into the queues and knows what waits there."""

    def __init__(self, redis: Redis, length_limit: int) -> None:
        self._redis: Any = redis
        self._limit = length_limit
        self._queues = {
            name: DoorbellQueue(name, connection=redis, serializer=JSONSerializer) for name in EVERY
        }
        self._turns = Turns(redis)

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
                meta={"trace": trace, "contract": CONTRACT, "namespace": namespace},
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
        """Puts blocks (`stage-number`) of a job after its others, or before them.

        `between` is called now and then, and may raise. A block that is put twice is done once: its object exists.
        """
        queue = self._queues[BLOCKS[priority]]
        meta = {"trace": carried_trace(), "contract": CONTRACT, "namespace": namespace}
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
            dropped = self._turns.drop(queue.key, id)
            for start in range(0, len(dropped), _AT_ONCE):
                here = dropped[start : start + _AT_ONCE]
                names = [Job.key_for(each) for each in here]
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
        """Seconds that the next task of any namespace has waited, by priority; 0 where none waits."""
        return {
            name: max(self._waited(self._queues[each].key) for each in (name, blocks))
            for name, blocks in BLOCKS.items()
        }

    def _waited(self, queue: str) -> float:
        with reachable():
            at = self._turns.oldest(queue, Job.redis_job_namespace_prefix)
        return _age(at) if at else 0.0

    def position(self, id: str, attempt: int, priority: str) -> int | None:
        """How many tasks come before this one, or None when it does not wait."""
        with reachable():
            return self._turns.position(self._queues[priority].key, task_id(id, attempt))

    def remove(self, id: str, attempt: int, priority: str) -> None:
        """Takes a waiting task out of its queue."""
        with reachable():
            self._queues[priority].remove(task_id(id, attempt))

    def jobs_waiting(self, namespace: str, priority: str) -> int:
        """A namespace's jobs that wait at a priority, those in blocks as one each; without its checks."""
        with reachable():
            whole = self._turns.of(self._queues[priority].key, namespace)
            blocks = self._turns.of(self._queues[BLOCKS[priority]].key, namespace)
        return sum(id.startswith(ID_PREFIX["job"]) for id in [*whole, *blocks])

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
