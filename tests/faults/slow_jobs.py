"""Jobs that take as long as a test wants them to, and give the same numbers each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
import torch
from torch import nn

from service.local.background import Running
from service.settings import Settings
from service.storage.layout import ResultPaths
from service.storage.queue import TaskQueue
from tests.faults.watched import PATIENCE, Watched, files_below
from upweight import Client
from upweight.schema import JobRecord, JobState, Lissa

NAMESPACE = "default"
QUICK_STEPS = 50


class SlowJobs(Watched):
    """A service under fault, with a model whose LiSSA creeps: the scale is far too large, and each step is over
    other rows, so that every one counts."""

    def __init__(self, service: Running, client: Client) -> None:
        self.service = service
        self.client = client
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).double()
        x = torch.randn(300, 8, dtype=torch.float64)
        client.models.register("net", network, example=x[:2], loss="cross_entropy")
        client.datasets.register("rows", x=x, y=(x[:, 0] > 0).long() + (x[:, 1] > 0))

    def start(self, steps: int = QUICK_STEPS, **values: Any) -> JobRecord:
        """A job of so many steps."""
        return self.client.compute_influences(
            "net", "rows", "rows", test_rows="0:4",
            inversion_method=Lissa(scale=1e7, rtol=1e-15, maxiter=steps, batch_size=250),
            hessian_regularization=1.0, precision="float64", wait=False,
            **{"blocks": {"spread": False}, **values},
        ).job  # fmt: skip

    def begun(self, job: JobRecord, attempt: int = 1, seconds: float = PATIENCE) -> JobRecord:
        """The record once a worker is in the middle of that attempt."""
        return self.seen(
            job,
            lambda record: (
                record.state is JobState.RUNNING
                and record.attempt >= attempt
                and record.stage == "lissa"
            ),
            seconds,
        )

    def matrix(self, job: JobRecord) -> bytes:
        """The bytes of what it computed."""
        result = self.client.jobs.result(job.id)
        return bytes(result.influences.numpy().tobytes())  # type: ignore[union-attr]

    def leave_half(self, job: JobRecord) -> None:
        """Puts objects where the job's will be, as an attempt leaves them that was ended in the middle."""
        folder = self._folder(job)
        for name in ("influences/zarr.json", "influences/c/0/0", "factors.safetensors"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"half")

    def objects(self, job: JobRecord) -> Sequence[Path]:
        """What of it lies in the object storage."""
        return files_below(self._folder(job))

    def _folder(self, job: JobRecord) -> Path:
        return Path(self.service.storage) / ResultPaths(NAMESPACE, job.id).prefix

    @contextmanager
    def tasks(self) -> Iterator[TaskQueue]:
        """The queues, past the front end."""
        with redis.Redis.from_url(self.service.redis_url) as connection:
            yield TaskQueue(connection, Settings().queue_length)


def worker_pid(record: JobRecord) -> int:
    """The process that has a job in hand: host-pid-noise."""
    assert record.worker is not None
    return int(record.worker.split("-")[-2])
