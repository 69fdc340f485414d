"""Connections that say nothing are closed after a while, and keep nobody out."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from service import connections
from service.local.redis_server import RedisServer
from tests.patience import PATIENCE, until

HANDLES = 700


@pytest.fixture
def crowded(redis_server: RedisServer, redis_url: str, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A front end as a process that has few handles."""
    environment = os.environ | {
        "UPWEIGHT_REDIS_URL": redis_url,
        "UPWEIGHT_STORAGE": str(tmp_path),
        "UPWEIGHT_PORT": "0",
    }
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({HANDLES},) * 2); "
    limited += "import runpy; runpy.run_module('service', run_name='__main__')"
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-c", limited], env=environment, stderr=file)
    try:
        deadline = time.monotonic() + 60
        listening: list[dict[str, Any]] = []
        while not listening:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
            said = [
                json.loads(line)
                for line in log.read_text().splitlines(keepends=True)
                if line.endswith("\n")
            ]
            listening = [each for each in said if each["event"] == "listening"]
        yield listening[0]["host"], listening[0]["port"]
        assert "Too many open files" not in log.read_text()
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_more_silent_connections_than_handles_keep_nobody_out(crowded: tuple[str, int]) -> None:
    host, port = crowded
    with ExitStack() as stack, httpx2.Client(trust_env=False, timeout=PATIENCE) as client:
        for _ in range(2 * HANDLES):
            silent = stack.enter_context(socket.create_connection((host, port)))
            silent.sendall(b"GET / HT")
        for _ in range(3):
            assert client.get(f"http://{host}:{port}/healthz").status_code == 200
            assert client.get(f"http://{host}:{port}/v1/jobs").status_code == 200
            stack.enter_context(socket.create_connection((host, port)))


def test_a_head_that_is_too_long_is_refused_in_words(crowded: tuple[str, int]) -> None:
    host, port = crowded
    with httpx2.Client(
        base_url=f"http://{host}:{port}", trust_env=False, timeout=PATIENCE
    ) as client:
        answer = client.get("/v1/jobs", headers={"X-Long": "x" * 4 * connections.HEAD_BYTES})
        assert answer.status_code == 431
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"].endswith("head-too-large")
        assert "262,144 bytes" in answer.json()["detail"]
        assert client.get("/v1/jobs", headers={"X-Long": "x" * 200_000}).status_code == 200


def test_the_limit_of_handles_is_raised_as_far_as_it_may_be() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wished = min(hard, connections.MOST_HANDLES)
    code = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard})); "
    code += "from service.connections import most_connections as most; print(most())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(said.stdout) == wished - connections.HANDLES_KEPT
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Reads a body, and answers; of what is refused at once, it reads none."""
    more = scope["path"] != "/v1/refused"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server that waits for a second at most, and keeps connections for a while."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(connections, "BODY_SECONDS", 1.0)
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.1)
    with serving() as port:
        yield port


@contextmanager
def serving() -> Iterator[int]:
    config = uvicorn.Config(
        echo, http=connections.Connection, port=0, log_config=None, lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(PATIENCE)


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as made:
        yield made


def ends(connection: socket.socket) -> bool:
    """Whether the other side closes it, having said nothing more."""
    try:
        return connection.recv(1000) == b""
    except ConnectionResetError:
        return True


def trickle(connection: socket.socket, data: bytes) -> None:
    for byte in data:
        connection.sendall(bytes([byte]))
        time.sleep(0.2)


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"


@pytest.mark.parametrize("said", [b"", b"G", HEAD, HEAD + b"\r\nab"])
def test_who_stops_in_the_middle_is_let_go(impatient: int, said: bytes) -> None:
    with connected(impatient) as connection:
        connection.sendall(said)
        assert ends(connection)


def test_a_head_that_comes_byte_by_byte_has_no_more_time(impatient: int) -> None:
    with connected(impatient) as connection, pytest.raises((ConnectionResetError, BrokenPipeError)):
        trickle(connection, HEAD * 100)  # for minutes


class Clock:
    """The time of connections, which goes on as the test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.looks = 0
        self.pieces = 0  # that came

    def monotonic(self) -> float:
        return self.now

    def send(self, connection: socket.socket, piece: bytes) -> None:
        """Until the server has read it."""
        before = self.pieces
        connection.sendall(piece)
        until(lambda: self.pieces > before)

    def pass_by(self, seconds: float) -> None:
        """Until the server has looked at its connection since."""
        self.now += seconds
        seen = self.looks
        until(lambda: self.looks >= seen + 2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, impatient: int) -> Clock:
    clock = Clock()
    look, received = connections.Connection._look, connections.Connection.data_received

    def looking(connection: connections.Connection) -> None:
        look(connection)
        clock.looks += 1

    def receiving(connection: connections.Connection, data: bytes) -> None:
        received(connection, data)
        clock.pieces += 1

    monkeypatch.setattr(connections, "time", clock)
    monkeypatch.setattr(connections.Connection, "_look", looking)
    monkeypatch.setattr(connections.Connection, "data_received", receiving)
    return clock


def test_who_goes_on_is_served_and_kept_for_the_next_request(impatient: int, clock: Clock) -> None:
    with connected(impatient) as connection:
        for _ in range(2):
            for piece in (HEAD + b"\r\n", b"a", b"b", b"cd"):
                clock.send(connection, piece)
                clock.pass_by(0.6)
            answer = b""
            while not answer.endswith(b"ok"):
                answer += connection.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200")
            clock.pass_by(1.5)  # longer than a head may take: it has not been begun


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server that holds four connections, two for keys and two for health; four wait for a body."""
    monkeypatch.setattr(connections, "most_connections", lambda: 4)
    monkeypatch.setattr(connections, "KEPT_FOR_KEYS", 2)
    monkeypatch.setattr(connections, "KEPT_FOR_HEALTH", 2)
    with serving() as port, ExitStack() as stack:
        for _ in range(4):
            at_work(stack.enter_context(connected(port)), HEAD)
        yield port


def at_work(waiting: socket.socket, head: bytes) -> None:
    """The server waits for the body of this connection's request."""
    waiting.sendall(head + b"Expect: 100-continue\r\n\r\n")
    assert waiting.recv(1000).startswith(b"HTTP/1.1 100")


KEY = f"uwk_{'0' * 12}_{'0' * 48}"
KEYED_HEAD = HEAD.replace(b"POST /", b"POST /v1/jobs") + f"Authorization: Bearer {KEY}\r\n".encode()


def asked(port: int, path: str, key: str | None = None) -> httpx2.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx2.get(
        f"http://127.0.0.1:{port}{path}", headers=headers, trust_env=False, timeout=PATIENCE
    )


def test_health_is_told_while_all_connections_are_at_work(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CROWDED_BODY_SECONDS", 3600.0)
    for _ in range(3):
        refused = asked(small, "/v1/jobs")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert refused.json()["type"].endswith("unavailable")
        assert "connections" in refused.json()["detail"]
        assert asked(small, "/healthz").status_code == 200


def test_bodies_that_do_not_come_make_room(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CROWDED_BODY_SECONDS", 0.0)
    assert asked(small, "/v1/jobs").status_code == 200


def test_who_has_a_key_is_served_while_all_connections_of_others_are_at_work(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CROWDED_BODY_SECONDS", 3600.0)
    for _ in range(3):
        assert asked(small, "/v1/jobs").status_code == 503
        assert asked(small, "/v1/jobs", KEY).status_code == 200
    assert asked(small, "/v1/jobs", "guessed").status_code == 503
    assert asked(small, "/docs", KEY).status_code == 503  # needs no key, and so has no share


def test_those_with_a_key_leave_the_share_for_health_alone(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CROWDED_BODY_SECONDS", 3600.0)
    with ExitStack() as stack:
        for _ in range(2):
            at_work(stack.enter_context(connected(small)), KEYED_HEAD)
        assert asked(small, "/v1/jobs", KEY).status_code == 503
        assert asked(small, "/healthz").status_code == 200


def test_who_is_refused_before_the_body_has_come_holds_no_connection_of_those_with_a_key(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CROWDED_BODY_SECONDS", 3600.0)
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.1)
    with connected(small) as connection:
        connection.sendall(KEYED_HEAD.replace(b"/v1/jobs", b"/v1/refused") + b"\r\n")
        answer = b""
        while (said := connection.recv(1000)) != b"":
            answer += said
        assert answer.endswith(b"ok")
