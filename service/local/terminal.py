"""What a supervisor has with the terminal: lines for whoever reads, and signals that stop it."""

from __future__ import annotations

import signal
import sys
from threading import Event, Lock
from types import FrameType

_writing = Lock()


def stopped_by_signals(stopping: Event) -> None:
    """Sets the event on Ctrl-C, SIGTERM, and when the terminal is closed."""

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def say(name: str, line: str) -> None:
    """One line for the terminal, with the name of the process that it comes from."""
    try:
        with _writing:
            sys.stderr.write(f"{name:>9} | {line}\n")
            sys.stderr.flush()
    except (OSError, ValueError):  # whoever read us is gone: no reason to stop
        pass
