"""200 clients polling a job once a second and 20 listening to its events, while the worker computes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx2

from benchmarks.figures import told
from benchmarks.load.busy import busy
from benchmarks.load.wrk import asked, require_wrk

CLIENTS, STREAMS, SECONDS, RUNS = 200, 20, 10, 3
LOAD = {"threads": 2, "clients": CLIENTS, "seconds": SECONDS}
SCRIPT = Path(__file__).parent / "poll.lua"


class Listener(threading.Thread):
    """One client of a job's events."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.events = 0

    def run(self) -> None:
        """Counts events until the service ends."""
        try:
            with (
                httpx2.Client(timeout=60, trust_env=False) as http,
                http.stream("GET", self._url) as answer,
            ):
                for line in answer.iter_lines():
                    self.events += line.startswith("event:")
        except httpx2.HTTPError:
            return


def main() -> None:
    """Prints the figures."""
    require_wrk()
    with busy() as (service, job):
        address = f"{service.url}/v1/jobs/{job.id}"
        listeners = [Listener(f"{address}/events") for _ in range(STREAMS)]
        for listener in listeners:
            listener.start()
        time.sleep(1)
        found = [asked(address, "-s", str(SCRIPT), **LOAD) for _ in range(RUNS)]
        heard = [listener.events / (RUNS * SECONDS) for listener in listeners]
        flat_out = [asked(address, **LOAD) for _ in range(RUNS)]
    told(f"{CLIENTS} clients polling once a second: p50", [each[0] for each in found], "ms")
    told(
        f"{CLIENTS} clients polling once a second: p99",
        [each[1] for each in found],
        "ms",
        "below 100",
    )
    told(f"{CLIENTS} clients polling once a second: requests", [each[2] for each in found], "/s")
    told(f"{STREAMS} streams beside them: events each", heard, "/s")
    told(f"{CLIENTS} clients without a pause: p99", [each[1] for each in flat_out], "ms")
    told(f"{CLIENTS} clients without a pause: requests", [each[2] for each in flat_out], "/s")
