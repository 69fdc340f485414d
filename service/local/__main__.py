"""`python -m service.local`: the service on this machine until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from service.local.keeper import LONGEST_PAUSE
from service.local.plan import DEFAULT_DATA, DEFAULT_HOST, DEFAULT_PORT, Plan
from service.local.process import Log
from service.local.stack import Stack, chosen_port
from service.local.terminal import FORMS, LogForm, stopped_by_signals, teller
from service.local.trouble import LocalTrouble
from service.private import keep_files_private


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stack; 0 after an ordered stop, 1 when it could not start."""
    plan, form = planned(arguments)
    say = teller(form)
    keep_files_private()
    stopping = Event()
    stopped_by_signals(stopping)
    stack = Stack(plan, say)
    try:
        say("local", "Starting Redis, the front end and a worker, which takes some seconds")
        stack.start(stopping)
        if not stopping.is_set():
            greet(stack, say)
        while not stopping.wait(0.1):
            stack.tend()
        say("local", "stopping")
    except LocalTrouble as trouble:
        say("local", str(trouble))
        return 1
    finally:
        stack.stop()
    return 0


def planned(arguments: Sequence[str] | None) -> tuple[Plan, LogForm]:
    """The plan that arguments and environment ask for, and in which form lines are told."""
    parser = argparse.ArgumentParser(prog="python -m service.local", description=__doc__)
    parser.add_argument("--host", default=os.environ.get("UPWEIGHT_HOST", DEFAULT_HOST))
    parser.add_argument(
        "--port",
        type=int,
        default=int(os.environ.get("UPWEIGHT_PORT", DEFAULT_PORT)),
        help="0 takes a free one",
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--data-dir", type=Path, default=DEFAULT_DATA)
    parser.add_argument(
        "--longest-pause",
        type=float,
        default=LONGEST_PAUSE,
        help="seconds until a process that died young again and again is started again",
    )
    parser.add_argument(
        "--log",
        choices=FORMS,
        default=os.environ.get("UPWEIGHT_LOG", "auto"),
        help="json: all lines of all processes; text: in words, what matters; auto: words on a terminal",
    )
    chosen = parser.parse_args(arguments)
    if chosen.log not in FORMS:
        parser.error(f"UPWEIGHT_LOG must be one of {', '.join(FORMS)}; it is {chosen.log!r}")
    if chosen.workers < 1:
        parser.error("--workers must be at least 1: nothing is computed without")
    plan = Plan(
        data=chosen.data_dir,
        host=chosen.host,
        port=chosen_port(chosen.host, chosen.port),
        workers=chosen.workers,
        redis_url=os.environ.get("UPWEIGHT_REDIS_URL") or os.environ.get("REDIS_URL") or None,
        storage=os.environ.get("UPWEIGHT_STORAGE") or None,
        longest_pause=chosen.longest_pause,
    )
    return plan, chosen.log


def greet(stack: Stack, say: Log) -> None:
    """Say where everything is."""
    plan, url = stack.plan, stack.state.url
    workers = "1 worker" if plan.workers == 1 else f"{plan.workers} workers"
    say(
        "local",
        f"Upweight is ready at {url} (API pages: {url}/docs; {workers}; data in {plan.data}; Ctrl-C stops)",
    )


if __name__ == "__main__":
    sys.exit(main())
