"""What one tenant notices of another that does its worst: `python -m benchmarks.load fairness`.

Tenant B looks at a job, has a tiny job done and a small dataset checked, one after the other, alone and beside tenant
A, in windows that alternate within one run. A's clients are processes of low priority on the same machine. One worker.
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import redis
import torch
from torch import nn

from benchmarks.load.busy import MODEL, REQUEST, ROWS
from service.auth import Keys, Role
from service.local.background import Running, running
from service.storage.queue import TaskQueue
from upweight import Client
from upweight.schema import JobState

LISTENERS, SECONDS, ROUNDS = 2_000, 45.0, 2  # windows of 45 s: a p99 of 200 samples and more
ENDLESS = REQUEST | {"blocks": {"spread": False}}
TINY = REQUEST | {"inversion": {"method": "direct"}, "reuse": False}
LOOKS = "GET of a job", "tiny job, from POST to done", "check of a dataset"


@dataclass(frozen=True)
class Tenant:
    """A namespace with a model and rows."""

    url: str
    key: str

    def http(self) -> httpx2.Client:
        """A client of its own connection."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=300, trust_env=False)

    def prepare(self) -> None:
        """Registers both."""
        with Client(self.url, api_key=self.key) as client:
            torch.manual_seed(0)
            x = torch.randn(300, 8)
            network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
            client.models.register(MODEL, network, example=x[:2], loss="cross_entropy")
            client.datasets.register(ROWS, x=x, y=(x[:, 0] > 0).long() + (x[:, 1] > 0))

    def dataset(self, http: httpx2.Client) -> dict[str, Any]:
        """What registers a dataset that nobody has registered."""
        from safetensors.torch import save

        x = torch.rand(8, 8, generator=torch.Generator().manual_seed(_seed()))
        data = save({"x": x, "y": torch.arange(8)})
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        http.put(f"/v1/blobs/{digest}", content=data).raise_for_status()
        return {"name": f"d{os.urandom(6).hex()}", "format": "safetensors", "blobs": [digest]}


def _seed() -> int:
    return int.from_bytes(os.urandom(7))


def patiently(send: Callable[[], httpx2.Response], stop: Any) -> bool:
    """Whether it was accepted; waits as it is told where it was not."""
    answer = send()
    if answer.status_code == 429:
        stop.wait(float(answer.headers["retry-after"]))
    return answer.status_code == 202


def checks(tenant: Tenant, stop: Any) -> int:
    """As many datasets as are taken, from eight connections."""

    def one() -> None:
        with tenant.http() as http:
            while not stop.is_set():
                made.append(
                    patiently(lambda: http.post("/v1/datasets", json=tenant.dataset(http)), stop)
                )

    made: list[bool] = []
    _together(one, 8)
    return sum(made)


def high(tenant: Tenant, stop: Any) -> int:
    """As many jobs of high priority as are taken, from eight connections."""

    def one() -> None:
        with tenant.http() as http:
            while not stop.is_set():
                body = TINY | {"priority": "high", "seed": len(made)}
                made.append(patiently(partial(http.post, "/v1/jobs", json=body), stop))

    made: list[bool] = []
    _together(one, 8)
    return sum(made)


def long(tenant: Tenant, stop: Any) -> int:
    """One job in one task, without end."""
    with tenant.http() as http:
        id = http.post("/v1/jobs", json=ENDLESS).json()["id"]
        stop.wait()
        http.post(f"/v1/jobs/{id}/cancel")
        http.get(f"/v1/jobs/{id}", params={"wait": 60})
    return 1


def listeners(tenant: Tenant, stop: Any) -> int:
    """Half event streams, half held answers, all on a job that is computed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * LISTENERS)), hard))
    with tenant.http() as http:
        id = http.post("/v1/jobs", json=ENDLESS).json()["id"]
        open_ = asyncio.run(_listen(tenant, id, stop))
        http.post(f"/v1/jobs/{id}/cancel")
        http.get(f"/v1/jobs/{id}", params={"wait": 60})
    return open_


async def _listen(tenant: Tenant, id: str, stop: Any) -> int:
    host, _, port = tenant.url.removeprefix("http://").rpartition(":")
    heard: set[int] = set()

    async def one(number: int) -> None:
        path = f"/v1/jobs/{id}/events" if number % 2 else f"/v1/jobs/{id}?wait=60"
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {tenant.key}\r\n\r\n"
        )
        while True:
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(request.encode())
                while data := await reader.read(65_536):
                    heard.add(number)
                    if number % 2 == 0 and data.endswith(b"}"):
                        writer.write(request.encode())
            finally:
                writer.close()

    tasks = []
    for number in range(LISTENERS):
        tasks.append(asyncio.create_task(one(number)))
        if number % 50 == 0:
            await asyncio.sleep(0.1)
    while not stop.is_set():
        await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return LISTENERS


def _together(act: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=act) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _act(
    worst: Callable[[Tenant, Any], int], tenant: Tenant, begun: Any, stop: Any, count: Any
) -> None:
    os.nice(10)
    begun.set()
    count.value = worst(tenant, stop)


WORSTS = {
    "datasets to be checked, as many as are taken": (checks, 3.0),
    "a job in one task without end": (long, 3.0),
    "jobs of high priority, by a key that may": (high, 3.0),
    f"{LISTENERS} streams and held answers on a running job": (listeners, 15.0),
}


@contextmanager
def doing_its_worst(
    worst: Callable[[Tenant, Any], int], tenant: Tenant, lead: float, service: Running
) -> Iterator[Any]:
    """A at it; afterwards nothing of it waits any more."""
    spawn = multiprocessing.get_context("spawn")
    begun, stop, count = spawn.Event(), spawn.Event(), spawn.Value("i", 0)
    process = spawn.Process(target=_act, args=(worst, tenant, begun, stop, count), daemon=True)
    process.start()
    begun.wait()
    time.sleep(lead)
    try:
        yield count
    finally:
        stop.set()
        process.join()
        with redis.Redis.from_url(service.redis_url) as connection:
            queue = TaskQueue(connection, 1)
            while any(queue.lengths().values()):
                time.sleep(0.1)
        time.sleep(1)


@dataclass
class Looks:
    """Seconds that each of B's looks took."""

    found: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in LOOKS})

    def take(self, tenant: Tenant, job: str) -> None:
        """For a window of time."""
        began = time.perf_counter()
        with tenant.http() as http:
            while time.perf_counter() - began < SECONDS:
                for _ in range(10):
                    self._timed(LOOKS[0], lambda: http.get(f"/v1/jobs/{job}").raise_for_status())
                self._timed(LOOKS[1], lambda: self._job(http))
                body = tenant.dataset(http)
                self._timed(LOOKS[2], partial(self._check, http, body))

    def _timed(self, name: str, act: Callable[[], object]) -> None:
        began = time.perf_counter()
        act()
        self.found[name].append(time.perf_counter() - began)

    @staticmethod
    def _job(http: httpx2.Client) -> None:
        id = http.post("/v1/jobs", json=TINY).raise_for_status().json()["id"]
        ended = http.get(f"/v1/jobs/{id}", params={"wait": 60}).json()["state"]
        assert ended == JobState.SUCCEEDED, ended

    @staticmethod
    def _check(http: httpx2.Client, body: dict[str, Any]) -> None:
        id = http.post("/v1/datasets", json=body).raise_for_status().json()["id"]
        ended = http.get(f"/v1/datasets/{id}", params={"wait": 60}).json()
        assert ended["state"] == "ready", ended

    def at(self, name: str, part: float) -> float:
        """Milliseconds within which that part of the looks came back."""
        values = sorted(self.found[name])
        return 1000 * values[min(len(values) - 1, int(part * len(values)))]


def main() -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory() as folder:
        limits = {"UPWEIGHT_THREADS": "1", "UPWEIGHT_NAMESPACE_LISTENERS": str(LISTENERS)}
        with running(Path(folder), environment=limits) as service:
            with redis.Redis.from_url(service.redis_url) as connection:
                keys = Keys(connection)
                a, b = (
                    Tenant(service.url, keys.create(name, role, "benchmark")[1])
                    for name, role in (("a", Role.ADMIN), ("b", Role.WRITE))
                )
            for tenant in (a, b):
                tenant.prepare()
            with b.http() as http:
                job = http.post("/v1/jobs", json=TINY).json()["id"]
                http.get(f"/v1/jobs/{job}", params={"wait": 60})
            Looks().take(b, job)  # warm
            for name, (worst, lead) in WORSTS.items():
                alone, beside, counts = Looks(), Looks(), []
                for _ in range(ROUNDS):
                    alone.take(b, job)
                    with doing_its_worst(worst, a, lead, service) as count:
                        beside.take(b, job)
                    counts.append(count.value)
                print(f"\n{name} ({', '.join(map(str, counts))} accepted)", flush=True)
                _tell(alone, beside)


def _tell(alone: Looks, beside: Looks) -> None:
    for name in LOOKS:
        line = f"  {name:<28}"
        for part, title in ((0.5, "p50"), (0.99, "p99")):
            first, second = alone.at(name, part), beside.at(name, part)
            line += f"  {title} {first:8.1f} → {second:8.1f} ms ({second / first:5.2f} ×)"
        print(f"{line}  of {len(alone.found[name])} and {len(beside.found[name])}", flush=True)
