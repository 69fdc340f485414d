"""What the service adds to a job: from POST to the stored result, less the engine's own time, on a warm worker."""

from __future__ import annotations

import tempfile
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures import told
from service.local.background import running
from upweight import Client

RUNS = 50
WARM_UP = 10


def main() -> None:
    """Prints the figures."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder)) as service,
        Client(service.url) as client,
    ):
        request = _prepared(client)
        seen, stored, engine = [], [], []
        for number in range(WARM_UP + RUNS):
            began = time.perf_counter()
            job = client.jobs.wait(client.jobs.create(request), progress=False)
            took = time.perf_counter() - began
            if number < WARM_UP or job.cost is None or job.finished_at is None:
                continue
            own = job.cost.engine_seconds
            engine.append(own * 1000)
            seen.append((took - own) * 1000)
            stored.append(_milliseconds(job.finished_at, job.created_at) - own * 1000)
    told("engine's own time of the tiny job", engine, "ms")
    told("overhead, POST to stored result", stored, "ms", "below 50")
    told("overhead, POST sent to success known to the client", seen, "ms")


def _milliseconds(end: datetime, start: datetime) -> float:
    return (end - start).total_seconds() * 1000


def _prepared(client: Client) -> dict[str, object]:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(20, 4)).astype("f4")
    y = generator.integers(0, 3, 20)
    model = client.models.register(
        "tiny", torch.nn.Linear(4, 3), example=torch.zeros(2, 4), loss="cross_entropy"
    )
    data = client.datasets.register("tiny", x=x, y=y)
    return {
        "kind": "influences",
        "model": model.id,
        "train": {"dataset": data.id},
        "test": {"dataset": data.id, "rows": "0:2"},
        "inversion": {"method": "direct"},
        "hessian_regularization": 0.1,
    }


if __name__ == "__main__":
    main()
