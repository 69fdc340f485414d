"""The operator's commands on a folder of this machine: they find its Redis and its objects, running or not."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from service.local.folder import locked
from service.local.plan import DEFAULT_DATA, Plan
from service.local.redis_server import RedisServer
from service.local.state import State
from service.local.trouble import LocalTrouble
from service.local.watchdog import Watchdog


def operate(name: str, command: Callable[[list[str]], int], arguments: Sequence[str] | None) -> int:
    """Runs a command with UPWEIGHT_REDIS_URL and UPWEIGHT_STORAGE set; what is not `--data-dir` is the command's."""
    parser = argparse.ArgumentParser(prog=name, add_help=False, allow_abbrev=False)
    parser.add_argument("--data-dir", type=Path, default=DEFAULT_DATA)
    chosen, rest = parser.parse_known_args(arguments)
    plan = Plan(chosen.data_dir, storage=os.environ.get("UPWEIGHT_STORAGE"))
    try:
        with redis_url(plan.data) as url:
            os.environ.update(plan.environment(os.environ, url))
            return command(rest)
    except LocalTrouble as trouble:
        sys.stderr.write(f"{name}: {trouble}\n")
        return 1


@contextmanager
def redis_url(data: Path) -> Iterator[str]:
    """The Redis that is set, or that of the running service, or its data with a server for this moment.

    The last, because a service beyond loopback does not start without a key.
    """
    if url := os.environ.get("UPWEIGHT_REDIS_URL") or os.environ.get("REDIS_URL"):
        yield url
        return
    try:
        lock = locked(data)
    except LocalTrouble:  # a service runs there
        try:
            running = State.read(data)
        except FileNotFoundError as early:
            raise LocalTrouble(f"the service on {data} is just starting or stopping") from early
        yield running.redis_url
        return
    with lock, Watchdog(hold=lock) as watchdog:
        server = RedisServer(data / "redis", watchdog=watchdog)
        server.start()
        try:
            yield server.url
        finally:
            server.stop()
