"""Jobs in many small blocks on two workers, and what they leave."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import redis
import torch
from torch import nn

from service.local.background import Running
from service.storage.grids import Grids
from service.storage.keys import PREFIX
from tests.faults.slow_jobs import NAMESPACE
from tests.faults.watched import PATIENCE, Watched, files_below
from upweight import Client
from upweight.schema import JobRecord, JobState
from workers.jobs.tasks import lease_of

CUT = {"test_rows": 3, "train_rows": 64, "rhs_rows": 2, "hessian_rows": 130}
CREEPING = {"method": "lissa", "scale": 1e7, "rtol": 1e-15, "batch_size": 250}  # every step counts


class GridJobs(Watched):
    """A service with two workers, and a small network with rows that are registered once."""

    def __init__(self, service: Running, client: Client) -> None:
        self.service = service
        self.client = client
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))
        self.parameters = sum(each.numel() for each in network.parameters())
        x = torch.randn(300, 6)
        client.models.register("grid-net", network, example=x[:2], loss="cross_entropy")
        client.datasets.register("grid-rows", x=x, y=(x[:, 0] > 0).long() + (x[:, 1] > 0))

    def start(self, *, spread: bool, **values: Any) -> JobRecord:
        """A job cut in the same way, on one worker or on all."""
        cut = {**CUT, **values.pop("blocks", {}), "spread": spread}
        request = {
            "kind": "influences",
            "model": "grid-net",
            "train": {"dataset": "grid-rows"},
            "test": {"dataset": "grid-rows", "rows": "0:7"},
            "inversion": {"method": "cg"},
            "hessian_regularization": 1.0,
            "reuse": False,
            "blocks": cut,
            **values,
        }
        if request["kind"] in ("self_influences", "ihvp"):
            del request["test"]
        return self.client.jobs.create(request)

    def digests(self, job: JobRecord) -> Mapping[str, str | None]:
        """Of all files of a result but those that name the job itself."""
        done = self.ended(job)
        assert done.state is JobState.SUCCEEDED, done.problem
        files = self.client.jobs.result(job.id).files().files
        return {
            file.path: file.digest
            for file in files
            if file.path not in ("manifest.json", "plan.json")
        }

    def assert_same(self, job: JobRecord, calm: JobRecord) -> None:
        """The same bytes; where they differ, in which objects and by how much the numbers are apart."""
        one, other = self.digests(job), self.digests(calm)
        if one == other:
            return
        assert one.keys() == other.keys()
        found, expected = (
            self.client.jobs.result(each.id).influences.numpy() for each in (job, calm)
        )
        apart = float(np.abs(found - expected).max() / np.abs(expected).max())
        names = sorted(name for name in one if one[name] != other[name])
        raise AssertionError(f"other bytes in {names}, {apart:.1e} of the largest apart")

    def objects(self, job: JobRecord) -> list[Path]:
        """What lies of it below its own prefix."""
        return files_below(Path(self.service.storage) / "results" / NAMESPACE / job.id)

    def shared(self) -> list[Path]:
        """What lies of fits and factors of all jobs."""
        return files_below(Path(self.service.storage) / "shared")

    @contextmanager
    def redis(self) -> Iterator[redis.Redis]:
        """What the workers share, past the front end."""
        with redis.Redis.from_url(self.service.redis_url) as connection:
            yield connection

    def caught(self, job: JobRecord, stage: str, seconds: float = PATIENCE) -> int:
        """The process that has a block of this stage in hand, as soon as there is one; 0 if the job ends before."""
        deadline = time.monotonic() + seconds
        with self.redis() as connection:
            grids, client = Grids(connection), cast(Any, connection)
            for look in count():
                if time.monotonic() > deadline:
                    break
                for block in grids.in_hand(job.id):
                    holder = client.get(f"{PREFIX}:lease:{lease_of(job.id, block)}")
                    if block.startswith(f"{stage}-") and holder is not None:
                        return int(holder.decode().split("-")[-2])
                # Blocks are soon over, and Redis answers at once; the front end takes ten times as long.
                if look % 25 == 0 and self.client.jobs.get(job.id).finished_at is not None:
                    return 0
                time.sleep(0.002)
        raise AssertionError(f"no block of {stage} was begun")

    def computed(self, job: JobRecord) -> Counter[str]:
        """How often each block was begun to be computed, as the workers' logs say."""
        found: Counter[str] = Counter()
        for line in (Path(self.service.data) / "log").read_text().splitlines():
            if '"block-began"' in line and job.id in line:
                found[json.loads(line[line.index("{") :])["block"]] += 1
        return found
