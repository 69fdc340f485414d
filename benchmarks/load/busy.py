"""A service whose worker computes for as long as the block runs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from service.local.background import Running, running
from upweight import Client
from upweight.schema import JobRecord, JobState

ENDLESS = 2**30  # steps of LiSSA
MODEL, ROWS = "net", "rows"
REQUEST: dict[str, Any] = {
    "kind": "influences",
    "model": MODEL,
    "train": {"dataset": ROWS},
    "test": {"dataset": ROWS, "rows": "0:4"},
    # Of some rows a step: over all of them the recursion is summed up, however long it is.
    "inversion": {
        "method": "lissa",
        "batch_size": 100,
        "scale": 1e7,
        "rtol": 1e-15,
        "maxiter": ENDLESS,
    },
    "hessian_regularization": 1.0,
}


@contextmanager
def busy(environment: Mapping[str, str] | None = None) -> Iterator[tuple[Running, JobRecord]]:
    """The service, and the job that its one worker is at."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), environment=environment) as service,
        Client(service.url) as client,
    ):
        torch.manual_seed(0)
        x = torch.randn(300, 8)
        network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
        client.models.register(MODEL, network, example=x[:2], loss="cross_entropy")
        client.datasets.register(ROWS, x=x, y=(x[:, 0] > 0).long() + (x[:, 1] > 0))
        job = client.jobs.create({**REQUEST, "priority": "high"})
        while client.jobs.get(job.id).state is not JobState.RUNNING:
            time.sleep(0.02)
        yield service, job
        state = client.jobs.get(job.id).state
        if state is not JobState.RUNNING:
            raise SystemExit(f"the worker was not busy to the end: its job is {state}")
