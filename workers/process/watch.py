"""Watches over a task: renews its lease, reports its progress, and raises when it must stop.

The engine calls `progress` between any two batches; that is where a cancelled, overdue, lost or interrupted task ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from service.jobs.states import LeaseLost
from service.logs import log
from service.storage.leases import Leases
from service.tracing import Stages
from upweight.errors import TimedOut, UpweightError

PASS = "hessian pass"  # the engine's stage inside one product with the Hessian
POLL_SECONDS = 0.25  # a cancelled job must free the device within 2 s


class Cancelled(Exception):
    """The user has cancelled the job."""


class GivenBack(Exception):
    """The worker is stopping and gives the task back."""


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
    ) -> None:
        self._leases = leases
        self._id = id
        self._holder = holder
        self._stopping = stopping
        self._is_cancelled = is_cancelled
        self._report = report
        self._limit = seconds
        self._heartbeat = heartbeat_seconds
        self._began = time.monotonic() - spent_seconds
        self._stage_began = time.monotonic()
        self._progress: tuple[str, int, int, str] | None = None
        self._verdict: Exception | None = None
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

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        """Takes note of how far the task is, and raises what ends it."""
        if stage == PASS:
            # Within one step of a solver: too fine to be reported, but a good moment to stop.
            self.checkpoint()
            return
        self._stages.enter(stage)
        before = self._progress
        if before is None or before[0] != stage:
            self._stage_began = time.monotonic()
        self._progress = (stage, done, total, unit)
        self.checkpoint()

    def checkpoint(self) -> None:
        """Raises Cancelled, GivenBack, LeaseLost or TimedOut when the task must end."""
        if self._verdict is not None:
            raise self._verdict
        if self._stopping.is_set():
            raise GivenBack
        if time.monotonic() - self._began > self._limit:
            raise TimedOut(
                f"the job ran for its limit of {self._limit:g} s; give a larger timeout_s, fewer rows, "
                "or a cheaper method"
            )

    def confirm(self) -> None:
        """As `checkpoint`, and asks Redis whether the task is still this worker's: before what can't be undone."""
        self.checkpoint()
        if self._is_cancelled():
            raise Cancelled

    def _run(self) -> None:
        reported: tuple[str, int, int, str] | None = None
        renewed = time.monotonic()
        while not self._done.wait(POLL_SECONDS):
            try:
                if time.monotonic() - renewed >= self._heartbeat:
                    self._renew()
                    renewed = time.monotonic()
                if self._is_cancelled():
                    self._verdict = Cancelled()
                reported = self._report_if_changed(reported)
            except LeaseLost as error:
                self._verdict = error
            except UpweightError as error:
                log("watch-blind", level="warning", record=self._id, detail=error.detail)

    def _renew(self) -> None:
        # A lease that ran out while Redis was away, and that nobody has taken since, is taken again.
        if not self._leases.renew(self._id, self._holder) and not self._leases.take(
            self._id, self._holder
        ):
            self._verdict = LeaseLost(f"{self._id} was given to another worker")

    def _report_if_changed(
        self, reported: tuple[str, int, int, str] | None
    ) -> tuple[str, int, int, str] | None:
        now = self._progress
        if now is not None and now != reported:
            stage, done, total, unit = now
            self._report(
                {
                    "stage": stage,
                    "progress": {"done": done, "total": total, "unit": unit},
                    "eta_seconds": self._eta(done, total),
                }
            )
        return now

    def _eta(self, done: int, total: int) -> float | None:
        if done <= 0:
            return None
        elapsed = time.monotonic() - self._stage_began
        return round(elapsed * (total - done) / done, 1)
