"""A worker whose torch has other threads than those of the service."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.local.background import Running
from tests.faults.conftest import SHORT, WAITING

THREADS = 7  # of a worker among others with fewer


@contextmanager
def another_worker(service: Running, log: Path) -> Iterator[None]:
    """One more, with threads of its own."""
    environment = {
        **os.environ,
        **SHORT,
        **WAITING,
        "UPWEIGHT_REDIS_URL": service.redis_url,
        "UPWEIGHT_STORAGE": str(service.storage),
    }
    command = [sys.executable, "-m", "workers", "--threads", str(THREADS)]
    with (
        log.open("w") as file,
        subprocess.Popen(command, env=environment, stderr=file) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
