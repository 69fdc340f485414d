"""The floor: one task computes, long ones give way to other namespaces, and each goes on as it was left."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection

import torch

from service.storage.queue import RUN_JOB, TaskQueue
from service.storage.redis import connect
from tests.patience import until
from workers.process.floor import SLICE_SECONDS, Floor, Taken
from workers.process.watch import GivenBack
from workers.process.worker import WarmWorker


class Worker:
    """A worker in this process whose tasks compute until something holds, each step a moment long."""

    def __init__(self, url: str, most: int) -> None:
        self.redis = connect(url)
        self.tasks = TaskQueue(self.redis, 100)
        self.floor = Floor(most)
        self.done: dict[str, Callable[[], bool]] = {}  # until when each computes; others one step
        self.turns: Counter[str] = Counter()  # how often each has gone on after others
        self.told: list[tuple[str, str]] = []  # what each did, in order
        self.computing = 0
        self.most_computing = 0
        self.worker = WarmWorker(
            ["high", "default"],
            self.redis,
            "bench",
            {RUN_JOB: self._run},
            threading.Event(),
            floor=self.floor,
        )

    @property
    def ended(self) -> list[str]:
        return [id for what, id in self.told if what == "ended"]

    def _run(self, namespace: str, id: str) -> None:
        self.told.append(("began", id))

        def step() -> bool:
            self.computing += 1
            self.most_computing = max(self.most_computing, self.computing)
            time.sleep(0.01)
            self.computing -= 1
            self.turns[id] += self.floor.give_way() > 0
            return self.done.get(id, lambda: True)()

        until(step, f"{id} came to no end")
        self.told.append(("ended", id))

    def work(self) -> None:
        self.worker.work(burst=True, logging_level="CRITICAL")


def test_a_long_task_gives_way_to_another_namespace_and_not_to_its_own(redis_url: str) -> None:
    worker = Worker(redis_url, most=3)
    worker.done["long"] = lambda: "short" in worker.ended
    worker.tasks.enqueue(RUN_JOB, "a", "long")
    worker.tasks.enqueue(RUN_JOB, "a", "own")
    worker.tasks.enqueue(RUN_JOB, "b", "short", priority="default")
    worker.work()
    assert worker.ended == ["short", "long", "own"]
    assert worker.most_computing == 1
    assert not list(worker.redis.scan_iter("rq:job:*"))


def test_long_tasks_of_several_namespaces_go_on_by_turns(redis_url: str) -> None:
    worker = Worker(redis_url, most=3)
    for name in "abc":
        worker.done[name] = lambda name=name: worker.turns[name] >= 2  # type: ignore[misc]
    for name in "abcd":
        worker.tasks.enqueue(RUN_JOB, name, name)
    worker.work()
    assert worker.ended == ["a", "b", "c", "d"]
    # Three are in hand before the first has ended, and the fourth is taken then.
    assert worker.told[:4] == [("began", "a"), ("began", "b"), ("began", "c"), ("ended", "a")]
    assert worker.most_computing == 1


def test_with_one_in_hand_nobody_gives_way(redis_url: str) -> None:
    worker = Worker(redis_url, most=1)
    end = time.monotonic() + 2 * SLICE_SECONDS
    worker.done["long"] = lambda: time.monotonic() > end
    worker.tasks.enqueue(RUN_JOB, "a", "long")
    worker.tasks.enqueue(RUN_JOB, "b", "short")
    worker.work()
    assert worker.ended == ["long", "short"]


def test_what_torch_keeps_for_the_process_is_as_the_task_left_it() -> None:
    floor = Floor(2)
    seen: list[tuple[str, str, int, bool]] = []

    def state(who: str) -> tuple[str, str, int, bool]:
        precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
        return who, precision, threads, torch.backends.cuda.flash_sdp_enabled()

    def other() -> None:
        seen.append(state("other"))
        torch.set_float32_matmul_precision("medium")
        torch.set_num_threads(3)

    def take(namespaces: Collection[str]) -> Taken | None:
        return None if seen else ("b", other)

    own = state("first")
    floor.take = take
    try:
        with floor.held("a"):
            torch.set_float32_matmul_precision("high")
            torch.set_num_threads(2)
            torch.backends.cuda.enable_flash_sdp(False)
            time.sleep(SLICE_SECONDS)
            assert floor.give_way() > 0
            assert state("first") == ("first", "high", 2, False)
    finally:
        torch.set_float32_matmul_precision(own[1])
        torch.set_num_threads(own[2])
        torch.backends.cuda.enable_flash_sdp(own[3])
    assert seen == [("other", *own[1:])]


def test_a_task_that_is_to_end_has_the_floor_next() -> None:
    floor = Floor(2)
    ending = threading.Event()
    order: list[str] = []

    def other() -> None:
        ending.set()
        floor.give_way()  # long before its time is up
        order.append("other")

    taken: list[Taken | None] = [("b", other)]
    floor.take = lambda namespaces: taken.pop() if taken else None
    with floor.held("a"):
        time.sleep(SLICE_SECONDS)
        floor.give_way(ending.is_set)
        order.append("the one that is to end")
    floor.wait_until_free()
    assert order == ["the one that is to end", "other"]


def test_tasks_that_wait_are_given_back_when_the_process_is_to_be_replaced() -> None:
    floor = Floor(2)
    given_back: list[str] = []

    def other() -> None:
        floor.vacate()
        given_back.append(f"{len(floor._places)} in hand")

    taken: list[Taken | None] = [("b", other)]
    floor.take = lambda namespaces: taken.pop() if taken else None
    with contextlib.suppress(GivenBack), floor.held("a"):
        time.sleep(SLICE_SECONDS)
        floor.give_way()
    floor.wait_until_free()
    assert given_back == ["1 in hand"]
