"""The network of 85,002 parameters, and digits repeated with noise until there are enough of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from service.local.background import Running
from upweight import Client
from upweight.schema import JobRecord


def register(client: Client, rows: int) -> None:
    """Model `mlp` and dataset `digits` with so many rows."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 10)
    )
    pixels, labels = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    chosen = generator.integers(0, len(labels), rows)
    x = (pixels[chosen] / 16 + generator.normal(0, 0.05, (rows, 64))).astype("f4")
    client.models.register("mlp", network.eval(), example=x[:2], loss="cross_entropy")
    client.datasets.register("digits", x=x, y=labels[chosen].astype("i8"))


def request(test_rows: int, /, **blocks: Any) -> dict[str, Any]:
    """Influences of all rows on the first ones; few steps with a small Hessian, for contraction is what is large."""
    return {
        "kind": "influences",
        "model": "mlp",
        "train": {"dataset": "digits"},
        "hessian_on": {"dataset": "digits", "rows": "0:500"},
        "test": {"dataset": "digits", "rows": f"0:{test_rows}"},
        "inversion": {"method": "cg", "rtol": 0.1, "maxiter": 4},
        "hessian_regularization": 1.0,
        "reuse": False,
        "blocks": blocks,
    }


def seconds(job: JobRecord) -> float:
    """From the moment a worker took it until its result was stored."""
    assert job.started_at is not None
    assert job.finished_at is not None, job
    assert job.problem is None, job.problem
    return (job.finished_at - job.started_at).total_seconds()


def digests(client: Client, job: JobRecord) -> dict[str, str | None]:
    """Of all that was stored, but what names the job itself."""
    files = client.jobs.result(job.id).files().files
    return {
        file.path: file.digest for file in files if file.path not in ("manifest.json", "plan.json")
    }


class Peaks:
    """The most memory of its own (not of files) that each process of a service has while this is open, in bytes."""

    def __init__(self, service: Running, names: Sequence[str], every: float = 0.05) -> None:
        """`every`: seconds between two looks."""
        self._every = every
        self._pids = {name: service.pid(name) for name in names}
        self.anonymous = dict.fromkeys(names, 0)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(self._every):
            for name, pid in self._pids.items():
                self.anonymous[name] = max(self.anonymous[name], memory_of(pid, "RssAnon"))


def memory_of(pid: int, what: str) -> int:
    """Bytes: `VmHWM`, the most that was resident, files mapped included; `RssAnon`, what is its own now."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024
