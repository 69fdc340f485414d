"""Copies records that have changed to the object storage, a moment after they did."""

from __future__ import annotations

import threading

from service.logs import log, log_exception
from upweight.errors import UpweightError
from workers.process.context import Context

_PAUSE_SECONDS = 0.25
_PAUSE_AFTER_FAILURE_SECONDS = 5.0


class Copyist:
    """A thread of each worker; several at the same records do no harm."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._thread = threading.Thread(target=self._run, name="copyist", daemon=True)

    def start(self) -> None:
        """Begins to copy."""
        self._thread.start()

    def _run(self) -> None:
        pause = _PAUSE_SECONDS
        while not self._context.stopping.wait(pause):
            pause = _PAUSE_SECONDS
            try:
                self._context.copies.save_noted()
            except UpweightError as error:
                log("copies-late", level="warning", detail=error.detail)
                pause = _PAUSE_AFTER_FAILURE_SECONDS
            except Exception:
                log_exception("copyist-failed")
                pause = _PAUSE_AFTER_FAILURE_SECONDS
