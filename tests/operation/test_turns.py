"""One worker, two tenants: a long job in one task gives way between batches, and its bytes are the same."""

from __future__ import annotations

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


def test_a_long_job_in_one_task_lets_another_tenants_jobs_through(tenants: list[Tenant]) -> None:
    one, other = tenants
    calm = one.client.jobs.wait(one.start(1_000), timeout=120, progress=False)
    long = one.start(1_000)
    between = 0
    while one.client.jobs.get(long.id).state is not JobState.SUCCEEDED:
        done = other.client.jobs.wait(other.start(20), timeout=120, progress=False)
        assert done.state is JobState.SUCCEEDED
        between += one.client.jobs.get(long.id).state is JobState.RUNNING
    assert between >= 3
    ended = one.client.jobs.get(long.id)
    assert ended.attempt == 1
    assert one.matrix(ended) == one.matrix(calm)
