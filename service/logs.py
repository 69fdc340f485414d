"""Logs as JSON lines on standard error: an event word and fields. Never a key, never what users sent."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

FRAMES_SHOWN = 12

_logger = logging.getLogger("upweight.service")
_bound: ContextVar[dict[str, Any]] = ContextVar("bound", default={})  # noqa: B039 - never changed in place


class JsonLines(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        fields = getattr(record, "fields", None)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage() if fields is not None else "log",
        }
        if fields is None:
            line |= {"logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line | (fields or {}))


def log(event: str, *, level: str = "info", **fields: Any) -> None:
    """One line: what happened, and the fields that are not None."""
    values = {name: value for name, value in (_bound.get() | fields).items() if value is not None}
    _logger.log(logging.getLevelNamesMapping()[level.upper()], event, extra={"fields": values})


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Every line logged inside carries these fields."""
    token = _bound.set(_bound.get() | fields)
    try:
        yield
    finally:
        _bound.reset(token)


def carried_trace() -> str:
    """The request that the work at hand came from, as tasks carry it on (see `service.requests.Trace`)."""
    found = _bound.get()
    return " ".join(found[name] for name in ("request_id", "traceparent") if found.get(name))


def log_exception(event: str, **fields: Any) -> None:
    """The exception at hand: its class and where it came from. Not its words, which may quote what users sent."""
    kind, _, trace = sys.exc_info()
    frames = [f"{at.filename}:{at.lineno} {at.name}" for at in traceback.extract_tb(trace)]
    name = kind.__name__ if kind is not None else None
    log(event, level="error", error=name, frames=frames[-FRAMES_SHOWN:], **fields)


def configure(level: str) -> None:
    """Sends all that this process logs to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"
