"""What is done to a running service, and undone at once or after a moment."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from service.local.background import Running
from tests.faults.cutting_proxy import CuttingProxy

_GONE = (ProcessLookupError, KeyError, FileNotFoundError)


class Faults:
    """Kills, stops and cuts, one at a time, and counts them. Each kind comes before any comes again."""

    def __init__(
        self,
        service: Running,
        storage: CuttingProxy,
        choice: random.Random,
        actions: Mapping[str, Callable[[], None]],
        key: str,
        kinds: Sequence[str] = (),
    ) -> None:
        """`actions` are what users do; `key` is that of one of them."""
        self._service, self._storage, self._choice, self._key = service, storage, choice, key
        self.made: Counter[str] = Counter()
        every: dict[str, Callable[[], None]] = {
            "worker killed": lambda: self._signal(self._a_worker(), signal.SIGKILL),
            "worker told to stop": lambda: self._signal(self._a_worker(), signal.SIGTERM),
            "worker stalled": lambda: self._stall(self._a_worker(), 4.5),
            "both workers killed": self._both,
            "Redis killed": lambda: self._signal("redis", signal.SIGKILL),
            "Redis stalled": lambda: self._stall("redis", self._choice.uniform(1.0, 7.0)),
            "front end killed": lambda: self._signal("front", signal.SIGKILL),
            "front end told to stop": lambda: self._signal("front", signal.SIGTERM),
            "storage away for seconds": self._storage_away,
            "storage connections reset": self._storage_reset,
            "upload cut": self._upload_cut,
            **actions,
        }
        self.kinds = {name: every[name] for name in kinds or every}
        self._next: list[str] = []
        self._outage: threading.Thread | None = None

    def one(self) -> str:
        """Something happens."""
        if not self._next:
            self._next = self._choice.sample(sorted(self.kinds), len(self.kinds))
        name = self._next.pop()
        self.kinds[name]()
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

    def _storage_away(self) -> None:
        """For longer than the front end is patient, now and then, and never as long as a worker is.

        Jobs are sent and other faults made meanwhile.
        """
        self.end()
        self._outage = threading.Thread(target=self._away, args=(self._choice.uniform(1.0, 12.0),))
        self._outage.start()

    def _away(self, seconds: float) -> None:
        with self._storage.away():
            time.sleep(seconds)

    def end(self) -> None:
        """Nothing more happens to the storage from now on."""
        if self._outage is not None:
            self._outage.join()
        self._storage.to_reset = self._storage.answers_to_reset = 0

    def _storage_reset(self) -> None:
        """The next connections break: some with the request on its way, some with the answer, when all is done."""
        self._storage.to_reset = self._choice.randint(1, 6)
        self._storage.answers_to_reset = self._choice.randint(1, 6)

    def _upload_cut(self) -> None:
        """A sender that says 4 MiB, and is gone after some of them."""
        content = self._choice.randbytes(1 << 22)
        digest = hashlib.sha256(content).hexdigest()
        host, port = self._service.url.removeprefix("http://").rsplit(":", 1)
        head = (
            f"PUT /v1/blobs/sha256:{digest} HTTP/1.1\r\nHost: {host}\r\n"
            f"Authorization: Bearer {self._key}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        try:
            with socket.create_connection((host, int(port)), 5) as connection:
                connection.sendall(head.encode() + content[: self._choice.randrange(1 << 22)])
        except OSError:
            return
