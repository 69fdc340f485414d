"""A local server, a client to it, and no settings from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.upweight.local_server import Server, running
from upweight import Client
from upweight import connection as patience


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
    with Client(server.url, "key-of-mine", timeout=5.0) as client:
        yield client
