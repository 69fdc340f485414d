"""What wrk measures, as a client sees it."""

from __future__ import annotations

import re
import shutil
import subprocess

UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def require_wrk() -> None:
    """Ends the run where it is not installed."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is needed: apt-get install wrk")


def asked(
    address: str, *options: str, threads: int, clients: int, seconds: int
) -> tuple[float, float, float]:
    """p50 and p99 in ms, requests a second. An answer other than 2xx ends the run."""
    sizes = [f"-t{threads}", f"-c{clients}", f"-d{seconds}s"]
    command = ["wrk", *sizes, "--latency", *options, address]
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
