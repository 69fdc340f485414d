"""The service on one machine: it comes back after what kills its parts, and leaves nothing behind."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
import redis

from service.local.background import Running, running
from service.local.redis_server import RedisServer
from service.local.state import State
from tests.faults.watched import files_below
from tests.local.processes import ended
from tests.patience import PATIENCE

pytestmark = pytest.mark.timeout(240)


def test_parts_that_are_killed_come_back_and_whatever_ends_it_leaves_data_and_nothing_else(
    tmp_path: Path,
) -> None:
    """Killed parts, a killed supervisor, a stop, a closed terminal and Ctrl-C, one after the other on one folder."""
    with running(tmp_path, workers=2) as service:
        assert set(service.state().pids) == {"redis", "front", "worker-1", "worker-2"}
        with redis.Redis.from_url(service.redis_url) as client:
            client.set("kept", "yes")
            client.waitaof(1, 0, int(PATIENCE * 1000))  # until it is on disk

        for name in ("worker-1", "front", "redis"):
            others = {other: pid for other, pid in service.state().pids.items() if other != name}
            service.restart(name)
            after = service.state().pids
            assert {other: after[other] for other in others} == others, "only what died is started"
        assert_kept(service)

        pids = list(service.state().pids.values())
        service.supervisor.send(signal.SIGKILL)
        assert service.supervisor.wait(PATIENCE)
        assert all(ended(pid) for pid in pids)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        with running(tmp_path) as again:
            assert again.state().pid != service.supervisor.pid
            assert_kept(again)
            pids = [again.supervisor.pid, *again.state().pids.values()]
            again.supervisor.send(number)
            assert again.supervisor.wait(PATIENCE), number.name
        assert again.supervisor.returncode == 0, number.name
        assert all(ended(pid) for pid in pids), number.name
        assert not (tmp_path / "state.json").exists(), number.name


def assert_kept(service: Running) -> None:
    with redis.Redis.from_url(service.redis_url) as client:
        assert client.get("kept") == b"yes"


def test_a_full_disk_is_named_in_one_line(tmp_path: Path) -> None:
    data = tmp_path / "data"
    # No file may grow in that process: like a full disk, but for the number of the error.
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); import runpy, sys; "
    )
    limited += f"sys.argv = ['local', '--data-dir', {str(data)!r}, '--port', '0']; "
    limited += "runpy.run_module('service.local', run_name='__main__')"
    ended = subprocess.run(
        [sys.executable, "-B", "-c", limited], capture_output=True, text=True, timeout=PATIENCE
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 1
    assert "Traceback" not in said
    assert f"{data} can't be written: File too large. See that its disk has room" in said


def test_all_files_are_for_their_user_alone_whatever_the_umask(tmp_path: Path) -> None:
    data = tmp_path / "data"
    before = os.umask(0)
    try:
        data.mkdir()  # as an older version left it
        with running(data) as service:
            httpx2.post(f"{service.state().url}/v1/webhooks/secret/rotate").raise_for_status()
            body = b"x" * 100_000
            path = f"/v1/blobs/sha256:{hashlib.sha256(body).hexdigest()}"
            httpx2.put(f"{service.state().url}{path}", content=body).raise_for_status()
            found = files_below(data)
            folders = [Path(folder) for folder, _, _ in os.walk(data)]
            modes = {}
            for path in found + folders:
                with suppress(FileNotFoundError):  # renamed meanwhile
                    modes[path] = path.stat().st_mode & 0o777
    finally:
        os.umask(before)
    assert len(found) > 3
    assert {str(path): oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


def test_a_second_one_on_the_same_folder_is_refused(stack: Running) -> None:
    words = refused("--data-dir", str(stack.data), "--port", "0")
    assert "Another Upweight runs on" in words
    assert "--data-dir" in words
    assert State.read(stack.data).pid == stack.supervisor.pid  # and the first is none the worse


def test_a_taken_port_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = refused("--data-dir", str(tmp_path), "--port", port)
    assert f"Port {port}" in words
    assert "--port" in words
    assert not (tmp_path / "redis").exists()


def test_a_redis_that_is_there_already_is_used(tmp_path: Path, redis_url: str) -> None:
    with running(tmp_path, environment={"REDIS_URL": redis_url}) as service:
        assert service.redis_url == redis_url
        assert "redis" not in service.state().pids
        assert not (tmp_path / "redis").exists()


def test_a_front_end_that_cannot_start_ends_it_all_with_the_reason(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    words = refused(
        "--data-dir",
        str(tmp_path),
        "--port",
        "0",
        environment={"UPWEIGHT_REDIS_URL": redis_server.url, "UPWEIGHT_LEASE_SECONDS": "-1"},
    )
    assert "ended with code" in words
    assert "lease_seconds" in words.lower()


def test_what_the_folder_holds_is_for_its_owner_alone(stack: Running) -> None:
    for name in ("state.json", "redis/valkey.conf"):
        assert (stack.data / name).stat().st_mode & 0o077 == 0, name


def test_the_processes_logs_carry_their_names(stack: Running) -> None:
    with urllib.request.urlopen(f"{stack.url}/healthz") as answer:
        assert answer.status == 200
    log = (stack.data / "log").read_text()
    assert "front | " in log
    assert f"Upweight is ready at {stack.url}" in log


def refused(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Start a supervisor that must end by itself with 1; what it said."""
    ended = subprocess.run(
        [sys.executable, "-m", "service.local", *arguments],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 1, ended.stderr
    return ended.stderr
