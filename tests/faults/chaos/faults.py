"""What is done to a running service, and undone at once or after a moment."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence

from service.local.background import Running

_GONE = (ProcessLookupError, KeyError, FileNotFoundError)


class Faults:
    """Kills, stops and cuts, one at a time, and counts them."""

    def __init__(
        self,
        service: Running,
        choice: random.Random,
        cancel: Callable[[], None],
        kinds: Sequence[str] = (),
    ) -> None:
        self._service, self._choice = service, choice
        self.made: Counter[str] = Counter()
        every: dict[str, Callable[[], None]] = {
            "worker killed": lambda: self._signal(self._a_worker(), signal.SIGKILL),
            "worker told to stop": lambda: self._signal(self._a_worker(), signal.SIGTERM),
            "worker stalled": lambda: self._stall(self._a_worker(), 3.5),
            "both workers killed": self._both,
            "Redis killed": lambda: self._signal("redis", signal.SIGKILL),
            "Redis stalled": lambda: self._stall("redis", self._choice.uniform(1.0, 7.0)),
            "front end killed": lambda: self._signal("front", signal.SIGKILL),
            "front end told to stop": lambda: self._signal("front", signal.SIGTERM),
            "upload cut": self._upload_cut,
            "job cancelled": cancel,
        }
        self._kinds = {name: every[name] for name in kinds or every}

    def one(self) -> str:
        """Something happens."""
        name = self._choice.choice(sorted(self._kinds))
        self._kinds[name]()
        self.made[name] += 1
        return name

    def _a_worker(self) -> str:
        return self._choice.choice(["worker-1", "worker-2"])

    def _both(self) -> None:
        for name in ("worker-1", "worker-2"):
            self._signal(name, signal.SIGKILL)

    def _signal(self, name: str, number: signal.Signals) -> None:
        try:
            os.kill(self._service.pid(name), number)
        except _GONE:
            return  # it is being started again

    def _stall(self, name: str, seconds: float) -> None:
        try:
            pid = self._service.pid(name)
            os.kill(pid, signal.SIGSTOP)
        except _GONE:
            return
        time.sleep(seconds)
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            return

    def _upload_cut(self) -> None:
        """A sender that says 4 MiB, and is gone after some of them."""
        content = self._choice.randbytes(1 << 22)
        digest = hashlib.sha256(content).hexdigest()
        host, port = self._service.url.removeprefix("http://").rsplit(":", 1)
        head = f"PUT /v1/blobs/sha256:{digest} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}\r\n\r\n"
        try:
            with socket.create_connection((host, int(port)), 5) as connection:
                connection.sendall(head.encode() + content[: self._choice.randrange(1 << 22)])
        except OSError:
            return
