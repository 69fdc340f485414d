"""Workers of two versions at once: a task of a newer contract than a worker's own is left to a newer worker.

The contract's number is in each task and in each record, for a task may be enqueued again by an older process.
"""

from __future__ import annotations

import json
import threading
from typing import Any

from redis import Redis
from rq.serializers import JSONSerializer

from service.logs import log
from service.storage import keys
from service.storage.keys import ID_PREFIX
from service.storage.queue import DoorbellQueue, TaskQueue
from service.storage.redis import reachable

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0
_KINDS = {prefix: kind for kind, prefix in ID_PREFIX.items()}


class Contract:
    """What one worker understands, and what it has passed over since it last found a task of its own."""

    def __init__(self, redis: Redis, understood: int, stopping: threading.Event) -> None:
        self._redis: Any = redis
        self._understood = understood
        self._stopping = stopping
        self._passed: set[str] = set()
        self._pause = _FIRST_PAUSE_SECONDS

    def covers(self, job: Any, namespace: str, id: str) -> bool:
        """Whether this worker may do a task."""
        needed = max(int(job.meta.get("contract", 1)), self._of_record(namespace, id))
        if needed <= self._understood:
            self._passed.clear()
            self._pause = _FIRST_PAUSE_SECONDS
            return True
        log("left-to-newer-worker", task=job.id, needs=needed, understood=self._understood)
        return False

    def give_back(self, job: Any) -> None:
        """Puts a task at the end of its queue, as it was; its job is untouched, and no attempt is spent.

        Where all that waits has been passed over once, it waits a little, and lets others come first.
        """
        with reachable():
            queue = DoorbellQueue(job.origin, connection=self._redis, serializer=JSONSerializer)
            queue.enqueue_call(
                job.func_name,
                args=job.args,
                job_id=job.id,
                timeout=job.timeout,
                result_ttl=job.result_ttl,
                failure_ttl=job.failure_ttl,
                description=job.description,
                meta=job.meta,
            )
            TaskQueue(self._redis, 1).ring()
        if job.id in self._passed:
            self._stopping.wait(self._pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            self._passed.clear()
        self._passed.add(job.id)

    def _of_record(self, namespace: str, id: str) -> int:
        kind = _KINDS.get(id.partition("_")[0])
        if kind is None:
            return 1
        with reachable():
            raw = self._redis.hget(keys.record_key(kind, namespace, id), "doc")
        return int(json.loads(raw).get("contract", 1)) if raw is not None else 1
