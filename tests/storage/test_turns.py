"""Turns among namespaces: nobody waits for all that another has asked for, and nothing is lost on the way."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from rq import Queue
from rq.serializers import JSONSerializer

from service.storage.queue import (
    CHECK_DATASET,
    EVERY,
    RUN_JOB,
    DoorbellQueue,
    TaskQueue,
    queues,
)
from service.storage.redis import connect

LISTENED = ["high", "default", "low"]


@pytest.fixture
def redis(redis_url: str) -> Any:
    return connect(redis_url)


@pytest.fixture
def queue(redis: Any) -> TaskQueue:
    return TaskQueue(redis, 100_000)


def taken(redis: Any, count: int, names: list[str] | None = None, **choices: Any) -> list[str]:
    """The ids of the next tasks, as a worker gets them."""
    found = [
        DoorbellQueue.dequeue_any(
            queues(redis, names or LISTENED), None, redis, serializer=JSONSerializer, **choices
        )
        for _ in range(count)
    ]
    return [each[0].id for each in found if each is not None]


def who(ids: list[str]) -> str:
    return "".join(id[0] for id in ids)


def fill(queue: TaskQueue, namespace: str, count: int, **choices: Any) -> None:
    for number in range(count):
        queue.enqueue(RUN_JOB, namespace, f"{namespace}{number}", **choices)


def test_a_namespace_comes_next_however_much_another_has_waiting(
    redis: Any, queue: TaskQueue
) -> None:
    fill(queue, "a", 300)
    taken(redis, 5)
    fill(queue, "b", 2)
    assert who(taken(redis, 6)) == "bababa"[:4] + "aa"


def test_checks_of_one_leave_a_job_of_another_its_turn(redis: Any, queue: TaskQueue) -> None:
    for number in range(300):
        queue.enqueue(CHECK_DATASET, "a", f"a{number}", priority="high")
    taken(redis, 8)
    queue.enqueue(RUN_JOB, "b", "b")
    assert taken(redis, 1) == ["b-0"]


def test_tasks_of_one_namespace_stay_in_their_order(redis: Any, queue: TaskQueue) -> None:
    fill(queue, "a", 5)
    assert taken(redis, 9) == [f"a{number}-0" for number in range(5)]


def test_many_namespaces_get_the_same(redis: Any, queue: TaskQueue) -> None:
    for name in "abcde":
        fill(queue, name, 40)
    counts = Counter(who(taken(redis, 100)))
    assert set(counts.values()) == {20}


def test_one_that_comes_again_and_again_gets_no_more_than_its_turn(
    redis: Any, queue: TaskQueue
) -> None:
    fill(queue, "a", 50)
    fill(queue, "c", 50)
    found = ""
    for number in range(60):
        if "b" in found[-1:] or number == 0:
            queue.enqueue(RUN_JOB, "b", f"b{number}")
        found += who(taken(redis, 1))
    assert max(Counter(found).values()) <= 20


def test_a_higher_priority_of_another_goes_first(redis: Any, queue: TaskQueue) -> None:
    fill(queue, "a", 3, priority="low")
    fill(queue, "b", 3)
    fill(queue, "c", 3, priority="high")
    assert who(taken(redis, 9)) == "cccbbbaaa"


def test_a_flood_of_high_priority_takes_no_more_than_half_of_the_turns(
    redis: Any, queue: TaskQueue
) -> None:
    fill(queue, "a", 100, priority="high")
    fill(queue, "b", 100)
    taken(redis, 10)
    assert Counter(who(taken(redis, 80))) == {"a": 40, "b": 40}


def test_a_low_priority_is_not_kept_waiting_for_ever(redis: Any, queue: TaskQueue) -> None:
    fill(queue, "a", 100)
    queue.enqueue(RUN_JOB, "b", "b", priority="low")
    assert "b" in who(taken(redis, 8))


def test_jobs_of_one_namespace_take_turns_block_by_block(redis: Any, queue: TaskQueue) -> None:
    for job in ("x", "y"):
        queue.enqueue_blocks("a", job, [f"solve-{number}" for number in range(3)])
    queue.enqueue_blocks("b", "z", ["solve-0"])
    queue.enqueue_blocks("a", "y", ["solve-9"], first=True)
    found = [id.rpartition("-")[0] for id in taken(redis, 20)]
    assert [id for id in found if id[0] != "z"] == [
        *("x-solve-0", "y-solve-9", "x-solve-1", "y-solve-0"),
        *("x-solve-2", "y-solve-1", "y-solve-2"),
    ]
    assert "z-solve-0" in found[:2]


def test_blocks_of_a_job_are_dropped_together(redis: Any, queue: TaskQueue) -> None:
    for job in ("x", "y"):
        queue.enqueue_blocks("a", job, [f"solve-{number}" for number in range(2_500)])
    queue.drop_blocks("x", "default")
    assert {job for job, _ in queue.blocks_waiting("default")} == {"y"}
    assert queue.lengths()["default"] == 2_500
    assert len(list(redis.scan_iter("rq:job:*", count=10_000))) == 2_500
    queue.drop_blocks("y", "default")
    assert list(redis.scan_iter("rq:queue:*")) == []


def test_what_is_put_twice_waits_once(redis: Any, queue: TaskQueue) -> None:
    for _ in range(3):
        queue.enqueue(RUN_JOB, "a", "x")
    assert queue.lengths()["default"] == 1
    assert taken(redis, 3) == ["x-0"]


def test_a_namespace_that_is_excepted_is_passed_over(redis: Any, queue: TaskQueue) -> None:
    fill(queue, "a", 3, priority="high")
    fill(queue, "b", 1)
    assert taken(redis, 3, excepted=["a"]) == ["b0-0"]
    assert queue.lengths()["high"] == 3


def test_a_worker_takes_only_from_the_queues_it_listens_to(redis: Any, queue: TaskQueue) -> None:
    fill(queue, "a", 1, priority="high")
    fill(queue, "b", 1, priority="low")
    assert taken(redis, 2, ["low"]) == ["b0-0"]
    assert queue.waiting() == {"a0-0"}


def test_a_place_in_the_queue_counts_the_turns_of_others(redis: Any, queue: TaskQueue) -> None:
    fill(queue, "a", 10)
    fill(queue, "b", 2)
    assert queue.position("b0", 0, "default") in (0, 1)
    assert queue.position("b1", 0, "default") in (2, 3)
    assert queue.position("a9", 0, "default") == 11
    order = taken(redis, 12)
    assert order.index("b1-0") in (2, 3)
    assert order.index("a9-0") == 11


def test_tasks_of_an_earlier_version_are_found_and_done_first(redis: Any, queue: TaskQueue) -> None:
    """As they wait in a data folder that is upgraded: in a plain list, their namespace in the arguments alone."""
    fill(queue, "a", 2)
    before = Queue("default", connection=redis, serializer=JSONSerializer)
    blocks = Queue("default-blocks", connection=redis, serializer=JSONSerializer)
    for number in range(3):
        before.enqueue_call(RUN_JOB, args=("z", f"old{number}"), job_id=f"old{number}-0")
        blocks.enqueue_call(RUN_JOB, args=("z", "job"), job_id=f"job-solve-{number}-abc")
    assert queue.lengths()["default"] == 8
    assert queue.waiting() == {"a0-0", "a1-0", "old0-0", "old1-0", "old2-0"}
    assert [queue.position(f"old{number}", 0, "default") for number in range(4)] == [0, 1, 2, None]
    assert queue.position("a0", 0, "default") == 3
    assert queue.oldest()["default"] > 0
    queue.remove("old1", 0, "default")
    queue.drop_blocks("job", "default")
    assert taken(redis, 9) == ["old0-0", "old2-0", "a0-0", "a1-0"]


def test_nothing_is_lost_or_left_behind_whatever_is_done_in_whatever_order(
    redis: Any, queue: TaskQueue
) -> None:
    random.seed(7)
    waiting: set[str] = set()
    for number in range(400):
        name, priority = random.choice("abc"), random.choice(LISTENED)
        match random.randrange(4):
            case 0:
                queue.enqueue(RUN_JOB, name, f"{name}{number}", priority=priority)
                waiting.add(f"{name}{number}-0")
            case 1:
                queue.enqueue_blocks(name, f"{name}{number}", ["solve-0"], priority=priority)
            case 2:
                waiting -= set(taken(redis, 1))
            case 3 if waiting:
                id = random.choice(sorted(waiting))
                for each in LISTENED:
                    queue.remove(id.removesuffix("-0"), 0, each)
                waiting.discard(id)
        assert queue.waiting() == waiting
    blocks = sum(len(queue.blocks_waiting(each)) for each in LISTENED)
    assert sum(queue.lengths().values()) == len(waiting) + blocks
    assert len(taken(redis, 5_000)) == len(waiting) + blocks
    left = {key.decode() for key in redis.scan_iter("rq:queue:*")}
    assert left <= {f"rq:queue:{name}:intermediate" for name in EVERY}
