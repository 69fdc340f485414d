"""What a worker runs: our tasks by name, nothing else that a payload may ask for."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rq import Callback
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer

from service.storage.queue import RUN_JOB, DoorbellQueue, TaskQueue
from service.storage.redis import connect
from workers.process.worker import WarmWorker


class Bench:
    """A worker in this process, with one task that notes what it was given."""

    def __init__(self, url: str) -> None:
        self.redis = connect(url)
        self.ran: list[tuple[str, str]] = []
        tasks = {RUN_JOB: lambda namespace, id: self.ran.append((namespace, id))}
        self.stopping = threading.Event()
        self.worker = WarmWorker(["high", "default"], self.redis, "bench", tasks, self.stopping)
        self.queue = DoorbellQueue("default", connection=self.redis, serializer=JSONSerializer)

    def work(self) -> None:
        self.worker.work(burst=True, logging_level="CRITICAL")


@pytest.fixture
def bench(redis_url: str) -> Bench:
    return Bench(redis_url)


def test_our_task_runs_and_leaves_no_trace_in_redis(bench: Bench) -> None:
    TaskQueue(bench.redis, 10).enqueue(RUN_JOB, "ns", "job_x")
    bench.work()
    assert bench.ran == [("ns", "job_x")]
    assert not bench.redis.exists("rq:job:job_x-0")
    assert not bench.redis.exists(bench.queue.intermediate_queue_key)


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("subprocess.getoutput", ("touch {marker}",)),
        ("os.system", ("touch {marker}",)),
        ("pathlib.Path.touch", ("{marker}",)),
        ("builtins.exec", ("open('{marker}', 'w')",)),
    ],
)
def test_another_function_is_never_called(
    bench: Bench, tmp_path: Path, path: str, arguments: Any
) -> None:
    marker = tmp_path / "marker"
    bench.queue.enqueue_call(
        path, args=tuple(each.format(marker=marker) for each in arguments), job_id="evil"
    )
    bench.work()
    assert not marker.exists()
    assert bench.ran == []


@pytest.mark.parametrize("when", ["on_success", "on_failure"])
def test_callbacks_in_a_payload_are_never_called(bench: Bench, tmp_path: Path, when: str) -> None:
    import tests.workers.process.callbacks

    marker = tmp_path / "marker"
    tests.workers.process.callbacks.MARKER = marker
    function = RUN_JOB if when == "on_success" else "os.getpid"
    options: dict[str, Any] = {when: Callback("tests.workers.process.callbacks.mark")}
    bench.queue.enqueue(function, args=("ns", "x"), job_id="evil", **options)
    bench.work()
    assert not marker.exists()
    assert bench.ran == []


@pytest.mark.parametrize("arguments", [(), ("ns",), ("ns", 3), ("ns", "x", "y"), ("ns", {"a": 1})])
def test_wrong_arguments_are_refused_and_the_worker_goes_on(bench: Bench, arguments: Any) -> None:
    bench.queue.enqueue_call(RUN_JOB, args=arguments, job_id="odd")
    TaskQueue(bench.redis, 10).enqueue(RUN_JOB, "ns", "job_y")
    bench.work()
    assert bench.ran == [("ns", "job_y")]


def test_a_pickled_payload_is_never_opened(bench: Bench, tmp_path: Path) -> None:
    import pickle
    import zlib

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "marker",))

    TaskQueue(bench.redis, 10).enqueue(RUN_JOB, "ns", "job_x")
    bench.redis.hset("rq:job:job_x-0", "data", zlib.compress(pickle.dumps(Evil())))
    bench.work()
    assert not (tmp_path / "marker").exists()
    assert bench.ran == []


def test_the_log_of_a_task_carries_the_request_it_came_from(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    TaskQueue(bench.redis, 10).enqueue(RUN_JOB, "ns", "job_x", trace="req-7 00-abc-def-01")
    with caplog.at_level("INFO", logger="upweight.service"):
        bench.work()
    lines = {
        record.getMessage(): record.fields for record in caplog.records if hasattr(record, "fields")
    }
    for event in ("task-began", "task-ended"):
        assert lines[event]["task"] == "job_x-0"
        assert lines[event]["request_id"] == "req-7"
        assert lines[event]["traceparent"] == "00-abc-def-01"


@pytest.fixture
def handlers() -> Iterator[None]:
    """A worker at work replaces them."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.usefixtures("handlers")
def test_a_stop_whose_exception_is_lost_ends_the_worker_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ's is raised wherever the signal finds the program, also where what is raised is passed over."""
    set_state, told = bench.worker.set_state, []

    def signalled(state: Any, pipeline: Any = None) -> None:
        set_state(state, pipeline)
        if bench.ran and not told:
            told.append(state)
            with suppress(StopRequested):
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(bench.worker, "set_state", signalled)
    TaskQueue(bench.redis, 10).enqueue(RUN_JOB, "ns", "job_x")
    force = threading.Timer(20, os.kill, (os.getpid(), signal.SIGTERM))
    force.start()
    bench.worker.work(logging_level="CRITICAL")
    force.cancel()
    assert told
    assert bench.stopping.is_set()
    assert bench.ran == [("ns", "job_x")]
