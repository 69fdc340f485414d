"""Real processes for tests: a Redis, and the whole service, on free ports with data in temporary folders."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from service.auth import Keys, Role
from service.local.background import Running, running
from service.local.redis_server import RedisServer
from service.local.watchdog import Watchdog

LOG_LINES = 60  # of the service, shown under a failed test
ALLOWED = {"UPWEIGHT_FACTORIES": "torch.nn:Linear"}  # a factory that the operator has allowed


@pytest.fixture(scope="session")
def watchdog() -> Iterator[Watchdog]:
    """Ends what the tests started, even when they are killed."""
    with Watchdog(grace_seconds=2.0) as guard:
        yield guard


@pytest.fixture(scope="session")
def redis_server(
    tmp_path_factory: pytest.TempPathFactory, watchdog: Watchdog
) -> Iterator[RedisServer]:
    """A Redis alone, without the service, for all tests of one run."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), watchdog=watchdog)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The address of that Redis, emptied for this test."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The service with one worker, for all tests of one run: leave it as it was found.

    A test that breaks something for longer than a restart starts its own with `service.local.background.running`.
    """
    data = tmp_path_factory.mktemp("stack")
    with (
        (data / "log").open("w", buffering=1) as log,
        running(data, environment=ALLOWED, log=lambda line: print(line, file=log)) as service,
    ):
        yield service


@pytest.fixture(scope="session")
def keyed_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A second service, that has a key and so wants one with each request; see `make_key`."""
    data = tmp_path_factory.mktemp("keyed")
    with running(data) as service:
        with redis.Redis.from_url(service.redis_url) as client:
            Keys(client).create("default", Role.ADMIN, "first")
        yield service


@pytest.fixture
def make_key(keyed_stack: Running) -> Callable[[str, str], str]:
    """Makes a key of the keyed service for a namespace and a role."""

    def make(namespace: str, role: str = "write") -> str:
        with redis.Redis.from_url(keyed_stack.redis_url) as client:
            return Keys(client).create(namespace, Role(role), "test")[1]

    return make


@pytest.fixture
def fresh_name() -> str:
    """A name that no other test uses, for models, datasets, labels and namespaces."""
    return f"t{uuid4().hex[:12]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Under a failed test, the last that the service wrote."""
    report = yield
    service = getattr(item, "funcargs", {}).get("stack")
    if report.failed and isinstance(service, Running):
        lines = (Path(service.data) / "log").read_text().splitlines()[-LOG_LINES:]
        report.sections.append(("the service's log", "\n".join(lines)))
    return report
