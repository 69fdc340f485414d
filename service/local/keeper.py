"""Starts a process again when it has died, later each time that it dies young."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.local.process import Process

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0
OLD_ENOUGH = 60.0  # who lived that long starts with a clean slate


class Keeper:
    """One process and its restarts."""

    def __init__(
        self,
        process: Process,
        start: Callable[[], None] | None = None,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        self.process = process
        self._longest_pause = longest_pause
        self._start = start or process.start
        self._pause = FIRST_PAUSE
        self._started = 0.0
        self._again: float | None = None  # when to start it again

    def start(self) -> None:
        """Start it now."""
        self._again = None
        self._started = time.monotonic()
        self._start()

    def tend(self) -> str | None:
        """Start it again when it has died and its pause is over; what happened, in words, or None."""
        if self.process.running:
            return None
        now = time.monotonic()
        if self._again is None:
            self.process.wait(1.0)
            if now - self._started > OLD_ENOUGH:
                self._pause = FIRST_PAUSE
            self._again = now + self._pause
            words = f"ended with code {self.process.returncode}; again in {self._pause:g} s"
            self._pause = min(2 * self._pause, self._longest_pause)
            return words
        if now < self._again:
            return None
        self.start()
        return f"started again as process {self.process.pid}"
