"""A local server, a client to it, and no settings from outside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.upweight.local_server import Answer, Asked, Server, answer, running
from upweight import Client
from upweight.http import connection as patience


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UPWEIGHT_URL", "UPWEIGHT_API_KEY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_DELAY", 0.01)


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, "key-of-mine", timeout=30.0) as client:
        yield client


@pytest.fixture
def blobs(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What is uploaded, by digest."""
    kept: dict[str, bytes] = {}
    scripted = server.next_answer

    def next_answer(asked: Asked) -> Answer:
        found = re.fullmatch(r"/v1/blobs/(sha256:[0-9a-f]{64})", asked.path)
        if found is None:
            return scripted(asked)
        if asked.method == "PUT":
            kept[found[1]] = asked.body
            return answer(201, {"digest": found[1], "size_bytes": len(asked.body)})
        return answer(200 if found[1] in kept else 404)

    monkeypatch.setattr(server, "next_answer", next_answer)
    return kept


def posted(server: Server) -> Any:
    """The body of the first POST that came."""
    return next(asked.json for asked in server.asked if asked.method == "POST")
