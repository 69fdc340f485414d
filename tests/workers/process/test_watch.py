"""Over a task at work: when it is told to stop, and what is told of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from service.lifecycle.states import LeaseLost
from service.storage.leases import Leases
from service.storage.redis import connect
from tests.patience import until
from upweight.errors import TimedOut
from workers.process.watch import (
    PATIENCE_SECONDS,
    POLL_SECONDS,
    Cancelled,
    GivenBack,
    Watch,
    time_left,
)

LEASE_SECONDS = 600.0  # none runs out by itself here


class Desk:
    def __init__(self, url: str) -> None:
        self.redis = connect(url)
        self.leases = Leases(self.redis, LEASE_SECONDS)
        self.leases.take("job", "me")
        self.stopping = threading.Event()
        self.cancelled = False
        self.told: list[dict[str, Any]] = []

        self.ended_from_outside: list[bool] = []  # whether the task had ended by then

    def watch(self, seconds: float = 600.0) -> Watch:
        return Watch(
            self.leases,
            "job",
            "me",
            stopping=self.stopping,
            is_cancelled=lambda: self.cancelled,
            report=self.told.append,
            seconds=seconds,
            heartbeat_seconds=0.1,
            unanswered=lambda has_ended: self.ended_from_outside.append(has_ended()),
        )

    def seconds_left(self) -> float:
        """Of the lease."""
        (name,) = self.redis.scan_iter("*:lease:job")
        return float(self.redis.pttl(name)) / 1000

    def shorten(self, seconds: float) -> None:
        """As if the lease had not been renewed for long."""
        (name,) = self.redis.scan_iter("*:lease:job")
        self.redis.pexpire(name, int(seconds * 1000))


@pytest.fixture
def desk(redis_url: str) -> Desk:
    return Desk(redis_url)


def never() -> bool:
    return False


def work(watch: Watch, done: Callable[[], object] = never) -> None:
    """Until that is so, or what watches over it ends it."""

    def step() -> object:
        watch.progress("solve", 3, 10, "rows")
        return done()

    with watch:
        until(step)


def test_the_lease_is_renewed_while_the_task_runs(desk: Desk) -> None:
    with desk.watch():
        for _ in range(3):
            desk.shorten(LEASE_SECONDS / 2)
            until(lambda: desk.seconds_left() > LEASE_SECONDS / 2)


def test_progress_is_told_with_the_time_left(desk: Desk) -> None:
    work(desk.watch(), lambda: desk.told)
    assert desk.told[0]["stage"] == "solve"
    assert desk.told[0]["progress"] == {"done": 3, "total": 10, "unit": "rows"}
    assert desk.told[0]["eta_seconds"] >= 0


@pytest.mark.parametrize(
    ("elapsed", "gained", "left", "told"),
    [
        (10.0, 0.001, 0.999, None),  # warming up: hours would be said of a job of seconds
        (10.0, 0.25, 0.75, 30.0),
        (60.0, 0.001, 0.999, 59_940.0),  # slow indeed
        (60.0, 0.0, 1.0, None),
    ],
)
def test_the_time_left_is_told_once_the_speed_is_known(
    elapsed: float, gained: float, left: float, told: float | None
) -> None:
    assert time_left(elapsed, gained, left) == told


def test_a_cancelled_task_ends_at_the_next_look_which_is_within_a_second(desk: Desk) -> None:
    assert POLL_SECONDS < 1
    desk.cancelled = True
    with pytest.raises(Cancelled):
        work(desk.watch())


def test_a_stopping_worker_gives_its_task_back(desk: Desk) -> None:
    desk.stopping.set()
    with pytest.raises(GivenBack):
        work(desk.watch())


def test_a_task_over_its_time_says_the_way_out(desk: Desk) -> None:
    with pytest.raises(TimedOut, match="timeout_s"):
        work(desk.watch(seconds=0.2))


def test_a_task_that_was_given_to_another_ends(desk: Desk) -> None:
    desk.leases.release("job", "me")
    desk.leases.take("job", "another")
    with pytest.raises(LeaseLost):
        work(desk.watch())


def test_a_lease_that_ran_out_unclaimed_is_taken_again(desk: Desk) -> None:
    desk.leases.release("job", "me")
    work(desk.watch(), lambda: desk.leases.held("job"))
    assert desk.leases.renew("job", "me")


def test_a_pass_is_no_stage_of_its_own_but_a_moment_to_stop(desk: Desk) -> None:
    with desk.watch() as watch:
        watch.progress("cg", 1, 10, "iterations")
        watch.progress("hessian pass", 5, 7, "rows")
        until(lambda: desk.told and "fraction" in desk.told[-1]["progress"])
        assert {told["stage"] for told in desk.told} == {"cg"}
        assert desk.told[-1]["progress"]["fraction"] == pytest.approx((1 + 5 / 7) / 10, abs=1e-4)
        desk.stopping.set()
        with pytest.raises(GivenBack):
            watch.progress("hessian pass", 6, 7, "rows")


def test_a_pass_after_a_stage_that_is_over_is_told_as_what_goes_on(desk: Desk) -> None:
    with desk.watch() as watch:
        watch.progress("plan", 1, 1, "plans")
        until(lambda: desk.told)
        watch.progress("hessian pass", 2, 7, "rows")
        until(lambda: len(desk.told) == 2)
        watch.progress("hessian pass", 5, 7, "rows")
        until(lambda: len(desk.told) == 3)
    assert [(told["stage"], told["progress"]["done"]) for told in desk.told] == [
        ("plan", 1),
        ("hessian pass", 2),
        ("hessian pass", 5),
    ]


def test_a_cancelled_task_that_does_not_come_by_is_ended_from_outside(desk: Desk) -> None:
    desk.cancelled = True
    with pytest.raises(Cancelled), desk.watch():
        until(lambda: desk.ended_from_outside)  # as a call into torch: nothing is asked meanwhile
    assert desk.ended_from_outside == [False]


def test_a_cancelled_task_that_comes_by_is_left_to_end_by_itself(desk: Desk) -> None:
    desk.cancelled = True
    with pytest.raises(Cancelled):
        work(desk.watch())
    assert desk.ended_from_outside == []


def test_a_task_that_is_about_to_end_well_is_not_ended_from_outside(desk: Desk) -> None:
    with desk.watch() as watch, watch.committing():
        desk.cancelled = True
        time.sleep(PATIENCE_SECONDS + 1.0)
    assert desk.ended_from_outside == []


def test_a_cancelled_task_does_not_end_well(desk: Desk) -> None:
    desk.cancelled = True
    with pytest.raises(Cancelled), desk.watch() as watch, watch.committing():
        raise AssertionError("it was cancelled before")
