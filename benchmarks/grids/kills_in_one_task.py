"""SIGKILL of the worker of a small job at each of its stages, again and again.

python -m benchmarks.grids.kills_in_one_task [--times 10] [--point storing]

The job is the one of the tests under fault, in one task: three network layers, direct inversion, all of it kept.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from service.local.background import running
from tests.faults.conftest import SHORT
from tests.faults.dying_worker import POINTS, dying_at, wait_until_dead
from tests.faults.grids import GridJobs
from upweight import Client
from upweight.schema import JobState

JOB = {
    "inversion": {"method": "direct"},
    "keep": {"matrix": True, "top": 5, "mean": True, "factors": True},
}


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--point", choices=POINTS, action="append", help="this one; all otherwise")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), environment=SHORT) as service,
        Client(service.url) as client,
    ):
        jobs = GridJobs(service, client)
        calm = jobs.digests(jobs.start(spread=False, **JOB))
        for point in options.point or POINTS:
            print(f"{point:<9} {told(jobs, point, options.times, calm)}", flush=True)


def told(jobs: GridJobs, point: str, times: int, calm: object) -> str:
    """What came of so many kills at one point."""
    found: Counter[str] = Counter()
    longest = 0.0
    for _ in range(times):
        jobs.service.wait_until_ready()
        with dying_at(jobs.service, [point]) as workers:
            job = jobs.start(spread=False, **JOB)
            wait_until_dead(workers)
        found["killed"] += 1
        began = time.monotonic()
        done = jobs.ended(job, 120.0)
        longest = max(longest, time.monotonic() - began)
        found["succeeded"] += done.state is JobState.SUCCEEDED
        found["in the second attempt"] += done.attempt == 2
        found["same bytes"] += jobs.digests(job) == calm
    words = ", ".join(f"{name} {found[name]}" for name in (
        "killed", "succeeded", "in the second attempt", "same bytes"
    ))  # fmt: skip
    return f"of {times}: {words}; longest to the end {longest:.1f} s"


if __name__ == "__main__":
    main()
