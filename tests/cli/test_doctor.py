"""`upweight doctor`, on set-ups that are right and on ones that are wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client

from service.doctor.checks import unknown, workers
from service.local.background import Running
from service.local.redis_server import RedisServer
from service.private import open_to_others
from service.storage.workers import register
from tests.cli.conftest import Ended, Upweight
from tests.patience import PATIENCE
from upweight import __version__
from upweight.cli.exits import Exit

WORKER = {"device": "cpu", "queues": ["high", "default", "low"], "host": "here", "torch": "2.13.0"}


def told(ended: Ended) -> dict[str, tuple[str, str]]:
    """State and words of each thing, the worst where there are several."""
    worst = {"ok": 0, "warn": 1, "fail": 2}
    found: dict[str, tuple[str, str]] = {}
    for each in sorted(ended.documents, key=lambda each: worst[each["state"]]):
        found[each["name"]] = (each["state"], each["detail"])
    return found


@pytest.fixture
def here(upweight: Upweight, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Looks at this machine, with these variables set."""

    def look(*arguments: str, **environment: str) -> Ended:
        for name in list(os.environ):
            if name.startswith("UPWEIGHT_") or name == "REDIS_URL":
                monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return upweight("doctor", *arguments, "--json")

    return look


def test_a_service_on_this_machine_is_found_by_its_folder(here: Any, stack: Running) -> None:
    ended = here("--data-dir", str(stack.data))
    found = told(ended)
    assert ended.code == 0, ended.out
    assert {"service", "settings", "redis", "persistence", "clock"} <= set(found)
    assert {"storage", "workers", "versions", "device"} <= set(found)
    assert found["persistence"] == ("ok", "append-only file")
    assert "create-if-absent" in found["storage"][1]
    assert stack.url in found["service"][1]
    password = stack.redis_url.split("@")[0].rpartition(":")[2]
    assert password not in ended.out


def test_a_table_for_people_has_a_line_a_finding(
    upweight: Upweight, stack: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPWEIGHT_URL", stack.url)
    lines = upweight("doctor").out.splitlines()
    assert lines[0].split()[:2] == ["ok", "service"]
    assert ["ok", "key"] in [line.split()[:2] for line in lines]


def test_no_service_is_said_with_the_way_to_one(here: Any, tmp_path: Path) -> None:
    ended = here("--data-dir", str(tmp_path))
    assert ended.code == Exit.FAILED
    assert "upweight serve" in told(ended)["service"][1]


def test_a_redis_that_does_not_answer_is_named_without_its_password(here: Any) -> None:
    ended = here(UPWEIGHT_REDIS_URL="redis://:secret@127.0.0.1:1/0")
    state, words = told(ended)["redis"]
    assert (ended.code, state) == (Exit.FAILED, "fail")
    assert "redis://127.0.0.1:1/0" in words
    assert "secret" not in ended.out


@contextmanager
def configured(server: RedisServer, **values: str) -> Iterator[None]:
    """A real Redis, set up wrongly for a while."""
    with redis_client.Redis.from_url(server.url) as client:
        names = {name.replace("_", "-"): value for name, value in values.items()}
        before = {name: client.config_get(name)[name] for name in names}
        for name, value in names.items():
            client.config_set(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                client.config_set(name, value)


def test_a_redis_that_forgets_is_a_failure(
    here: Any, redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    where = {"UPWEIGHT_REDIS_URL": redis_url, "UPWEIGHT_STORAGE": str(tmp_path)}
    with configured(
        redis_server, appendonly="no", maxmemory="100mb", maxmemory_policy="allkeys-lru"
    ):
        found = told(here(**where))
    assert found["persistence"][0] == "fail"
    assert "appendonly yes" in found["persistence"][1]
    assert "noeviction" in found["memory"][1]
    assert found["workers"] == ("fail", "none is alive: jobs wait; start one: upweight worker")


def test_a_storage_that_can_not_be_written_is_a_failure(here: Any, redis_url: str) -> None:
    found = told(here(UPWEIGHT_REDIS_URL=redis_url, UPWEIGHT_STORAGE="/proc/objects"))
    assert found["storage"][0] == "fail"
    assert "UPWEIGHT_STORAGE" in found["storage"][1]


def test_objects_that_other_users_can_read_are_a_warning(here: Any, redis_url: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if open_to_others(folder.parent):
            folder.chmod(0o755)
        else:
            pytest.skip("the temporary files of this machine are private")
        where = {"UPWEIGHT_REDIS_URL": redis_url, "UPWEIGHT_STORAGE": name}
        state, words = told(here(**where))["storage"]
        assert (state, f"chmod 700 {name}" in words) == ("warn", True)
        folder.chmod(0o700)
        assert not open_to_others(folder)
        assert told(here(**where))["storage"][0] == "ok"


def test_settings_that_are_mistyped_or_wrong_are_named(
    here: Any, redis_url: str, tmp_path: Path
) -> None:
    where = {"UPWEIGHT_REDIS_URL": redis_url, "UPWEIGHT_STORAGE": str(tmp_path)}
    state, words = told(here(**where, UPWEIGHT_DEVISE="cpu"))["settings"]
    assert (state, "did you mean UPWEIGHT_DEVICE?" in words) == ("warn", True)
    state, words = told(here(**where, UPWEIGHT_PORT="many"))["settings"]
    assert (state, "UPWEIGHT_PORT" in words) == ("fail", True)
    assert unknown({"UPWEIGHT_URL": "x", "UPWEIGHT_LOG_LEVEL": "info", "HOME": "/"}) == []


def test_workers_that_do_not_fit_each_other_are_told(redis_url: str) -> None:
    with redis_client.Redis.from_url(redis_url) as client:
        register(client, "a", {**WORKER, "version": __version__}, 60)
        assert {finding.state for finding in workers(client, "auto")} == {"ok"}
        register(client, "b", {**WORKER, "version": "0.0.1", "queues": ["high"]}, 60)
        said = {finding.name: finding.detail for finding in workers(client, "cuda:0")}
        assert "0.0.1" in said["versions"]
        assert "UPWEIGHT_DEVICE is cuda:0, and the workers run on cpu" in said["device"]
        now = {**WORKER, "version": __version__, "queues": ["high"]}
        register(client, "a", {**now, "torch": "2.12.0"}, 60)
        register(client, "b", now, 60)
        said = {finding.name: finding.detail for finding in workers(client, "auto")}
        assert "2.12.0, 2.13.0" in said["versions"]
        assert "default, low" in said["queues"]


def test_from_outside_the_key_and_its_role_are_looked_at(
    upweight: Upweight, keyed_stack: Running, make_key: Callable[..., str]
) -> None:
    url = ("--url", keyed_stack.url, "--json")
    refused = upweight("doctor", *url, "--api-key", "uwk_wrong")
    assert refused.code == Exit.FAILED
    assert "UPWEIGHT_API_KEY" in told(refused)["key"][1]
    ended = upweight("doctor", *url, "--api-key", make_key("vision", "read"))
    state, words = told(ended)["key"]
    assert state == "ok"
    assert "role read, namespace vision" in words
    assert "uwk_" not in ended.out


def test_from_outside_a_service_that_is_not_there_is_named(
    upweight: Upweight, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPWEIGHT_APIKEY", "x")
    ended = upweight("doctor", "--url", "http://127.0.0.1:1", "--json")
    found = told(ended)
    assert (ended.code, found["service"][0]) == (Exit.FAILED, "fail")
    assert "did you mean UPWEIGHT_API_KEY?" in found["settings"][1]


def test_the_examination_by_itself_prints_a_document_a_line(stack: Running) -> None:
    environment = {name: value for name, value in os.environ.items() if "REDIS_URL" not in name}
    command = [sys.executable, "-m", "service.doctor", str(stack.data)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("{") for line in done.stdout.splitlines())
