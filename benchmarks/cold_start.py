"""Cold start: from exec to ready, of the front end (`/healthz` answers) and of a worker (registered as alive)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import told
from service.local.redis_server import RedisServer
from service.local.watchdog import Watchdog
from service.storage.redis import connect
from service.storage.workers import alive

RUNS = 7
PORT = 18_765


def main() -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory() as folder, Watchdog(grace_seconds=2.0) as watchdog:
        server = RedisServer(Path(folder) / "redis", watchdog=watchdog)
        server.start()
        environment = {
            **os.environ,
            "UPWEIGHT_REDIS_URL": server.url,
            "UPWEIGHT_STORAGE": f"{folder}/objects",
            "UPWEIGHT_PORT": str(PORT),
        }
        redis = connect(server.url)
        front = [_timed("service", environment, _answers) for _ in range(RUNS)]
        worker = [
            _timed("workers", environment, lambda pid: _registered(redis, pid)) for _ in range(RUNS)
        ]
        server.stop()
    told("front end, exec to the first answer", front, "s", "below 1.5")
    told("worker, exec to registered", worker, "s")


def _timed(module: str, environment: dict[str, str], ready: Callable[[int], bool]) -> float:
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", module], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        while not ready(process.pid):
            if process.poll() is not None:
                raise SystemExit(f"{module} has ended with status {process.returncode}")
            time.sleep(0.01)
        return time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def _answers(pid: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/healthz", timeout=1) as answer:
            return bool(json.load(answer) is not None)
    except OSError:
        return False


def _registered(redis: object, pid: int) -> bool:
    return any(worker["pid"] == pid for worker in alive(redis))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
