"""RQ's queues as we use them: JSON payloads, one task by its dotted path, nothing popped without a safety net.

RQ only carries tasks; our record of a job is the truth. A worker listening to several queues would pop with BLPOP,
and lose the task if it died at once; so each queue is popped with LMOVE, and a doorbell list wakes the worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from rq import Queue
from rq.exceptions import DequeueTimeout
from rq.job import Job
from rq.serializers import JSONSerializer

from service.storage.keys import PREFIX, Kind
from service.storage.redis import reachable
from upweight.errors import QueueFull
from upweight.schema.base import CONTRACT

PRIORITIES = ("high", "default", "low")
RUN_JOB = "workers.tasks.run_job"
CHECK_MODEL = "workers.tasks.check_model"
CHECK_DATASET = "workers.tasks.check_dataset"
CHECKS: dict[Kind, str] = {"model": CHECK_MODEL, "dataset": CHECK_DATASET}

DOORBELL = f"{PREFIX}:doorbell"
_DOORBELL_LENGTH = 64  # more rings than workers are of no use
_KEPT_SECONDS = 600  # RQ's own traces of a task; our record outlives them
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
        found = cls._first(queues, connection, job_class, serializer, death_penalty_class)
        if found is None and timeout is not None:
            # A lost ring costs this wait, never a task; RQ's own re-enqueueing does not ring.
            connection.blpop([DOORBELL], timeout=min(timeout, 1))
            found = cls._first(queues, connection, job_class, serializer, death_penalty_class)
            if found is None:
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
            for name in PRIORITIES
        }

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

    def ring(self) -> None:
        """Wakes a waiting worker."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.rpush(DOORBELL, 1)
            pipeline.ltrim(DOORBELL, -_DOORBELL_LENGTH, -1)
            pipeline.execute()

    def oldest(self) -> dict[str, float]:
        """Seconds that the first task of each queue has waited; 0 for an empty one."""
        found = {}
        for name, queue in self._queues.items():
            with reachable():
                first = self._redis.lindex(queue.key, 0)
                job = Job.key_for(first.decode()) if first is not None else ""
                at = self._redis.hget(job, "enqueued_at") if job else None
            found[name] = _age(at.decode()) if at else 0.0
        return found

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
        """The ids of all tasks in all queues (see `task_id`)."""
        with reachable():
            return {id for queue in self._queues.values() for id in queue.get_job_ids()}

    def lengths(self) -> dict[str, int]:
        """Tasks waiting, by queue."""
        with reachable():
            return {name: queue.count for name, queue in self._queues.items()}


def _age(moment: str) -> float:
    at = datetime.fromisoformat(moment)
    return max(0.0, (datetime.now(UTC) - at).total_seconds())


def task_id(id: str, attempt: int) -> str:
    """RQ's id of one attempt at a record's task."""
    return f"{id}-{attempt}"


def queues(redis: Redis, names: Sequence[str]) -> list[DoorbellQueue]:
    """The queues a worker listens to, in order of priority."""
    return [DoorbellQueue(name, connection=redis, serializer=JSONSerializer) for name in names]
