"""The queue: order of priorities, nothing lost between queue and worker, a full queue says so."""

from __future__ import annotations

import pytest
from rq.exceptions import DequeueTimeout
from rq.serializers import JSONSerializer

from service.storage.leases import Leases
from service.storage.queue import RUN_JOB, DoorbellQueue, TaskQueue, queues
from service.storage.redis import connect
from tests.patience import until
from upweight.errors import QueueFull


def take(redis_url: str, names: list[str], timeout: int = 1) -> str:
    redis = connect(redis_url)
    found = DoorbellQueue.dequeue_any(
        queues(redis, names), timeout, redis, serializer=JSONSerializer
    )
    return str(found[0].id)


def test_the_high_queue_goes_first(redis_url: str) -> None:
    queue = TaskQueue(connect(redis_url), 100)
    for priority in ("low", "default", "high"):
        queue.enqueue(RUN_JOB, "a", priority, priority=priority)
    assert [take(redis_url, ["high", "default", "low"]) for _ in range(3)] == [
        "high-0",
        "default-0",
        "low-0",
    ]


def test_an_empty_queue_times_out_rather_than_ending_the_worker(redis_url: str) -> None:
    with pytest.raises(DequeueTimeout):
        take(redis_url, ["high", "default"])


def test_a_task_taken_by_a_worker_that_dies_at_once_is_still_in_redis(redis_url: str) -> None:
    redis = connect(redis_url)
    TaskQueue(redis, 100).enqueue(RUN_JOB, "a", "x")
    taken = take(redis_url, ["high", "default"])
    intermediate = queues(redis, ["default"])[0].intermediate_queue_key
    assert redis.lrange(intermediate, 0, -1) == [taken.encode()]


def test_payloads_are_json(redis_url: str) -> None:
    redis = connect(redis_url)
    TaskQueue(redis, 100).enqueue(RUN_JOB, "a", "x")
    data = redis.hget("rq:job:x-0", "data")
    assert data is not None
    import zlib

    assert JSONSerializer.loads(zlib.decompress(data))[0] == RUN_JOB


def test_a_full_queue_is_said_with_the_time_to_try_again(redis_url: str) -> None:
    queue = TaskQueue(connect(redis_url), 2)
    for name in ("x", "y"):
        queue.enqueue(RUN_JOB, "a", name)
    with pytest.raises(QueueFull) as caught:
        queue.refuse_if_full("default")
    assert caught.value.retry_after
    queue.refuse_if_full("high")


def test_position_counts_what_is_before(redis_url: str) -> None:
    queue = TaskQueue(connect(redis_url), 100)
    for name in ("x", "y"):
        queue.enqueue(RUN_JOB, "a", name)
    assert [queue.position(name, 0, "default") for name in ("x", "y", "z")] == [0, 1, None]
    queue.remove("x", 0, "default")
    assert queue.position("y", 0, "default") == 0
    assert queue.waiting() == {"y-0"}


def test_a_lease_is_one_holder_s_until_it_runs_out(redis_url: str) -> None:
    redis = connect(redis_url)
    leases = Leases(redis, 600.0)
    assert leases.take("job", "one")
    assert not leases.take("job", "two")
    assert not leases.renew("job", "two")
    assert leases.renew("job", "one")
    leases.release("job", "two")
    assert leases.held("job")
    (name,) = redis.scan_iter("*:lease:job")
    assert 500_000 < redis.pttl(name) <= 600_000
    redis.pexpire(name, 1)  # its time comes to an end
    until(lambda: not leases.held("job"))
    assert leases.take("job", "two")
