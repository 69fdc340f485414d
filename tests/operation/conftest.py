"""A service whose own worker is of an older contract, a newer worker beside it, and a collector of traces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch

from service.local.background import Running, running
from tests.operation.collector import Collector
from upweight import Client
from upweight.schema.base import CONTRACT

SETTINGS = {
    "UPWEIGHT_JANITOR_SECONDS": "1",
    "UPWEIGHT_RETENTION_DAYS": "0.00005",  # some four seconds
    "UPWEIGHT_RETENTION_PAUSE_SECONDS": "0.5",
}


class Upgrading:
    """A service in the middle of a rolling upgrade: worker-1 is of before, newer workers come and go."""

    def __init__(self, service: Running, client: Client, data: Path, traces: str) -> None:
        self.service = service
        self.client = client
        self._data = data
        self._environment = (
            os.environ
            | SETTINGS
            | {
                "UPWEIGHT_REDIS_URL": service.redis_url,
                "UPWEIGHT_STORAGE": service.storage,
                "UPWEIGHT_TRACES": traces,
            }
        )

    @contextmanager
    def newer_worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """A worker of the present contract, for a while."""
        with (self._data / "newer.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers"], env=self._environment, stderr=log
            )
            try:
                yield process
            finally:
                process.terminate()
                process.wait(120)

    def log(self, name: str) -> str:
        """What `older` (the service's own processes) or `newer` workers have written."""
        return (self._data / f"{name}.log").read_text()

    def submit(self, *, blocks: Mapping[str, Any] | None = None, **headers: str) -> str:
        """A small job; its id."""
        request: dict[str, Any] = {
            "kind": "influences",
            "model": "tiny",
            "train": {"dataset": "tiny"},
            "test": {"dataset": "tiny", "rows": "0:2"},
            "inversion": {"method": "direct"},
            "hessian_regularization": 0.1,
        }
        if blocks is not None:
            request["blocks"] = blocks
        answer = httpx2.post(
            f"{self.service.url}/v1/jobs", json=request, headers=headers, trust_env=False
        )
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


@pytest.fixture(scope="session")
def upgrading(
    tmp_path_factory: pytest.TempPathFactory, collector: Collector
) -> Iterator[Upgrading]:
    data = tmp_path_factory.mktemp("upgrading")
    environment = {
        "UPWEIGHT_CONTRACT": str(CONTRACT - 1),
        "UPWEIGHT_TRACES": collector.url,
        **SETTINGS,
    }
    with (
        (data / "older.log").open("w", buffering=1) as log,
        running(data, environment=environment, log=lambda line: print(line, file=log)) as service,
        Client(service.url) as client,
    ):
        made = Upgrading(service, client, data, collector.url)
        with made.newer_worker():
            torch.manual_seed(0)
            generator = np.random.default_rng(0)
            client.models.register(
                "tiny", torch.nn.Linear(4, 3), example=torch.zeros(2, 4), loss="cross_entropy"
            )
            client.datasets.register(
                "tiny",
                x=generator.normal(size=(20, 4)).astype("f4"),
                y=generator.integers(0, 3, 20),
            )
        yield made
