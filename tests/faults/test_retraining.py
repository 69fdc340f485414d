"""A retraining under fault: its worker is killed, or the user cancels it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from service.local.background import Running
from tests.faults.slow_jobs import NAMESPACE, worker_pid
from tests.faults.watched import PATIENCE, Watched, files_below
from upweight import Client
from upweight.schema import JobRecord, JobState

RECIPE = {
    "optimizer": "adam",
    "lr": 1e-3,
    "batch_size": 32,
    "epochs": 1_500,
    "start": "warm",
}  # some seconds
ENDLESS = 1_000_000  # epochs: minutes


class Retrainings(Watched):
    """A small network that trains for some seconds."""

    def __init__(self, service: Running, client: Client) -> None:
        self.service, self.client = service, client
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        x = torch.randn(200, 6)
        client.models.register(
            "trained-net", network, example=x[:2], loss="cross_entropy", recipe=RECIPE
        )
        client.datasets.register("trained-rows", x=x, y=(x[:, 0] > 0).long() + (x[:, 1] > 0))

    def start(self, **recipe: int) -> JobRecord:
        """One over all rows, by the model's recipe with these changes."""
        request: dict[str, Any] = {"kind": "retrain", "model": "trained-net"}
        request["train"] = {"dataset": "trained-rows"}
        if recipe:
            request["recipe"] = {**RECIPE, **recipe}
        return self.client.jobs.create(request)

    def stored(self, job: JobRecord) -> list[Path]:
        """What lies of it in the object storage."""
        return files_below(Path(self.service.storage) / "results" / NAMESPACE / job.id)

    def weights(self, job: JobRecord) -> str | None:
        """The digest of what it came to."""
        done = self.ended(job)
        assert done.state is JobState.SUCCEEDED, done.problem
        assert done.model is not None
        return self.client.models.get(done.model.id).weights


@pytest.fixture(scope="module")
def retrainings(fragile: Running) -> Iterator[Retrainings]:
    fragile.wait_until_ready()
    with Client(fragile.url) as client:
        yield Retrainings(fragile, client)
    fragile.wait_until_ready()


def test_a_killed_workers_successor_goes_on_to_the_same_bytes(retrainings: Retrainings) -> None:
    calm = retrainings.weights(retrainings.start())
    job = retrainings.start()
    deadline = time.monotonic() + PATIENCE
    while not any("epoch-" in path.name for path in retrainings.stored(job)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(worker_pid(retrainings.client.jobs.get(job.id)), signal.SIGKILL)
    again = retrainings.seen(job, lambda record: record.attempt == 2 and record.stage == "train")
    assert again.progress is not None
    assert again.progress.done > 0, "it goes on from what was stored"
    assert retrainings.weights(job) == calm
    assert not any("epoch-" in path.name for path in retrainings.stored(job))


def test_a_cancelled_retraining_ends_at_once_and_leaves_nothing(
    retrainings: Retrainings,
) -> None:
    job = retrainings.start(epochs=ENDLESS)
    seen = retrainings.seen(job, lambda record: record.curve is not None)
    assert seen.state is JobState.RUNNING
    retrainings.client.jobs.cancel(job)
    # All its epochs would take minutes; how soon it ends is by the batch, and looked at in tests/engine/training.
    assert retrainings.ended(job).state is JobState.CANCELLED
    assert retrainings.stored(job) == []
