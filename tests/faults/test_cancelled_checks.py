"""What is deleted while it waits for its check, or is being checked, takes no more of the workers' time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
import torch
from torch import Tensor, nn

from service.local.background import Running
from service.storage.keys import PREFIX
from service.storage.queue import CHECK_PRIORITY, TaskQueue
from tests.faults.watched import PATIENCE
from upweight import Client
from upweight.errors import NotFound
from upweight.schema import CheckState

SIDE = 700
SHARDS = 2_000


class Slow(nn.Module):
    """Few parameters, and a row that takes a core seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(SIDE, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for _ in range(20):
            y = torch.tanh(y @ x)
        found: Tensor = self.last(y.mean(1))
        return found


class Checks:
    """Registers what takes long to check."""

    def __init__(self, service: Running, client: Client) -> None:
        self.service, self.client = service, client
        self.redis: Any = redis.Redis.from_url(service.redis_url)
        shard = {"x": torch.zeros(1, 2), "y": torch.zeros(1, dtype=torch.int64)}
        few = client.datasets.register("few", **shard)
        self._shard = few.blobs[0] if few.blobs else ""
        rows = (torch.randn(2, SIDE, SIDE),)
        batch = ({0: torch.export.Dim("batch")},)
        # The program itself: nothing is computed here.
        self._program = torch.export.export(Slow().eval(), rows, dynamic_shapes=batch)

    def model(self) -> str:
        """A new one, which waits for its check."""
        made = self.client.models.register("slow", self._program, loss="cross_entropy", wait=False)
        return made.id

    def dataset(self) -> str:
        """As many shards as take long, of one row each."""
        body = {"name": "slow", "format": "safetensors", "blobs": [self._shard] * SHARDS}
        answer = httpx2.post(f"{self.service.url}/v1/datasets", json=body, trust_env=False)
        return str(answer.json()["id"])

    def begun(self, id: str) -> None:
        """Returns once a worker is at it."""
        deadline = time.monotonic() + PATIENCE
        while not self.redis.exists(f"{PREFIX}:lease:{id}"):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def deleted(self, kind: str, id: str) -> bool:
        """Deletes it, and returns once no worker has it; whether its check was ended in the middle."""
        anew = self._told("worker-begins-anew")
        getattr(self.client, kind).delete(id)

        def cut_off() -> bool:
            """By itself, or with the worker's program, which was in a call."""
            return self._told("check-cancelled", id) > 0 or self._told("worker-begins-anew") > anew

        self.service.wait(
            lambda: cut_off() or self._told("task-ended", id) > 0, PATIENCE, "it is checked still"
        )
        held = f"{PREFIX}:lease:{id}"
        self.service.wait(lambda: not self.redis.exists(held), PATIENCE, "it is in hand still")
        with pytest.raises(NotFound):
            getattr(self.client, kind).get(id)
        return cut_off()

    def _told(self, event: str, id: str = "") -> int:
        lines = (Path(self.service.data) / "log").read_text().splitlines()
        return sum(f'"{event}"' in line and id in line for line in lines)


@pytest.fixture(scope="module")
def checks(fragile: Running) -> Iterator[Checks]:
    with Client(fragile.url) as client:
        yield Checks(fragile, client)


def test_the_check_of_a_deleted_model_ends_at_once(checks: Checks) -> None:
    before = checks.service.state().pids
    id = checks.model()
    checks.begun(id)
    time.sleep(1.0)  # into the child's computation
    assert checks.client.models.get(id).state is CheckState.CHECKING
    assert checks.deleted("models", id), "it went on until the service's limit of 120 s"
    assert checks.service.state().pids == before


def test_the_check_of_a_deleted_dataset_ends_at_once(checks: Checks) -> None:
    deadline = time.monotonic() + PATIENCE
    ended = False
    while not ended and time.monotonic() < deadline:  # a check may be over before it is deleted
        id = checks.dataset()
        checks.begun(id)
        ended = checks.deleted("datasets", id)
    assert ended, "each was checked to its end"


def test_a_deleted_one_waits_no_more(checks: Checks) -> None:
    running = [checks.model() for _ in range(2)]  # one for each worker
    for id in running:
        checks.begun(id)
    waiting = checks.dataset()
    queue = TaskQueue(checks.redis, 1000)
    assert queue.position(waiting, 0, CHECK_PRIORITY) == 0
    checks.client.datasets.delete(waiting)
    assert queue.position(waiting, 0, CHECK_PRIORITY) is None
    for id in running:
        checks.deleted("models", id)
