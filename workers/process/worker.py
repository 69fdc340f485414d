"""One long-lived process a device. RQ's SimpleWorker, made safe: no fork after torch, JSON payloads, only our tasks.

RQ carries tasks; whether a job is done, lost or cancelled is decided by our record and its lease.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.defaults import DEFAULT_JOB_MONITORING_INTERVAL
from rq.serializers import JSONSerializer
from rq.utils import now

from service import counters
from service.counters import Counters
from service.logs import bound, log, log_exception
from service.storage.queue import RUN_BLOCK, DoorbellQueue, queues
from service.tracing import Tracing
from upweight.schema.base import CONTRACT
from workers.process.compatibility import Contract
from workers.process.floor import Floor, Taken

Task = Callable[..., None]
_LONGEST_WAIT = 1  # seconds of waiting for a task, between checks whether the worker is to stop
_HEARTBEAT_SECONDS = 5.0  # of RQ's own registries


class RefusedTask(Exception):
    """A payload that asks for something other than our tasks."""


class WarmWorker(SimpleWorker):
    """Listens to several queues in order of priority and runs the tasks of a table, in this process."""

    queue_class = DoorbellQueue

    def __init__(
        self,
        names: list[str],
        redis: Redis,
        name: str,
        tasks: Mapping[str, Task],
        stopping: threading.Event,
        *,
        understood: int = CONTRACT,
        tracing: Tracing | None = None,
        afterwards: Callable[[], None] = lambda: None,
        floor: Floor | None = None,
    ) -> None:
        """`afterwards` is called when a task has ended, whichever way. `floor`: where tasks give way to others."""
        super().__init__(
            queues(redis, names),
            name=name,
            connection=redis,
            serializer=JSONSerializer,
            worker_ttl=30,
            maintenance_interval=30,
            queue_class=DoorbellQueue,
        )
        self._tasks = tasks
        self._stopping = stopping
        self._contract = Contract(redis, understood, stopping)
        self._tracing = tracing or Tracing()
        self._counters = Counters(redis)
        self._afterwards = afterwards
        self._floor = floor or Floor(1)
        self._floor.take = self._task_of_others
        self.log_job_description = False

    def get_heartbeat_ttl(self, job: Any, working_time: float = 0.0) -> int:
        """Short, because it is renewed while the task runs."""
        return DEFAULT_JOB_MONITORING_INTERVAL + 60

    def handle_warm_shutdown_request(self) -> None:
        """SIGTERM: the task at hand is given back at its next checkpoint."""
        self._stopping.set()
        super().handle_warm_shutdown_request()

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> Any:
        """The next task, None when the worker is to stop.

        RQ waits without end. A SIGTERM that comes after a task, before RQ calls itself idle, would be forgotten there.
        """
        while not self._stopping.is_set():
            found = super().dequeue_job_and_maintain_ttl(timeout, max_idle_time or _LONGEST_WAIT)
            if found is not None or timeout is None or max_idle_time is not None:
                return found
        return None

    def execute_job(self, job: Any, queue: Any) -> None:
        """Does a task, and waits for those that were begun beside it."""
        super().execute_job(job, queue)
        self._floor.wait_until_free()

    def _task_of_others(self, namespaces: Collection[str]) -> Taken | None:
        """The next task of other namespaces than these, to be done in another thread."""
        if self._stopping.is_set():
            return None
        try:
            found = DoorbellQueue.dequeue_any(
                self.queues, None, self.connection, serializer=self.serializer, excepted=namespaces
            )
        except RedisError as error:
            log("no-look-at-others", level="warning", detail=str(error))
            return None
        if found is None:
            return None
        return str(found[0].meta.get("namespace", "")), lambda: SimpleWorker.execute_job(
            self, *found
        )

    def perform_job(self, job: Any, queue: Any, execution: Any) -> bool:
        """Runs a task of our table by name. Nothing that a payload names is ever imported."""
        try:
            self.prepare_job_execution(job, remove_from_intermediate_queue=True)
            job.started_at = now()
            task, arguments = self._admitted(job)
            ours = self._contract.covers(job, *arguments[:2])
            if ours:
                with (
                    self._floor.held(arguments[0]),
                    _Heartbeats(self, job, execution),
                    self._accounted(job),
                ):
                    task(*arguments)
            self._finalize_success(job, queue, execution, None)
            if not ours:
                self._contract.give_back(job)
        except Exception:
            log_exception("task-failed", task=job.id)
            self._finalize_failure(job, queue, execution, sys.exc_info())
            return False
        finally:
            self._afterwards()
        return True

    @contextmanager
    def _accounted(self, job: Any) -> Iterator[None]:
        """Every line of the task carries its id and the request it came from; so do its spans; its time is counted."""
        request_id, _, traceparent = str(job.meta.get("trace", "")).partition(" ")
        began = time.monotonic()
        name = job.func_name.rpartition(".")[2]
        outcome = "failed"
        with (
            self._tracing.span(name, parent=traceparent or None, task=job.id) as span,
            bound(task=job.id, request_id=request_id or None, traceparent=traceparent or None),
        ):
            log("task-began", function=job.func_name)
            try:
                yield
                outcome = "done"
            finally:
                seconds = time.monotonic() - began
                log("task-ended", seconds=round(seconds, 3))
                if outcome == "failed":
                    span.failed("the task raised")
                self._counters.add(
                    (counters.TASK, (name,), seconds), (counters.TASKS, (name, outcome), 1.0)
                )

    def _admitted(self, job: Any) -> tuple[Task, tuple[str, ...]]:
        callbacks = (
            job._success_callback_name,
            job._failure_callback_name,
            job._stopped_callback_name,
        )
        if any(callbacks):
            # They would run after this refusal, so they go first.
            job._success_callback_name = job._failure_callback_name = job._stopped_callback_name = (
                None
            )
            raise RefusedTask(f"task {job.id} carries callbacks")
        if job.func_name not in self._tasks or job.instance is not None or job.kwargs:
            raise RefusedTask(f"task {job.id} asks for {job.func_name!r}, which is not one of ours")
        arguments = tuple(job.args)
        expected = 3 if job.func_name == RUN_BLOCK else 2
        if len(arguments) != expected or not all(isinstance(each, str) for each in arguments):
            raise RefusedTask(f"task {job.id} has arguments that are not a namespace and an id")
        return self._tasks[job.func_name], arguments


class _Heartbeats:
    """RQ's registries believe a task abandoned that is not renewed; a thread renews it while it runs."""

    def __init__(self, worker: WarmWorker, job: Any, execution: Any) -> None:
        self._beat = lambda: worker.maintain_heartbeats(job, execution)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rq-heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(_HEARTBEAT_SECONDS):
            try:
                self._beat()
            except Exception as error:
                log("rq-heartbeat-failed", level="warning", detail=str(error))
