"""The object storage goes away for a while, its connections reset for real: what is under way rides it out."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from service.local.background import running
from service.storage.objects import Objects
from tests.faults.conftest import SHORT
from tests.faults.cutting_proxy import CuttingProxy, cutting_proxy
from tests.faults.slow_jobs import SlowJobs
from tests.s3_server import S3Server
from upweight import Client
from upweight.schema import CheckState, JobState

OUTAGE_SECONDS = 4.0  # of the 60 for which a worker asks again
STEPS = 1_000  # less than a second, so that storing falls into the outage
CONTENT = bytes(range(256)) * 4000
OPERATIONS: dict[str, tuple[Callable[[Objects], object], object]] = {
    "create": (lambda objects: objects.put_new("new", CONTENT), True),
    "replace": (lambda objects: objects.put("here", CONTENT), None),
    "get": (lambda objects: objects.get("here"), CONTENT),
    "range": (lambda objects: objects.get_range("here", 1000, 500_000), CONTENT[1000:501_000]),
    "ranges": (lambda objects: objects.get_ranges("here", [(0, 9)]), [CONTENT[:9]]),
    "stream": (lambda objects: b"".join(objects.open_stream("here")), CONTENT),
    "head": (lambda objects: objects.head("here").size, len(CONTENT)),  # type: ignore[union-attr]
    "list": (lambda objects: [meta.path for meta in objects.walk("many")][::50], None),
    "delete": (lambda objects: objects.delete(["here"]), None),
    "upload": (lambda objects: objects.put_stream("up", iter([CONTENT] * 9)), None),
}


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[CuttingProxy]:
    with cutting_proxy(int(s3.endpoint.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture
def objects(s3: S3Server, proxy: CuttingProxy) -> Objects:
    direct = s3.objects()
    direct.put("here", CONTENT)
    options = replace(direct.options, endpoint=proxy.endpoint)
    return Objects(direct.url, options)


@pytest.mark.parametrize("lost", ["to_reset", "answers_to_reset"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_done_again_after_its_connection_was_reset(
    objects: Objects, proxy: CuttingProxy, name: str, lost: str
) -> None:
    """Before the server had the request, or when it has done it and only the answer is missing."""
    action, expected = OPERATIONS[name]
    setattr(proxy, lost, 2)
    answer = action(objects)
    assert getattr(proxy, lost) == 0
    if expected is not None:
        assert answer == expected


def test_a_listing_goes_on_where_it_was_cut(objects: Objects, proxy: CuttingProxy) -> None:
    names = [f"many/{number:04}" for number in range(120)]
    for name in names:
        objects.put(name, b"1")
    found = []
    for number, meta in enumerate(objects.walk("many")):
        found.append(meta.path)
        if number in (10, 60):
            proxy.to_reset = 1
    proxy.to_reset = 0
    assert found == names


def test_a_job_in_work_rides_out_an_outage_of_seconds_in_its_first_attempt(
    proxy: CuttingProxy, s3: S3Server, tmp_path: Path
) -> None:
    environment = {
        **SHORT,
        **s3.environment(s3.bucket(), proxy.endpoint),
        "UPWEIGHT_THREADS": "1",
    }
    with running(tmp_path, environment=environment) as service, Client(service.url) as client:
        slow = SlowJobs(service, client)
        calm = slow.matrix(slow.ended(slow.start(STEPS)))
        job = slow.begun(slow.start(STEPS))
        with proxy.away():
            time.sleep(OUTAGE_SECONDS)
        done = slow.ended(job, 120)
        assert (done.state, done.attempt) == (JobState.SUCCEEDED, 1), done.problem
        assert slow.matrix(done) == calm


def test_checks_wait_until_the_storage_is_back(
    proxy: CuttingProxy, s3: S3Server, tmp_path: Path
) -> None:
    environment = {
        **SHORT,
        **s3.environment(s3.bucket(), proxy.endpoint),
        "UPWEIGHT_STORAGE_RETRY_SECONDS": "1",
    }
    x, said = torch.randn(8, 3), list[str]()

    def postponed(id: str) -> bool:
        return any("check-postponed" in line and id in line for line in said)

    with (
        running(tmp_path, environment=environment, log=said.append) as service,
        Client(service.url) as client,
    ):
        service.send("worker-1", signal.SIGSTOP)
        model = client.models.register(
            "late", nn.Linear(3, 2), example=x, loss="cross_entropy", wait=False
        )
        rows = client.datasets.register("late", x=x, y=torch.arange(8) % 2, wait=False)
        with proxy.away():
            service.send("worker-1", signal.SIGCONT)
            for record in (model, rows):
                service.wait(lambda id=record.id: postponed(id), 60, "no check was postponed")
        assert client.models.wait(model, 60).state is CheckState.READY
        assert client.datasets.wait(rows, 60).state is CheckState.READY
