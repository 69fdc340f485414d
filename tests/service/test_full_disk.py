"""A full disk under Redis: 503 and words, what was refused is not done, and all is there when there is room."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import redis

from service.local.ports import free_port
from service.local.redis_server import server_binary
from tests.patience import PATIENCE
from tests.service.acting import Acting, problem
from tests.service.conftest import run_front, small_settings

UNLIMITED = resource.RLIM_INFINITY


@dataclass
class Disk:
    """A Redis whose append-only file may grow to a size that the test sets: more is "File too large" to it."""

    url: str
    process: int
    folder: Path

    def has_room_for(self, size: int) -> None:
        """So many bytes more, and no more."""
        size += max(path.stat().st_size for path in self.folder.rglob("*.aof"))
        resource.prlimit(self.process, resource.RLIMIT_FSIZE, (size, UNLIMITED))

    def has_room(self) -> None:
        """Until Redis has seen it."""
        resource.prlimit(self.process, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))
        deadline = time.monotonic() + PATIENCE
        with redis.Redis.from_url(self.url) as client:
            while client.info("persistence")["aof_last_write_status"] != "ok":
                assert time.monotonic() < deadline
                time.sleep(0.05)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    port = free_port("127.0.0.1")
    folder = tmp_path / "redis"
    folder.mkdir()
    lines = [f"port {port}", "bind 127.0.0.1", f"dir {folder}", "appendonly yes", 'save ""']
    (tmp_path / "redis.conf").write_text("\n".join([*lines, "appendfsync everysec", ""]))
    url = f"redis://127.0.0.1:{port}/0"
    # Python ignores the signal of a file that grows too large; so does the child then, and sees the error of the write.
    process = subprocess.Popen(
        [server_binary(), tmp_path / "redis.conf"], restore_signals=False, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + PATIENCE
        with redis.Redis.from_url(url) as client:
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
        yield Disk(url, process.pid, folder)
    finally:
        process.kill()
        process.wait()


@contextmanager
def acting_on(disk: Disk, storage: Path) -> Iterator[Acting]:
    where: Any = SimpleNamespace(url=disk.url)
    settings = small_settings(where, storage, namespace_jobs=10_000)
    with (
        contextmanager(run_front)(settings) as front,
        httpx2.Client(base_url=front.url, timeout=120, trust_env=False) as client,
    ):
        yield Acting(client, front.parts)


def test_what_is_refused_is_not_done_and_what_is_accepted_is(disk: Disk, tmp_path: Path) -> None:
    with acting_on(disk, tmp_path / "objects") as acting:
        acting.ready()
        jobs = acting.job_request()
        accepted: set[str] = set()
        for room in range(0, 12_000, 500):  # so that it ends between any two writes of a request
            disk.has_room_for(room)
            refused = None
            deadline = time.monotonic() + PATIENCE
            while refused is None and time.monotonic() < deadline:
                answer = acting.post("/v1/jobs", jobs)
                if answer.status_code == 202:
                    accepted.add(answer.json()["id"])
                else:
                    refused = problem(answer, 503, "unavailable")
                    assert int(answer.headers["retry-after"]) > 0
            assert refused is not None
            assert "disk" in refused["detail"]
            assert acting.client.get("/v1/jobs").status_code == 200, "what is there can be read"
            disk.has_room()
        stored = {each["id"] for each in every(acting, "/v1/jobs")}
        assert stored == accepted
        assert acting.post("/v1/jobs", jobs).status_code == 202


def every(acting: Acting, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    page: dict[str, Any] = {"has_more": True, "next_after": None}
    while page["has_more"]:
        after = f"&after={page['next_after']}" if page["next_after"] else ""
        page = acting.client.get(f"{path}?limit=1000{after}").json()
        found += page["items"]
    return found
