"""The real front end in a thread, on a real Redis and a folder; the tests act as its worker where one is needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI

from service.__main__ import Server
from service.app import create_app
from service.local.redis_server import RedisServer
from service.parts import Parts
from service.settings import Settings
from tests.s3_server import S3Server
from tests.service.acting import Acting


@dataclass(frozen=True)
class Front:
    """A running front end."""

    url: str
    settings: Settings
    parts: Parts
    app: FastAPI


def run_front(settings: Settings) -> Iterator[Front]:
    """Runs a front end until the iterator goes on."""
    app = create_app(settings)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False)
    server = Server(config, app)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive(), "the front end did not start"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Front(f"http://127.0.0.1:{port}", settings, app.state.parts, app)
    server.should_exit = True
    thread.join(60)


def small_settings(redis: RedisServer, storage: Path | str, **values: object) -> Settings:
    """Limits that a test can reach."""
    limits: dict[str, object] = {
        "body_bytes": 64 * 1024,
        "blob_bytes": 64 * 1024**2,
        "direct_parameters": 1000,
        "preview_bytes": 256 * 1024,
        "result_bytes": 1_000_000,
        "json_numbers": 100,
        "namespace_jobs": 20,
        "slice_bytes": 4096,
        "factories": "torchvision.models:resnet18",
    }
    return Settings(redis_url=redis.url, storage=str(storage), **(limits | values))


@pytest.fixture(scope="session")
def front(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Front]:
    """One front end for all tests of this folder on one storage."""
    if getattr(request, "param", "folder") == "s3":
        server: S3Server = request.getfixturevalue("s3")
        settings = small_settings(redis_server, server.bucket(), **server.settings())
    else:
        settings = small_settings(redis_server, tmp_path_factory.mktemp("objects"))
    yield from run_front(settings)


@pytest.fixture
def client(front: Front, redis_url: str) -> Iterator[httpx2.Client]:
    """A client of that front end; Redis is empty when the test begins."""
    with httpx2.Client(base_url=front.url, timeout=120, trust_env=False) as made:
        yield made


@pytest.fixture
def acting(front: Front, client: httpx2.Client) -> Acting:
    """Does by hand what a worker would do."""
    return Acting(client, front.parts)


@pytest.fixture
def ready(acting: Acting) -> Acting:
    """With a model `net` and datasets `train` and `test`."""
    acting.ready()
    return acting
