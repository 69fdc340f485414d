"""Over a task at work: when it is told to stop, and what is told of it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from service.jobs.states import LeaseLost
from service.storage.leases import Leases
from service.storage.redis import connect
from upweight.errors import TimedOut
from workers.process.watch import Cancelled, GivenBack, Watch


class Desk:
    def __init__(self, url: str) -> None:
        self.leases = Leases(connect(url), 0.5)
        self.leases.take("job", "me")
        self.stopping = threading.Event()
        self.cancelled = False
        self.told: list[dict[str, Any]] = []

    def watch(self, seconds: float = 60.0) -> Watch:
        return Watch(
            self.leases,
            "job",
            "me",
            stopping=self.stopping,
            is_cancelled=lambda: self.cancelled,
            report=self.told.append,
            seconds=seconds,
            heartbeat_seconds=0.1,
        )


@pytest.fixture
def desk(redis_url: str) -> Desk:
    return Desk(redis_url)


def work(watch: Watch, seconds: float) -> None:
    with watch:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            watch.progress("solve", 3, 10, "rows")
            time.sleep(0.02)


def test_the_lease_is_renewed_while_the_task_runs(desk: Desk) -> None:
    work(desk.watch(), 1.2)
    assert desk.leases.held("job")


def test_progress_is_told_with_the_time_left(desk: Desk) -> None:
    work(desk.watch(), 0.6)
    assert desk.told[0]["stage"] == "solve"
    assert desk.told[0]["progress"] == {"done": 3, "total": 10, "unit": "rows"}
    assert desk.told[0]["eta_seconds"] >= 0


def test_a_cancelled_task_ends_within_a_second(desk: Desk) -> None:
    desk.cancelled = True
    began = time.monotonic()
    with pytest.raises(Cancelled):
        work(desk.watch(), 5)
    assert time.monotonic() - began < 1.0


def test_a_stopping_worker_gives_its_task_back(desk: Desk) -> None:
    desk.stopping.set()
    with pytest.raises(GivenBack):
        work(desk.watch(), 5)


def test_a_task_over_its_time_says_the_way_out(desk: Desk) -> None:
    with pytest.raises(TimedOut, match="timeout_s"):
        work(desk.watch(seconds=0.2), 5)


def test_a_task_that_was_given_to_another_ends(desk: Desk) -> None:
    desk.leases.release("job", "me")
    desk.leases.take("job", "another")
    with pytest.raises(LeaseLost):
        work(desk.watch(), 0.45)


def test_a_lease_that_ran_out_unclaimed_is_taken_again(desk: Desk) -> None:
    desk.leases.release("job", "me")
    work(desk.watch(), 0.6)
    assert desk.leases.renew("job", "me")


def test_a_pass_is_no_stage_of_its_own_but_a_moment_to_stop(desk: Desk) -> None:
    with desk.watch() as watch:
        watch.progress("cg", 1, 10, "iterations")
        watch.progress("hessian pass", 5, 7, "rows")
        time.sleep(0.6)
        assert [told["stage"] for told in desk.told] == ["cg"]
        desk.stopping.set()
        with pytest.raises(GivenBack):
            watch.progress("hessian pass", 6, 7, "rows")
