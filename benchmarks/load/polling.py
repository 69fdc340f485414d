"""200 clients polling a job once a second and 20 listening to its events, while the worker computes."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import httpx2

from benchmarks.figures import told
from benchmarks.load.busy import busy

CLIENTS, STREAMS, SECONDS, RUNS = 200, 20, 10, 3
SCRIPT = Path(__file__).parent / "poll.lua"
UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


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
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is needed: apt-get install wrk")
    with busy() as (service, job):
        address = f"{service.url}/v1/jobs/{job.id}"
        listeners = [Listener(f"{address}/events") for _ in range(STREAMS)]
        for listener in listeners:
            listener.start()
        time.sleep(1)
        found = [_wrk(address, "-s", str(SCRIPT)) for _ in range(RUNS)]
        heard = [listener.events / (RUNS * SECONDS) for listener in listeners]
        flat_out = [_wrk(address) for _ in range(RUNS)]
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


def _wrk(address: str, *options: str) -> tuple[float, float, float]:
    """p50 and p99 in ms, requests a second. An answer other than 2xx ends the run."""
    command = ["wrk", "-t2", f"-c{CLIENTS}", f"-d{SECONDS}s", "--latency", *options, address]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(said)
    times = dict(re.findall(r"(50|99)%\s+([\d.]+(?:us|ms|s))", said))
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert rate is not None
    return _milliseconds(times["50"]), _milliseconds(times["99"]), float(rate.group(1))


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit]
