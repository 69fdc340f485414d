"""`upweight keys`, against a real Redis."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from redis import Redis

from service.auth import Keys, Role
from service.local.folder import locked
from service.local.state import State
from tests.patience import PATIENCE


def run(*arguments: str, redis_url: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "REDIS_URL" not in name}
    if redis_url is not None:
        environment["REDIS_URL"] = redis_url
    return subprocess.run(
        [sys.executable, "-m", "upweight.cli", "keys", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_a_key_is_printed_once_works_and_can_be_taken_back(redis_url: str) -> None:
    made = run(
        "create", "--name", "ci", "--namespace", "vision", "--role", "read", redis_url=redis_url
    )
    assert made.returncode == 0, made.stderr
    text = made.stdout.strip()
    assert "not shown again" in made.stderr
    with Redis.from_url(redis_url) as redis:
        caller = Keys(redis).caller(text)
        assert (caller.namespace, caller.role) == ("vision", Role.READ)

    listed = run("list", redis_url=redis_url).stdout
    assert "ci" in listed
    assert "vision" in listed
    assert text.rsplit("_", 1)[1] not in listed

    assert run("revoke", text.split("_")[1], redis_url=redis_url).returncode == 0
    assert run("list", redis_url=redis_url).stdout == ""
    again = run("revoke", text.split("_")[1], redis_url=redis_url)
    assert again.returncode == 3
    assert "no key" in again.stderr


def test_keys_can_be_made_before_the_service_starts(tmp_path: Path) -> None:
    folder = ["--data-dir", str(tmp_path / "data")]
    made = run("create", "--name", "first", *folder)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("uwk_")
    assert "first" in run("list", *folder).stdout


def test_the_service_of_a_folder_is_found_by_its_folder(tmp_path: Path, redis_url: str) -> None:
    with locked(tmp_path):  # as a running service holds it
        State(url="", redis_url=redis_url, storage="", pid=os.getpid(), pids={}).write(tmp_path)
        made = run("create", "--name", "mine", "--data-dir", str(tmp_path))
    assert made.returncode == 0, made.stderr
    with Redis.from_url(redis_url) as redis:
        assert [key.name for key in Keys(redis).list()] == ["mine"]


def test_a_redis_that_does_not_answer_is_said_in_one_line() -> None:
    ended = run("list", redis_url="redis://127.0.0.1:1/0")
    assert ended.returncode == 1
    assert "Redis" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_name_that_is_none_is_refused_in_words(redis_url: str) -> None:
    ended = run("create", "--name", "a b", redis_url=redis_url)
    assert ended.returncode == 1
    assert "'a b'" in ended.stderr
