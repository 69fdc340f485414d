"""One worker against two, and one task against 200 blocks.

`python -m benchmarks.grids.scaling [--part workers|blocks] [--rounds 3] [--rows N --test M]`; a round of a part does
its two ways one after the other, so that what the machine does besides meets both. At 50,000 by 2,000 a round of
`workers` computes for some 5 minutes, one of `blocks` for some 7.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.grids.subject import digests, register, request, seconds
from service.local.background import running
from upweight import Client

BLOCKS = 200
ONE_THREAD = {"UPWEIGHT_THREADS": "1", "OMP_NUM_THREADS": "1"}
Done = tuple[float, Mapping[str, str | None]]  # seconds, and the digest of each file
Ways = Mapping[str, Callable[[], Done]]


@contextmanager
def service(workers: int, rows: int) -> Iterator[Client]:
    """So many workers, with the data registered and blocks of a small job done."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), workers=workers, environment=ONE_THREAD) as stack,
        Client(stack.url, timeout=600) as client,
    ):
        register(client, rows)
        warm = request(64, spread=True, train_rows=2048, test_rows=64)
        warm["train"] = {"dataset": "digits", "rows": "0:4096"}
        client.jobs.wait(client.jobs.create(warm), progress=False)
        yield client


def done(client: Client, rows: int, test: int, *, spread: bool) -> Done:
    """The job, cut in the same way whether it is spread or not."""
    cut = {"train_rows": -(-rows // BLOCKS), "test_rows": test, "rhs_rows": 64}
    job = client.jobs.wait(client.jobs.create(request(test, spread=spread, **cut)), progress=False)
    found = seconds(job), digests(client, job)
    client.jobs.delete(job.id)  # so that rounds do not fill the disk
    return found


def workers(rows: int, test: int, rounds: int) -> None:
    """200 blocks by one worker and by two, each with one thread."""

    def on(count: int) -> Done:
        with service(count, rows) as client:
            return done(client, rows, test, spread=True)

    times = measured({"one worker": lambda: on(1), "two workers": lambda: on(2)}, rounds)
    told("two workers: times faster", [a / b for a, b in zip(*times, strict=True)], "{:.2f}")


def blocks(rows: int, test: int, rounds: int) -> None:
    """The same cuts in one task and in 200, on one worker."""
    with service(1, rows) as client:
        ways: Ways = {
            "one task": lambda: done(client, rows, test, spread=False),
            f"{BLOCKS} blocks": lambda: done(client, rows, test, spread=True),
        }
        alone, spread = measured(ways, rounds)
    pairs = list(zip(alone, spread, strict=True))
    told(f"{BLOCKS} blocks: more time", [b / a - 1 for a, b in pairs], "{:+.1%}")
    told("milliseconds a block", [(b - a) / BLOCKS * 1000 for a, b in pairs], "{:.1f}")


def measured(ways: Ways, rounds: int) -> tuple[list[float], ...]:
    """Seconds of each way, round by round; refuses ways that do not give the same bytes."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    first: Mapping[str, str | None] | None = None
    for _ in range(rounds):
        for name, way in ways.items():
            took, found = way()
            first = first or found
            if found != first:
                other = [path for path in first if found.get(path) != first[path]]
                raise SystemExit(f"{name}: other bytes in {len(other)} of {len(first)} files")
            times[name].append(took)
            print(f"  {name} {took:.1f} s", flush=True)
    for name, each in times.items():
        told(f"{name}, seconds", each, "{:.1f}")
    print(f"the same bytes in all {len(first or ())} files")
    return tuple(times.values())


def told(what: str, values: Sequence[float], form: str) -> None:
    """Median and range."""
    middle, least, most = (form.format(each) for each in (median(values), min(values), max(values)))
    print(f"{what}: {middle} ({least} to {most})", flush=True)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("workers", "blocks"), help="both when left out")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--test", type=int, default=2_000)
    options = parser.parse_args()
    print(f"{options.rows} by {options.test}, 85,002 parameters, one thread a worker")
    for name, part in (("workers", workers), ("blocks", blocks)):
        if options.part in (None, name):
            part(options.rows, options.test, options.rounds)


if __name__ == "__main__":
    main()
