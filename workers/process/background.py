"""What a worker does beside its tasks: a thread that wakes now and then, and a turn that one worker has at a time."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from service.logs import log, log_exception
from service.storage.leases import Leases
from upweight.errors import UpweightError
from workers.process.context import Context

_SILENT_PAUSES = 2.5  # after so many without a word another worker takes over


class Background:
    """A daemon thread that calls `once` after each pause until `stopping` is set.

    What `once` raises is logged as `<name>-blind` (Redis or the object storage does not answer) or `<name>-failed`,
    and the thread goes on, after `pause_after_failure` seconds.
    """

    def __init__(
        self,
        name: str,
        once: Callable[[], object],
        stopping: threading.Event,
        pause_seconds: float,
        *,
        pause_after_failure: float | None = None,
        at_end: Callable[[], object] | None = None,
    ) -> None:
        """`at_end` is called once, when the worker stops."""
        self._name = name
        self._once = once
        self._stopping = stopping
        self._pause = pause_seconds
        self._pause_after_failure = pause_after_failure or pause_seconds
        self._at_end = at_end
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins with a pause."""
        self._thread.start()

    def _run(self) -> None:
        pause = self._pause
        while not self._stopping.wait(pause):
            pause = self._pause if self.attempt(self._once) else self._pause_after_failure
        if self._at_end is not None:
            self.attempt(self._at_end)

    def attempt(self, action: Callable[[], object]) -> bool:
        """Whether the action came to its end; what it raises is logged."""
        try:
            action()
        except UpweightError as error:
            log(f"{self._name}-blind", level="warning", detail=error.detail)
            return False
        except Exception:
            log_exception(f"{self._name}-failed")
            return False
        return True


class InTurn(ABC):
    """A thread of each worker, of which one sweeps: it holds a lease in Redis until it falls silent."""

    def __init__(self, name: str, turn: str, context: Context, pause: float) -> None:
        """`turn` is the lease's name; a sweep follows each pause of so many seconds."""
        self._leases = Leases(context.redis, pause * _SILENT_PAUSES)
        self._lease, self._holder = turn, context.name
        self._thread = Background(name, self._in_turn, context.stopping, pause)

    def start(self) -> None:
        """Begins to sweep, after a pause."""
        self._thread.start()

    @abstractmethod
    def sweep(self) -> None:
        """Looks once, or goes on with looking."""

    def _in_turn(self) -> None:
        lease = self._lease, self._holder
        if self._leases.renew(*lease) or self._leases.take(*lease):
            self.sweep()
