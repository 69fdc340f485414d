"""The service on this machine for as long as a block of code runs: for the demo and the tests."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from service.local.health import is_ready
from service.local.keeper import LONGEST_PAUSE
from service.local.process import Process
from service.local.state import State
from service.local.trouble import LocalTrouble
from service.local.watchdog import Watchdog

START_SECONDS = 150.0
STOP_SECONDS = 35.0


class Running:
    """A stack in the background, its addresses, and its processes by name: `redis`, `front`, `worker-1`, …"""

    def __init__(self, supervisor: Process, data: Path) -> None:
        self.supervisor = supervisor
        self.data = data
        first = self.state()
        self.url = first.url
        self.redis_url = first.redis_url
        self.storage = first.storage

    def state(self) -> State:
        """The process ids as they are now."""
        return State.read(self.data)

    def pid(self, name: str) -> int:
        """The process of that name, the latest after restarts."""
        return self.state().pids[name]

    def send(self, name: str, number: signal.Signals) -> int:
        """A signal to one process; its id. What a signal ends, the supervisor starts again."""
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def restart(
        self, name: str, number: signal.Signals = signal.SIGKILL, seconds: float = START_SECONDS
    ) -> int:
        """End a process, wait until the service is ready with another in its place; the new one's id."""
        old = self.send(name, number)
        self.wait(lambda: self.pid(name) != old, seconds, f"{name} was not started again")
        self.wait_until_ready(seconds)
        return self.pid(name)

    def wait_until_ready(self, seconds: float = START_SECONDS) -> None:
        """Until `/readyz` says so."""
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        self.wait(
            lambda: is_ready(host.strip("[]"), int(port)), seconds, "the service was not ready"
        )

    def wait(self, met: Callable[[], bool], seconds: float, otherwise: str) -> None:
        """Until something holds; LocalTrouble with those words when it does not in time."""
        deadline = time.monotonic() + seconds
        while not met():
            if not self.supervisor.running:
                raise LocalTrouble("The service has ended:\n" + "\n".join(self.supervisor.tail))
            if time.monotonic() > deadline:
                raise LocalTrouble(
                    f"{otherwise} within {seconds:.0f} s:\n" + "\n".join(self.supervisor.tail)
                )
            time.sleep(0.05)


@contextmanager
def running(
    data: Path,
    *,
    workers: int = 1,
    port: int = 0,
    environment: Mapping[str, str] | None = None,
    log: Callable[[str], None] | None = None,
    longest_pause: float = LONGEST_PAUSE,
) -> Iterator[Running]:
    """A ready stack with its data in one folder; it has ended, in order, when the block is left.

    `environment` comes on top of this process's own. Every line the processes write goes to `log`. Who kills them
    again and again chooses a short `longest_pause`, after which they are started again.
    """
    command = [sys.executable, "-m", "service.local", "--data-dir", str(data)]
    command += ["--port", str(port), "--workers", str(workers)]
    command += ["--longest-pause", str(longest_pause)]
    with Watchdog(grace_seconds=STOP_SECONDS) as watchdog:
        supervisor = Process(
            "local",
            command,
            watchdog=watchdog,
            environment=os.environ | (environment or {}),
            log=None if log is None else lambda name, line: log(line),
        )
        supervisor.start()
        try:
            wait_for_state(supervisor, data)
            yield Running(supervisor, data)
        finally:
            supervisor.stop(STOP_SECONDS)


def wait_for_state(supervisor: Process, data: Path) -> None:
    """Until the supervisor says that all is ready."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if State.read(data).ready and State.read(data).pid == supervisor.pid:
                return
        except FileNotFoundError:
            pass
        if not supervisor.running or time.monotonic() > deadline:
            supervisor.stop(STOP_SECONDS)
            raise LocalTrouble("The service did not start:\n" + "\n".join(supervisor.tail))
        time.sleep(0.02)
