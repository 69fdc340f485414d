"""`python -m service.local.workers`: several workers on this machine, for a service that is anywhere.

Each is a process of its own that is started again when it dies; all end when this one does.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from threading import Event

from service.local.keeper import Keeper
from service.local.plan import side_by_side
from service.local.process import Process
from service.local.stack import WORK_SECONDS
from service.local.terminal import say, stopped_by_signals
from service.local.trouble import LocalTrouble
from service.local.watchdog import Watchdog

_BROKEN_SECONDS = 30.0  # a worker that ends before that, with all others, has nothing to work for


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until a signal. What is not about their number goes on to the workers; 1 when none can start."""
    parser = argparse.ArgumentParser(prog="python -m service.local.workers", description=__doc__)
    parser.add_argument("--workers", type=int, default=1)
    chosen, passed_on = parser.parse_known_args(arguments)
    if chosen.workers < 1:
        parser.error("--workers must be at least 1")
    stopping = Event()
    stopped_by_signals(stopping)
    environment = side_by_side(os.environ, chosen.workers)
    with Watchdog() as watchdog:
        command = [sys.executable, "-m", "workers", *passed_on]
        keepers = [
            Keeper(
                Process(
                    f"worker-{number + 1}",
                    command,
                    watchdog=watchdog,
                    environment=environment,
                    log=say,
                )
            )
            for number in range(chosen.workers)
        ]
        return _kept(keepers, stopping)


def _kept(keepers: Sequence[Keeper], stopping: Event) -> int:
    began = time.monotonic()
    for keeper in keepers:
        keeper.start()
    try:
        while not stopping.wait(0.1):
            young = time.monotonic() - began < _BROKEN_SECONDS
            if young and not any(keeper.process.running for keeper in keepers):
                say("local", "no worker could start; their words are above")
                return 1
            for keeper in keepers:
                _tend(keeper)
        return 0
    finally:
        for keeper in keepers:
            keeper.process.send(signal.SIGTERM)
        deadline = time.monotonic() + WORK_SECONDS
        for keeper in keepers:
            if not keeper.process.wait(max(0.0, deadline - time.monotonic())):
                keeper.process.kill()


def _tend(keeper: Keeper) -> None:
    try:
        words = keeper.tend()
    except LocalTrouble as trouble:  # tried again after a longer pause
        words = str(trouble)
    if words:
        say(keeper.process.name, words)


if __name__ == "__main__":
    sys.exit(main())
