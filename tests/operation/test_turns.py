"""One worker, two tenants: a long job in one task gives way between batches, and its bytes are the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from service.local.background import Running
from upweight import Client
from upweight.schema import JobRecord, JobState, Lissa


class Tenant:
    """A namespace with a model and rows."""

    def __init__(self, client: Client) -> None:
        self.client = client
        torch.manual_seed(0)
        x = torch.randn(300, 8, dtype=torch.float64)
        network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).double()
        client.models.register("net", network, example=x[:2], loss="cross_entropy")
        client.datasets.register("rows", x=x, y=(x[:, 0] > 0).long() + (x[:, 1] > 0))

    def start(self, steps: int) -> JobRecord:
        """A job in one task, of so many steps of LiSSA, each over other rows."""
        return self.client.compute_influences(
            "net", "rows", "rows", test_rows="0:4",
            inversion_method=Lissa(scale=1e7, rtol=1e-15, maxiter=steps, batch_size=250),
            hessian_regularization=1.0, precision="float64", reuse=False, wait=False,
            blocks={"spread": False},
        ).job  # fmt: skip

    def ended(self, job: JobRecord) -> JobRecord:
        return self.client.jobs.wait(job, timeout=120, progress=False)

    def matrix(self, job: JobRecord) -> bytes:
        return bytes(self.client.jobs.result(job.id).influences.numpy().tobytes())  # type: ignore[union-attr]


@pytest.fixture
def tenants(
    keyed_stack: Running, make_key: Callable[[str, str], str], fresh_name: str
) -> Iterator[list[Tenant]]:
    clients = [
        Client(keyed_stack.url, api_key=make_key(f"{fresh_name}{name}", "write")) for name in "ab"
    ]
    yield [Tenant(client) for client in clients]
    for client in clients:
        client.close()


@pytest.mark.timeout(400)
def test_a_long_job_in_one_task_lets_another_tenants_jobs_through(tenants: list[Tenant]) -> None:
    one, other = tenants
    for steps in (
        1_000,
        4_000,
        16_000,
    ):  # on a quick machine fewer are over before it is anybody's turn
        calm = one.ended(one.start(steps))
        long = one.start(steps)
        while one.client.jobs.get(long.id).state is JobState.QUEUED:
            time.sleep(0.02)
        others = [other.ended(job) for job in [other.start(20) for _ in range(6)]]
        ended = one.ended(long)
        assert {job.state for job in (calm, ended, *others)} == {JobState.SUCCEEDED}
        assert ended.attempt == 1
        assert one.matrix(ended) == one.matrix(calm)
        assert ended.finished_at is not None
        if sum(job.finished_at < ended.finished_at for job in others if job.finished_at) >= 3:
            return
    raise AssertionError("the others' jobs were done when the long one was")
