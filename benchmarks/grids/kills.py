"""SIGKILL of a worker in each stage, again and again: `python -m benchmarks.grids.kills [--times 10]`.

The job is the one of the tests under fault: three network layers, direct inversion, 30 blocks, two workers.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from service.local.background import running
from tests.faults.conftest import SHORT
from tests.faults.grids import GridJobs
from upweight import Client
from upweight.schema import JobState

STAGES = ("sums", "fit", "solve", "contract", "predict", "finish")
JOB = {"inversion": {"method": "direct"}, "keep": {"matrix": True, "top": 5, "mean": True}}
LONGEST_PAUSE = 0.01  # seconds between catching a block and the signal, at random


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args().times
    with (
        tempfile.TemporaryDirectory() as folder,
        (Path(folder) / "log").open("w", buffering=1) as log,
    ):
        stack = running(
            Path(folder), workers=2, environment=SHORT, log=lambda line: print(line, file=log)
        )
        with stack as service, Client(service.url) as client:
            jobs = GridJobs(service, client)
            calm = jobs.digests(jobs.start(spread=False, **JOB))
            for stage in STAGES:
                print(f"{stage:<9} {told(jobs, stage, times, calm)}", flush=True)


def told(jobs: GridJobs, stage: str, times: int, calm: object) -> str:
    """What came of so many kills in one stage."""
    found: Counter[str] = Counter()
    longest = 0.0
    for _ in range(times):
        jobs.service.wait_until_ready()
        job = jobs.start(spread=True, **JOB)
        pid = jobs.caught(job, stage)
        time.sleep(random.uniform(0.0, LONGEST_PAUSE))
        if pid:
            os.kill(pid, signal.SIGKILL)
            found["killed"] += 1
        began = time.monotonic()
        done = jobs.ended(job, 120.0)
        longest = max(longest, time.monotonic() - began)
        found["succeeded"] += done.state is JobState.SUCCEEDED
        found["same bytes"] += jobs.digests(job) == calm
        again = [count for count in jobs.computed(job).values() if count > 1]
        found["computed twice"] += len(again)
        found["more than the one in hand"] += len(again) > 1 or any(count > 2 for count in again)
    words = ", ".join(f"{name} {found[name]}" for name in (
        "killed", "succeeded", "same bytes", "computed twice", "more than the one in hand"
    ))  # fmt: skip
    return f"of {times}: {words}; longest to the end {longest:.1f} s"


if __name__ == "__main__":
    main()
