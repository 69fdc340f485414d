"""A front end whose operator lets webhooks go to this machine, with a Redis of its own."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import redis

from service.local.redis_server import RedisServer
from service.settings import Settings
from tests.patience import PATIENCE
from tests.service.acting import Acting
from tests.service.conftest import Front, run_front, small_settings
from tests.webhooks.receiver import Receiver, receiver


def open_settings(server: RedisServer, folder: Path, database: int) -> Settings:
    """Sent at once, tried again soon. Other front ends of this run share the server, so each has its database."""
    settings = small_settings(
        server,
        folder,
        webhook_http=True,
        webhook_networks=(ipaddress.ip_network("127.0.0.0/8"),),
        webhook_seconds=15.0,
        webhook_pause_seconds=0.2,
        webhook_tries=4,
    )
    return settings.model_copy(update={"redis_url": f"{server.url.rpartition('/')[0]}/{database}"})


@pytest.fixture(scope="session")
def front(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """One front end for all tests of this folder."""
    yield from run_front(open_settings(redis_server, tmp_path_factory.mktemp("objects"), 1))


@pytest.fixture
def client(front: Front) -> Iterator[httpx2.Client]:
    """A client of that front end; its Redis is empty when the test begins."""
    with redis.Redis.from_url(front.settings.redis_url) as connection:
        connection.flushdb()
    with httpx2.Client(base_url=front.url, timeout=PATIENCE, trust_env=False) as made:
        yield made


@pytest.fixture
def ready(front: Front, client: httpx2.Client) -> Acting:
    """With a model `net` and datasets `train` and `test`; the test acts as the worker."""
    acting = Acting(client, front.parts)
    acting.ready()
    return acting


@pytest.fixture
def hook() -> Iterator[Receiver]:
    """Where the webhooks go."""
    with receiver() as server:
        yield server
