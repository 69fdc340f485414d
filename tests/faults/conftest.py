"""A service of its own with two workers and short leases, for what breaks it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.local.background import Running, running
from tests.faults.grids import GridJobs
from tests.faults.slow_jobs import SlowJobs
from upweight import Client

SHORT = {
    # Long enough that a worker at work renews it in time on a machine that has little time for it: an attempt more
    # than there were deaths is a failed test.
    "UPWEIGHT_LEASE_SECONDS": "3",
    "UPWEIGHT_HEARTBEAT_SECONDS": "0.5",
    "UPWEIGHT_JANITOR_SECONDS": "1",
}
WAITING = {"OMP_WAIT_POLICY": "passive"}  # more threads than cores sleep until they are needed
SOON = 0.5  # seconds until what was killed is started again, however often


@pytest.fixture(scope="session")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The service; each test leaves it running, whatever it has killed."""
    data = tmp_path_factory.mktemp("fragile")
    with (
        (data / "log").open("w", buffering=1) as log,
        running(
            data,
            workers=2,
            environment=SHORT,
            log=lambda line: print(line, file=log),
            longest_pause=SOON,
        ) as service,
    ):
        yield service


@pytest.fixture(scope="session")
def prepared(fragile: Running) -> Iterator[SlowJobs]:
    """A model and rows, registered once."""
    with Client(fragile.url) as client:
        yield SlowJobs(fragile, client)


@pytest.fixture
def slow(prepared: SlowJobs) -> Iterator[SlowJobs]:
    """Jobs on the whole and ready service."""
    prepared.service.wait_until_ready()
    yield prepared
    prepared.service.wait_until_ready()


@pytest.fixture(scope="session")
def grid(fragile: Running) -> Iterator[GridJobs]:
    """Jobs in small blocks on the same service."""
    with Client(fragile.url) as client:
        yield GridJobs(fragile, client)
