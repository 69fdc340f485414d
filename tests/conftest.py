"""Real processes for tests: a Redis, and the whole service, on free ports with data in temporary folders."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import hypothesis
import pytest
import redis

from service.auth import Keys, Role
from service.local.background import Running, running
from service.local.redis_server import RedisServer
from service.local.watchdog import Watchdog
from service.storage.objects import Objects
from tests.patience import PATIENCE
from tests.s3_server import S3Server, s3_server
from tests.scheduling import ByFileOrFolder

hypothesis.settings.register_profile("patient", deadline=None)  # whatever else a machine does
hypothesis.settings.load_profile("patient")

STORAGES = ("folder", "s3")
SERVICES = ("stack", "front")  # fixtures of a session that lie on one
LOG_LINES = 60  # of the service, shown under a failed test
ONE_THREAD = {"UPWEIGHT_THREADS": "1"}  # see tests/__init__.py
# With factories that the operator has allowed, and types of Hugging Face models.
SETTINGS = {
    "UPWEIGHT_FACTORIES": "torch.nn:Linear,tests.programs.factories:weight_normed",
    "UPWEIGHT_HUGGINGFACE": "bert,gpt2",
    "UPWEIGHT_QUERY_SECONDS": str(PATIENCE),
    **ONE_THREAD,
}


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


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--storage s3`: everything that can on S3, instead of a few ways on both."""
    parser.addoption("--storage", choices=STORAGES, default=None, help="where all objects lie")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFileOrFolder:
    """See `tests/scheduling.py`."""
    return ByFileOrFolder(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Without the garbage collector, which would look again and again through what the tests' modules import: a
    third of the time, in each process. In the end all that counts as old."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.unfreeze()
        gc.enable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Which storages a test runs on."""
    both = metafunc.definition.get_closest_marker("both_storages") is not None
    chosen = metafunc.config.getoption("--storage")
    storages = [chosen] if chosen else STORAGES if both else STORAGES[:1]
    if metafunc.definition.get_closest_marker("on_s3") is not None:
        storages = ["s3"]
    for name in SERVICES:
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, storages, indirect=True, scope="session")
    if both and "objects" in metafunc.fixturenames:
        metafunc.parametrize("objects", storages, indirect=True)


@pytest.fixture(scope="session")
def s3(watchdog: Watchdog) -> Iterator[S3Server]:
    """A server of the S3 protocol, for all tests of one run."""
    with s3_server(watchdog) as server:
        yield server


@pytest.fixture(scope="session")
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """The service with one worker, for all tests of one run on one storage: leave it as it was found.

    A test that breaks something for longer than a restart starts its own with `service.local.background.running`.
    """
    data = tmp_path_factory.mktemp("stack")
    environment = {**SETTINGS, "UPWEIGHT_STORAGE": str(data / "objects")}
    if getattr(request, "param", STORAGES[0]) == "s3":
        server: S3Server = request.getfixturevalue("s3")
        environment |= server.environment(server.bucket())
    environment["UPWEIGHT_DATASET_PREFIXES"] = beside(environment["UPWEIGHT_STORAGE"])
    with (
        (data / "log").open("w", buffering=1) as log,
        running(data, environment=environment, log=lambda line: print(line, file=log)) as service,
    ):
        yield service


def beside(storage: str) -> str:
    """Where the operator lets datasets lie that come by uri."""
    return f"{storage.rsplit('/', 1)[0]}/lake"


def objects_at(url: str, request: pytest.FixtureRequest) -> Objects:
    """The objects of a folder, or of a bucket of the tests' server."""
    if not url.startswith("s3://"):
        return Objects(url)
    server: S3Server = request.getfixturevalue("s3")
    return server.objects(url)


@pytest.fixture(scope="session")
def stored(stack: Running, request: pytest.FixtureRequest) -> Objects:
    """The objects of that service."""
    return objects_at(stack.storage, request)


@pytest.fixture(scope="session")
def lake(stack: Running, request: pytest.FixtureRequest) -> Objects:
    """Where that service lets datasets lie that come by uri."""
    return objects_at(beside(stack.storage), request)


@pytest.fixture(scope="session")
def keyed_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A second service, that has a key and so wants one with each request; see `make_key`."""
    data = tmp_path_factory.mktemp("keyed")
    with running(data, environment=ONE_THREAD) as service:
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
