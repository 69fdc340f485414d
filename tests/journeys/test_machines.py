"""Workers in network namespaces of their own, as separate machines are: two addresses are all that joins them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from service.auth import Keys, Role
from service.local.process import Process
from service.local.redis_server import server_binary
from service.local.watchdog import Watchdog
from service.settings import Settings
from service.storage.objects import Objects, store_options
from service.storage.workers import alive
from tests.journeys import subjects
from tests.patience import PATIENCE
from tests.s3_server import CREDENTIALS
from upweight import Client

pytestmark = pytest.mark.timeout(600)
PASSWORD = uuid4().hex


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=PATIENCE)


@dataclass
class Network:
    """A hub with one address, and machines that each have a cable to it and no other."""

    hub: str
    address: str
    machines: list[str]


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` (iproute2) here to make network namespaces with")
    token, net = uuid4().hex[:5], f"10.{random.randint(100, 250)}"
    hub, first, second = (f"uw{token}{name}" for name in "hab")
    address = f"{net}.0.1"
    with ExitStack() as undo:
        try:
            for name in (hub, first, second):
                ip("netns", "add", name)
                undo.callback(ip, "netns", "del", name)
                ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as refused:
            pytest.skip(
                f"no network namespaces can be made here: {refused.stderr.decode().strip()}"
            )
        ip("-n", hub, "address", "add", f"{address}/32", "dev", "lo")
        # The tests themselves sit at a third cable.
        for number, (machine, inside) in enumerate(
            ((first, ["-n", first]), (second, ["-n", second]), (None, []))
        ):
            near, far = f"uw{token}n{number}", f"uw{token}f{number}"
            ip("link", "add", near, "type", "veth", "peer", "name", far)
            if machine is None:
                undo.callback(ip, "link", "del", far)
            else:
                ip("link", "set", far, "netns", machine)
            ip("link", "set", near, "netns", hub)
            ip("-n", hub, "address", "add", f"{net}.{number + 1}.1/30", "dev", near)
            ip("-n", hub, "link", "set", near, "up")
            ip(*inside, "address", "add", f"{net}.{number + 1}.2/30", "dev", far)
            ip(*inside, "link", "set", far, "up")
            ip(*inside, "route", "add", f"{address}/32", "via", f"{net}.{number + 1}.1")
        yield Network(hub, address, [first, second])


class Machines:
    """Redis, S3 and the front end in the hub, workers wherever they are started."""

    def __init__(self, network: Network, folder: Path, watchdog: Watchdog) -> None:
        self.network = network
        self.folder = folder
        self.watchdog = watchdog
        self.processes: list[Process] = []
        self.redis_url = f"redis://:{PASSWORD}@{network.address}:6379/0"
        self.s3 = f"http://{network.address}:5000"
        self.url = f"http://{network.address}:8765"
        self.environment = {
            **os.environ,
            **CREDENTIALS,
            "UPWEIGHT_REDIS_URL": self.redis_url,
            "UPWEIGHT_STORAGE": "s3://bucket/upweight",
            "UPWEIGHT_STORAGE_ENDPOINT": self.s3,
            "UPWEIGHT_STORAGE_REGION": "us-east-1",
            "UPWEIGHT_STORAGE_ALLOW_HTTP": "true",
            "UPWEIGHT_ORPHAN_SECONDS": "1e10",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, machine: str, name: str, *command: str, **environment: str) -> Process:
        process = Process(
            name,
            ["ip", "netns", "exec", machine, *command],
            watchdog=self.watchdog,
            environment={**self.environment, **environment},
        )
        process.start()
        self.processes.append(process)
        return process

    def worker(self, machine: str, *options: str, **environment: str) -> Process:
        """`upweight worker` on a machine, with a disk of its own."""
        scratch = self.folder / machine
        scratch.mkdir()
        command = [sys.executable, "-m", "upweight.cli", "worker", *options]
        return self.start(machine, machine, *command, UPWEIGHT_SCRATCH=str(scratch), **environment)

    def until(self, met: Callable[[], bool], seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if met():
                    return
            except (OSError, redis.RedisError):
                pass
            said = {process.name: list(process.tail) for process in self.processes}
            assert time.monotonic() < deadline, said
            time.sleep(0.1)

    def alive(self) -> int:
        with redis.Redis.from_url(self.redis_url) as client:
            return len(alive(client))

    def answers(self, url: str, method: str = "GET") -> bool:
        request = urllib.request.Request(url, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(request, timeout=PATIENCE).close()
        return True


@pytest.fixture(scope="module")
def machines(
    network: Network, watchdog: Watchdog, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("machines")
    made = Machines(network, folder, watchdog)
    hub = network.hub
    valkey = ["--bind", network.address, "--requirepass", PASSWORD, "--dir", str(folder)]
    moto = str(Path(sys.executable).with_name("moto_server"))
    made.start(hub, "redis", str(server_binary()), *valkey)
    made.start(hub, "s3", moto, "-H", network.address, "-p", "5000")
    made.until(lambda: made.answers(f"{made.s3}/moto-api/"))
    made.answers(f"{made.s3}/bucket", "PUT")
    made.until(lambda: made.alive() == 0)
    yield made
    for process in reversed(made.processes):
        process.stop(25.0)


def test_a_job_runs_on_whichever_machine_has_a_worker(machines: Machines) -> None:
    with pytest.MonkeyPatch.context() as patch, redis.Redis.from_url(machines.redis_url) as client:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        options = Settings(
            storage_endpoint=machines.s3, storage_region="us-east-1", storage_allow_http=True
        )
        objects = Objects("s3://bucket/upweight", store_options(options))
        key = Keys(client, objects).create("default", Role.WRITE, "test")[1]
    host = {"UPWEIGHT_HOST": machines.network.address, "UPWEIGHT_PORT": "8765"}
    machines.start(machines.network.hub, "front", sys.executable, "-m", "service", **host)
    first, second = machines.network.machines
    pair = machines.worker(first, "--queues", "high,default", "--workers", "2", "--device", "cpu")
    # Its disk holds the rows that its memory may not.
    machines.worker(second, "--queues", "default,high,low", UPWEIGHT_CACHE_BYTES="2000")
    machines.until(lambda: machines.alive() == 3 and machines.answers(f"{machines.url}/healthz"))

    iris = subjects.iris()
    with Client(machines.url, api_key=key) as online:
        iris.register(online)
        jobs = [
            online.compute_influences(
                *iris.names, hessian_regularization=iris.damping, reuse=False, wait=False
            )
            for _ in range(6)
        ]
        done = [online.jobs.wait(each.job) for each in jobs]
        matrices = {each.numpy().tobytes() for each in jobs}
        assert len(matrices) == 1

        pair.send(signal.SIGTERM)
        assert pair.wait(PATIENCE)
        machines.until(lambda: machines.alive() == 1)
        alone = online.compute_influences(
            *iris.names, hessian_regularization=iris.damping, reuse=False
        )
        assert {alone.numpy().tobytes()} == matrices
        assert list((machines.folder / second).rglob("upweight-cache-*/*/0"))
    assert all(each.state == "succeeded" for each in done)
    assert pair.returncode == 0
