"""Watches over a task: renews its lease, reports its progress, and raises when it must stop.

The engine calls `progress` between any two batches; that is where a cancelled, overdue, lost or interrupted task ends.
A cancelled task that does not come by there soon, as one call into torch may take minutes, is ended from outside.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from service.lifecycle.states import LeaseLost
from service.logs import log
from service.storage.leases import Leases
from service.tracing import Stages
from upweight.errors import TimedOut, UpweightError

PASS = "hessian pass"  # the engine's stage inside one product with the Hessian
POLL_SECONDS = 0.25  # a cancelled job must free the device within 2 s
PATIENCE_SECONDS = 1.0  # with a task that was told of its cancel
WARM_SECONDS, WARM_SHARE = 30.0, 0.02  # from either on, a speed is that of the work itself


class Cancelled(Exception):
    """The user has cancelled the job, or deleted what is checked."""


class GivenBack(Exception):
    """The worker is stopping and gives the task back."""


@dataclass(frozen=True)
class _Reached:
    """How far a stage is; `inside` is how far the pass over the rows is that its next step takes, 0 to 1."""

    stage: str
    done: int
    total: int
    unit: str
    inside: float | None = None

    @property
    def complete(self) -> bool:
        return self.done >= self.total

    def document(self) -> dict[str, Any]:
        """As records have it."""
        found: dict[str, Any] = {"done": self.done, "total": self.total, "unit": self.unit}
        if self.inside is not None:
            found["fraction"] = round(min(1.0, (self.done + self.inside) / max(1, self.total)), 4)
        return found


class Watch:
    """One task under watch, as a context. A thread talks to Redis, so that the computation never waits for it."""

    def __init__(
        self,
        leases: Leases,
        id: str,
        holder: str,
        *,
        stopping: threading.Event,
        is_cancelled: Callable[[], bool],
        report: Callable[[dict[str, Any]], None],
        seconds: float,
        heartbeat_seconds: float,
        spent_seconds: float = 0.0,
        unanswered: Callable[[Callable[[], bool]], None] | None = None,
        give_way: Callable[[Callable[[], bool]], float] = lambda ends: 0.0,
    ) -> None:
        """`unanswered` ends a cancelled task that does not end by itself, and its process with it, unless what it is
        given says that the task has come to its end meanwhile. `give_way` lets other tasks go on between two batches,
        unless what it is given says that this one is to end; answers the seconds that took."""
        self._leases = leases
        self._id = id
        self._holder = holder
        self._stopping = stopping
        self._is_cancelled = is_cancelled
        self._report = report
        self._limit = seconds
        self._heartbeat = heartbeat_seconds
        self._give_way = give_way
        self._began = time.monotonic() - spent_seconds
        self._stage_began = time.monotonic()
        self._progress: _Reached | None = None
        self._verdict: Exception | None = None
        self._unanswered = unanswered
        self._told: float | None = None  # when the task was told of its cancel
        self._given_up = False
        self._waits = False  # for others, and computes nothing
        self._ending = threading.Lock()
        self.told: dict[
            str, Any
        ] = {}  # what the record shows beside stage and progress, as a whole
        self._stages = Stages()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stages.close()
        self._done.set()
        self._thread.join()
        if self._given_up and error is None:
            raise Cancelled

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        """Takes note of how far the task is, and raises what ends it."""
        self._waits = True
        try:
            waited = self._give_way(self._is_to_end)
        finally:
            self._waits = False
        self._began += waited
        self._stage_began += waited
        before = self._progress
        if stage == PASS and before is not None and before.stage != PASS and not before.complete:
            # Within one step of a solver.
            self._progress = replace(before, inside=done / max(1, total))
        else:
            self._stages.enter(stage)
            if before is None or before.stage != stage:
                self._stage_began = time.monotonic()
            self._progress = _Reached(stage, done, total, unit)
        self.checkpoint()

    def checkpoint(self) -> None:
        """Raises Cancelled, GivenBack, LeaseLost or TimedOut when the task must end."""
        self.heed()
        if time.monotonic() - self._began > self._limit:
            raise TimedOut(
                f"the job ran for its limit of {self._limit:g} s; give a larger timeout_s, fewer rows, "
                "or a cheaper method"
            )

    def heed(self) -> None:
        """As `checkpoint`, for what keeps time by itself. Raises Cancelled, GivenBack or LeaseLost."""
        if self._verdict is not None:
            raise self._verdict
        if self._stopping.is_set():
            raise GivenBack

    def _is_to_end(self) -> bool:
        return self._verdict is not None or self._stopping.is_set()

    def confirm(self) -> None:
        """As `checkpoint`, and asks Redis whether the task is still this worker's: before what can't be undone."""
        self.checkpoint()
        if self._is_cancelled():
            raise Cancelled

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Around what ends the job well: no cancel comes in between. Raises what `confirm` does."""
        with self._ending:
            self.confirm()
            yield

    def _run(self) -> None:
        reported: _Reached | None = None
        renewed = time.monotonic()
        while not self._done.wait(POLL_SECONDS):
            try:
                if time.monotonic() - renewed >= self._heartbeat:
                    self._renew()
                    renewed = time.monotonic()
                if self._is_cancelled():
                    self._verdict = Cancelled()
                    self._told = self._told or time.monotonic()
                    self._end_unanswered()
                reported = self._report_if_changed(reported)
            except LeaseLost as error:
                self._verdict = error
            except UpweightError as error:
                log("watch-blind", level="warning", record=self._id, detail=error.detail)

    def _end_unanswered(self) -> None:
        if (
            self._unanswered is None
            or self._told is None
            or time.monotonic() - self._told < PATIENCE_SECONDS
            or not self._ending.acquire(blocking=False)  # it is about to end
        ):
            return
        try:
            if self._waits:
                if not self._given_up:
                    self._given_up = True
                    self._unanswered(lambda: True)  # nothing is to be stopped
            elif not self._done.is_set():
                self._given_up = True
                self._unanswered(self._done.is_set)
        finally:
            self._ending.release()

    def _renew(self) -> None:
        # A lease that ran out while Redis was away, and that nobody has taken since, is taken again.
        if not self._leases.renew(self._id, self._holder) and not self._leases.take(
            self._id, self._holder
        ):
            self._verdict = LeaseLost(f"{self._id} was given to another worker")

    def _report_if_changed(self, reported: _Reached | None) -> _Reached | None:
        now = self._progress
        if now is not None and now != reported:
            self._report(
                {
                    "stage": now.stage,
                    "progress": now.document(),
                    "eta_seconds": self._eta(now.done + (now.inside or 0.0), now.total),
                    **self.told,
                }
            )
        return now

    def _eta(self, done: float, total: int) -> float | None:
        return time_left(time.monotonic() - self._stage_began, done, total - done)


def time_left(elapsed: float, gained: float, left: float) -> float | None:
    """Seconds for what is left, at the speed of what was gained; None while that is mostly loading and warming up."""
    if gained <= 0 or elapsed <= 0:
        return None
    if elapsed < WARM_SECONDS and gained < WARM_SHARE * (gained + left):
        return None
    return round(elapsed * left / gained, 1)
