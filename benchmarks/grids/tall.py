"""Ten million training rows by a thousand test rows with `top` and `mean` alone: `python -m benchmarks.grids.tall`.

The model is as small as one can be (6 parameters), so that the influences themselves, 10 billion of them, are the work.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.grids.subject import Peaks, seconds
from service.local.background import running
from upweight import Client

MIB = 1024**2
ONE_THREAD = {"UPWEIGHT_THREADS": "1", "OMP_NUM_THREADS": "1"}


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--test", type=int, default=1_000)
    parser.add_argument("--top", type=int, default=100)
    options = parser.parse_args()
    rows, test = options.rows, options.test
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), environment=ONE_THREAD) as service,
        Client(service.url, timeout=600) as client,
    ):
        generator = np.random.default_rng(0)
        x = generator.normal(size=(rows, 2)).astype("f4")
        y = (x[:, 0] + generator.normal(size=rows) > 0).astype("i8")
        torch.manual_seed(0)
        client.models.register("net", nn.Linear(2, 2).eval(), example=x[:2], loss="cross_entropy")
        began = time.perf_counter()
        client.datasets.register("rows", x=x, y=y)
        print(f"registered in {time.perf_counter() - began:.0f} s", flush=True)
        request = {
            "kind": "influences", "model": "net", "train": {"dataset": "rows"},
            "test": {"dataset": "rows", "rows": f"0:{test}"},
            "hessian_on": {"dataset": "rows", "rows": "0:10000"},
            "inversion": {"method": "direct"}, "hessian_regularization": 0.1, "reuse": False,
            "keep": {"matrix": False, "top": options.top, "mean": True},
            "blocks": {"spread": True, "test_rows": test, "train_rows": 250_000},
        }  # fmt: skip
        with Peaks(service, ("front", "worker-1")) as peaks:
            job = client.jobs.wait(client.jobs.create(request), progress=False)
        took, result = seconds(job), client.jobs.result(job.id)
        sizes: Counter[str] = Counter()
        for file in result.files().files:
            sizes[file.path.partition("/")[0]] += file.size_bytes
        print(
            f"{rows} by {test}: {took:.0f} s, {rows * test / took / 1e6:.0f} million influences a second"
        )
        told = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.most_common())
        print(
            f"stored {sum(sizes.values()) / 1e6:.0f} MB of {rows * test * 4 / 1e9:.0f} GB: {told}"
        )
        print(", ".join(f"{name} {size / MIB:.0f} MiB" for name, size in peaks.anonymous.items()))


if __name__ == "__main__":
    main()
