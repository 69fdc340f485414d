"""How long a cancel takes at each stage of large jobs: `python -m benchmarks.cancelling [--delays 0 0.5 2 6]`.

A network of 11 million parameters by `cg`, and one of 7,850 by `direct` with all eigenvalues, each cancelled so many
seconds after its begin. Nothing is kept on the worker from job to job, so that each is loaded anew. Of each cancel: the
stage that the job was in, the seconds until it was `cancelled`, and until its worker had begun another job.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from service.local.background import running
from upweight import Client

DELAYS = (0.0, 0.4, 1.0, 2.0, 4.0, 8.0)
ROWS, FEATURES = 40_000, 784
# Only what was used last stays with the worker, so that each job loads its model and reads its rows.
SETTINGS = {"UPWEIGHT_CACHE_BYTES": "1", "UPWEIGHT_SPREAD_SECONDS": "1e9"}
LARGE: dict[str, Any] = {
    "model": "large",
    "inversion": {"method": "cg", "maxiter": 1000, "rtol": 1e-12},
    "hessian_regularization": 10.0,
}
DENSE: dict[str, Any] = {
    "model": "dense",
    "inversion": {"method": "direct", "spectrum": "all"},
    "hessian_regularization": 1.0,
}


@dataclass(frozen=True)
class Cancelled:
    """One cancel."""

    delay: float
    stage: str
    progress: str
    seconds: float  # until the job was cancelled
    free: float  # until its worker had begun another


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line a cancel, and the longest of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delays", type=float, nargs="+", default=DELAYS)
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), environment=SETTINGS) as service,
        Client(service.url, timeout=600) as client,
    ):
        _register(client)
        found = []
        for name, request in (("11 M parameters, cg", LARGE), ("7,850 parameters, direct", DENSE)):
            for delay in options.delays:
                each = _cancelled(client, request, delay)
                found.append(each)
                print(
                    f"{name}: cancelled after {each.delay:g} s in {each.stage} {each.progress}: "
                    f"{each.seconds:.2f} s, worker free after {each.free:.2f} s",
                    flush=True,
                )
        print(
            f"longest: {max(each.seconds for each in found):.2f} s to cancelled, "
            f"{max(each.free for each in found):.2f} s until the worker was free"
        )


def _register(client: Client) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(ROWS, FEATURES)).astype("f4")
    torch.manual_seed(0)
    large = nn.Sequential(
        nn.Linear(FEATURES, 2800), nn.Tanh(), nn.Linear(2800, 2800), nn.Tanh(), nn.Linear(2800, 10)
    )
    networks = {"large": large, "dense": nn.Linear(FEATURES, 10), "small": nn.Linear(FEATURES, 2)}
    for name, network in networks.items():
        client.models.register(name, network.eval(), example=x[:2], loss="cross_entropy")
    client.datasets.register("rows", x=x, y=generator.integers(0, 10, ROWS))
    client.datasets.register("few", x=x[:64], y=generator.integers(0, 2, 64))


def _cancelled(client: Client, request: dict[str, Any], delay: float) -> Cancelled:
    job = client.jobs.create(
        {
            "kind": "influences", "train": {"dataset": "rows"}, "test": {"dataset": "rows", "rows": "0:4"},
            "keep": {"matrix": False, "top": 5}, **request,
        }
    )  # fmt: skip
    while (now := client.jobs.get(job.id)).state not in ("running", "failed", "succeeded"):
        time.sleep(0.02)
    time.sleep(delay)
    now = client.jobs.get(job.id)
    if now.state != "running":
        raise SystemExit(f"the job is {now.state} after {delay} s: {now.problem}")
    began = time.monotonic()
    client.jobs.cancel(job.id)
    after = client.jobs.create(
        {
            "kind": "influences", "model": "small", "train": {"dataset": "few"}, "test": {"dataset": "few"},
            "inversion": {"method": "direct"}, "hessian_regularization": 1.0, "keep": {"matrix": True},
        }
    )  # fmt: skip
    seconds = free = None
    while seconds is None or free is None:
        passed = time.monotonic() - began
        if seconds is None and client.jobs.get(job.id).state == "cancelled":
            seconds = passed
        if free is None and client.jobs.get(after.id).state not in ("queued",):
            free = passed
        time.sleep(0.02)
    progress = (
        f"{now.progress.done} of {now.progress.total} {now.progress.unit}" if now.progress else ""
    )
    return Cancelled(delay, str(now.stage), progress, seconds, free)


if __name__ == "__main__":
    main()
