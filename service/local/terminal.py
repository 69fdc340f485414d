"""What a supervisor has with the terminal: lines for whoever reads, and signals that stop it."""

from __future__ import annotations

import json
import signal
import sys
from threading import Event, Lock
from types import FrameType
from typing import Literal

from service.local.process import Log

LogForm = Literal["auto", "text", "json"]
FORMS: tuple[LogForm, ...] = ("auto", "text", "json")
_SHOWN = frozenset({"warning", "error", "critical"})
_BESIDE = frozenset({"time", "level", "event", "logger", "message", "traceback", "frames"})
# Of Redis: what a machine of one's own is not set up for, and does without.
_ASIDE = ("Memory overcommit must be enabled",)
_writing = Lock()


def stopped_by_signals(stopping: Event) -> None:
    """Sets the event on Ctrl-C, SIGTERM, and when the terminal is closed."""

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def teller(form: LogForm) -> Log:
    """How lines are told: `json` as they come, `text` in words, `auto` in words where somebody looks."""
    in_words = sys.stderr.isatty() if form == "auto" else form == "text"
    return say_in_words if in_words else say


def say_in_words(name: str, line: str) -> None:
    """For people: the supervisor's own lines, and what the others warn of."""
    words = line if name == "local" else in_words(line)
    if words is not None:
        _write(words if name == "local" else f"{name}: {words}")


def in_words(line: str) -> str | None:
    """A line of a process without JSON; None: nothing that people have to know."""
    if any(words in line for words in _ASIDE):
        return None
    try:
        fields = json.loads(line)
    except ValueError:
        return line
    if not isinstance(fields, dict):
        return line
    level = fields.get("level")
    if level not in _SHOWN:
        return None
    rest = ", ".join(f"{key} {value}" for key, value in fields.items() if key not in _BESIDE)
    said = str(fields.get("message") or fields.get("event"))
    told = f"{level}: {said}{f' ({rest})' if rest else ''}"
    return "\n".join([told, *filter(None, [fields.get("traceback")])])


def say(name: str, line: str) -> None:
    """One line as it is, with the name of the process that it comes from."""
    _write(f"{name:>9} | {line}")


def _write(text: str) -> None:
    try:
        with _writing:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
    except (OSError, ValueError):  # whoever read us is gone: no reason to stop
        pass
