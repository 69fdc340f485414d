"""One program as a process of its own: started, listened to, ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from threading import Thread
from typing import IO

from service.local.watchdog import Watchdog

Log = Callable[[str, str], None]
"""Takes the name of a process and one line that it wrote."""


class Process:
    """A program that may be started again after it has ended.

    It leads its own session, so a terminal's Ctrl-C reaches the supervisor alone and things stop in order.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        watchdog: Watchdog,
        environment: Mapping[str, str] | None = None,
        log: Log | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.tail: deque[str] = deque(maxlen=30)  # its last words, for the message when it dies
        self._environment = dict(environment if environment is not None else os.environ)
        self._watchdog = watchdog
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: Thread | None = None

    @property
    def pid(self) -> int:
        """Of the running process; asking one that never ran is a mistake."""
        if self._process is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs, and before."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        """Whether it has been started and not ended since."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, under guard."""
        self.tail.clear()
        self._process = subprocess.Popen(
            self.command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._watchdog.guard(self._process.pid)
        assert self._process.stdout is not None
        self._listener = Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    def send(self, number: signal.Signals) -> None:
        """A signal to the process, if there still is one."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Whether it ended in that time; then all it wrote has been read, and the guard knows."""
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._watchdog.release(self._process.pid)
        if (
            self._listener is not None
        ):  # a grandchild may hold the pipe open: no wait without an end
            self._listener.join(1.0)
        return True

    def stop(self, seconds: float) -> None:
        """SIGTERM, and SIGKILL for the whole group when that much time did not do."""
        self.send(signal.SIGTERM)
        if not self.wait(seconds):
            self.kill()

    def kill(self) -> None:
        """SIGKILL for the process and whatever it started."""
        if self._process is None:
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self.wait(5.0)

    def _listen(self, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip()
                self.tail.append(line)
                if self._log is not None:
                    self._log(self.name, line)
