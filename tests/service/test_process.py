"""The front end as a process: how it starts, how it ends, what it weighs, and Redis going away under it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from service.auth import Keys, Role
from service.local.redis_server import RedisServer
from service.local.watchdog import Watchdog
from service.storage.records import Records
from service.storage.redis import connect
from tests.patience import PATIENCE, until

MIB = 1024**2


class Process:
    """`python -m service`, its address and its log."""

    def __init__(self, redis_url: str, folder: Path, **environment: str) -> None:
        plain = {name: value for name, value in os.environ.items() if "REDIS_URL" not in name}
        told = {
            "UPWEIGHT_REDIS_URL": redis_url,
            "UPWEIGHT_STORAGE": str(folder),
            "UPWEIGHT_PORT": "0",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service"],
            env=plain | told | environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[dict[str, object]] = []
        self.url = ""
        self._reader = threading.Thread(target=self._read, daemon=True)

    def wait_until_listening(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == "listening":
                self.url = str(self.log[-1]["url"])
                self._reader.start()
                return
        raise AssertionError(self.log)

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(json.loads(line) for line in self.process.stderr)

    def end(self) -> None:
        """Killed, and all read that it wrote."""
        self.process.kill()
        self.process.wait()
        if self._reader.ident is not None:
            self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def memory(self) -> int:
        """Resident bytes, now."""
        status = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(status.split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running(redis_url: str, folder: Path, **environment: str) -> Iterator[Process]:
    front = Process(redis_url, folder, **environment)
    try:
        front.wait_until_listening()
        yield front
    finally:
        front.end()


def test_it_imports_neither_torch_nor_zarr(redis_url: str, tmp_path: Path) -> None:
    with running(redis_url, tmp_path) as front:
        maps = Path(f"/proc/{front.process.pid}/maps")
        if maps.exists():
            assert "libtorch" not in maps.read_text()
    code = "import sys, service.app; print(sorted({'torch', 'zarr'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_it_ends_soon_though_clients_follow_and_wait(redis_url: str, tmp_path: Path) -> None:
    records = Records(connect(redis_url))
    job = {
        "id": "job_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "state": "running",
        "attempt": 1,
        "request": {
            "kind": "influences",
            "model": "a",
            "train": {"dataset": "b"},
            "test": {"dataset": "c"},
            "inversion": {"method": "cg"},
        },
        "model_id": "m",
        "train_id": "t",
        "hessian_id": "t",
        "created_at": "2026-01-01T00:00:00Z",
    }
    records.create("job", "default", job)
    with running(redis_url, tmp_path) as front, httpx2.Client(base_url=front.url) as client:
        answers: list[int] = []
        sent = threading.Semaphore(0)

        def traced(event: str, _: object) -> None:
            if event == "http11.send_request_body.complete":
                sent.release()

        def follow() -> None:
            path = f"/v1/jobs/{job['id']}/events"
            with client.stream("GET", path, timeout=120, extensions={"trace": traced}) as answer:
                answer.read()
                answers.append(answer.status_code)

        def wait() -> None:
            path, given = f"/v1/jobs/{job['id']}", {"wait": 60}
            answer = client.get(path, params=given, timeout=70, extensions={"trace": traced})
            answers.append(answer.status_code)

        threads = [threading.Thread(target=each) for each in (follow, wait)]
        for thread in threads:
            thread.start()
        assert all(sent.acquire(timeout=PATIENCE) for _ in threads)
        for _ in range(2):  # what was sent before is read before the second of these is answered
            assert client.get("/healthz", timeout=PATIENCE).status_code == 200
        front.process.send_signal(signal.SIGTERM)
        front.process.wait(50)
        for thread in threads:
            thread.join(60)
        assert answers == [200, 200]
        # uvicorn ends by the signal itself, once all is closed.
        assert front.process.returncode in (0, -signal.SIGTERM)
    records.redis.close()


def test_a_large_blob_passes_through_little_memory(redis_url: str, tmp_path: Path) -> None:
    size, piece = 384 * MIB, os.urandom(MIB)
    digest = hashlib.sha256()
    for _ in range(size // MIB):
        digest.update(piece)
    path = f"/v1/blobs/sha256:{digest.hexdigest()}"
    with running(redis_url, tmp_path) as front, httpx2.Client(base_url=front.url) as client:
        client.get("/v1/jobs")
        idle = peak = front.memory()

        def watched() -> Iterator[bytes]:
            nonlocal peak
            for _ in range(size // MIB):
                yield piece
                peak = max(peak, front.memory())

        assert client.put(path, content=watched(), timeout=120).status_code == 201
        got = hashlib.sha256()
        with client.stream("GET", path, timeout=120) as answer:
            for part in answer.iter_bytes():
                got.update(part)
                peak = max(peak, front.memory())
        assert got.digest() == digest.digest()
        assert peak - idle < 100 * MIB


def test_beyond_loopback_it_starts_only_with_a_key(redis_url: str, tmp_path: Path) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "service"],
        env=os.environ
        | {"UPWEIGHT_REDIS_URL": redis_url, "UPWEIGHT_HOST": "0.0.0.0", "UPWEIGHT_PORT": "0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert refused.returncode == 2
    assert "python -m service.keys create" in refused.stderr
    redis = connect(redis_url)
    _, text = Keys(redis).create("vision", Role.READ, "first")
    redis.close()
    with running(redis_url, tmp_path, UPWEIGHT_HOST="0.0.0.0") as front:
        url = front.url.replace("0.0.0.0", "127.0.0.1")
        assert httpx2.get(f"{url}/v1/jobs").status_code == 401
        headers = {"Authorization": f"Bearer {text}"}
        assert httpx2.get(f"{url}/v1/jobs", headers=headers).status_code == 200
        secret = text.rsplit("_", 1)[1]
        assert secret not in json.dumps(front.log)


def test_keys_are_made_listed_and_revoked_from_a_shell(redis_url: str) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "service.keys", *arguments],
            env=os.environ | {"UPWEIGHT_REDIS_URL": redis_url},
            capture_output=True,
            text=True,
            timeout=120,
        )

    made = run("create", "--namespace", "vision", "--role", "read", "--name", "ann")
    id = made.stdout.split("_")[1]
    assert json.loads(run("list", "--json").stdout.splitlines()[0])["namespace"] == "vision"
    assert run("revoke", id).returncode == 0
    assert run("revoke", id).returncode == 3


@pytest.fixture
def own_redis(tmp_path: Path, watchdog: Watchdog) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis", watchdog=watchdog)
    server.start()
    yield server
    server.stop()


def test_without_redis_it_says_when_to_come_again_and_recovers(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    with running(own_redis.url, tmp_path / "objects") as front:
        client = httpx2.Client(base_url=front.url, timeout=120)
        assert client.get("/v1/jobs").status_code == 200
        own_redis.stop()
        answer = client.get("/v1/jobs")
        assert (answer.status_code, answer.json()["type"]) == (503, "unavailable")
        assert answer.headers["retry-after"] == "5"
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert not ready.json()["components"][0]["ready"]
        own_redis.start()
        until(lambda: client.get("/v1/jobs").status_code == 200)
        client.close()
