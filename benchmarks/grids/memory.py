"""Peak memory of front end and worker while the rows grow tenfold: `python -m benchmarks.grids.memory [--rows N ...]`.

Both sizes are larger than whatever is read at once (a window of 8 MiB, a block of the check of as much).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.grids.subject import Peaks, memory_of
from service.local.background import running
from upweight import Client

MIB = 1024**2
TEST_ROWS = 50
SIZES = (200_000, 2_000_000)
NAMES = ("front", "worker-1")
# What does not fit into half of the cache is streamed.
SMALL = {
    "UPWEIGHT_CACHE_BYTES": str(8 * MIB),
    "UPWEIGHT_MEMORY_BYTES": str(64 * MIB),
    "UPWEIGHT_THREADS": "1",
}


def measured(rows: int) -> str:
    """What each process took for a job with everything kept and the reading of its matrix: the most that was its own,
    and the most that was resident, files included.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), environment=SMALL) as service,
        Client(service.url, timeout=600) as client,
        Peaks(service, NAMES) as peaks,
    ):
        generator = np.random.default_rng(0)
        x = generator.normal(size=(rows, 64)).astype("f4")
        torch.manual_seed(0)
        client.models.register("net", nn.Linear(64, 10).eval(), example=x[:2], loss="cross_entropy")
        client.datasets.register("rows", x=x, y=generator.integers(0, 10, rows))
        request = {
            "kind": "influences", "model": "net", "train": {"dataset": "rows"},
            "test": {"dataset": "rows", "rows": f"0:{TEST_ROWS}"},
            "hessian_on": {"dataset": "rows", "rows": "0:2000"},
            "inversion": {"method": "direct"}, "hessian_regularization": 0.1,
            "keep": {"matrix": True, "top": 50, "mean": True},
            "blocks": {"spread": True, "train_rows": 10_000},
        }  # fmt: skip
        job = client.jobs.wait(client.jobs.create(request), progress=False)
        result = client.jobs.result(job.id)
        result.save(Path(folder) / "matrix.npy")
        result.top(k=10)
        return ", ".join(
            f"{name} {peaks.anonymous[name] / MIB:.0f} MiB ({memory_of(service.pid(name), 'VmHWM') / MIB:.0f} resident)"
            for name in NAMES
        )


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    for rows in parser.parse_args().rows:
        print(f"{rows:>9} rows: {measured(rows)}", flush=True)


if __name__ == "__main__":
    main()
