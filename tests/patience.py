"""Waiting for what is to happen, however long a busy machine takes."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 120.0  # seconds; what has not happened by then never will


def until(met: Callable[[], object], what: str = "it did not happen") -> None:
    """Returns once that is so."""
    deadline = time.monotonic() + PATIENCE
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
