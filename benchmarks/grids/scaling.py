"""One worker against two, and one task against 200 blocks: `python -m benchmarks.grids.scaling [--rows N --test M]`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.grids.subject import digests, register, request, seconds
from service.local.background import running
from upweight import Client

BLOCKS = 200
ONE_THREAD = {"UPWEIGHT_THREADS": "1", "OMP_NUM_THREADS": "1"}


def measured(workers: int, rows: int, test: int, *, alone: bool) -> dict[str, object]:
    """Seconds by the way of doing the job on so many workers, and the digests of its files."""
    cut = {"train_rows": -(-rows // BLOCKS), "test_rows": test, "rhs_rows": 64}
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), workers=workers, environment=ONE_THREAD) as service,
        Client(service.url, timeout=600) as client,
    ):
        register(client, rows)
        found: dict[str, object] = {}
        warm = request(64, spread=True, train_rows=2048, test_rows=64)
        warm["train"] = {"dataset": "digits", "rows": "0:4096"}
        client.jobs.wait(client.jobs.create(warm), progress=False)
        if alone:
            whole = request(test, spread=False, rhs_rows=64, test_rows=test)
            found["one task"] = seconds(client.jobs.wait(client.jobs.create(whole), progress=False))
        job = client.jobs.wait(
            client.jobs.create(request(test, spread=True, **cut)), progress=False
        )
        found["blocks"], found["digests"] = seconds(job), digests(client, job)
        return found


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--test", type=int, default=2_000)
    options = parser.parse_args()
    one = measured(1, options.rows, options.test, alone=True)
    two = measured(2, options.rows, options.test, alone=False)
    whole, single, double = (
        float(str(each)) for each in (one["one task"], one["blocks"], two["blocks"])
    )
    print(f"{options.rows} by {options.test}, 85,002 parameters, one thread a worker")
    print(
        f"one task {whole:.1f} s; {BLOCKS} blocks on one worker {single:.1f} s: {single / whole - 1:+.1%}"
    )
    print(f"two workers {double:.1f} s: {single / double:.2f} times faster")
    print(f"the same bytes in all {len(one['digests'])} files: {one['digests'] == two['digests']}")  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
