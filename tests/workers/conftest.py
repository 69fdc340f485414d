"""The parts of a worker, in the test's process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.local.redis_server import RedisServer
from tests.service.conftest import small_settings
from workers.process.context import Context


@pytest.fixture
def context(redis_server: RedisServer, redis_url: str, tmp_path: Path) -> Iterator[Context]:
    """On a real Redis, which is empty, and a folder."""
    values = small_settings(redis_server, tmp_path / "objects", scratch=tmp_path, device="cpu")
    made = Context.build(values)
    yield made
    made.redis.close()
