"""Waiting for what is to happen, however long a busy machine takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx2

UNDER_WAY = ("queued", "running", "cancelling", "checking")
PATIENCE = 120.0  # seconds; what has not happened by then never will


def until(met: Callable[[], object], what: str = "it did not happen") -> None:
    """Returns once that is so."""
    deadline = time.monotonic() + PATIENCE
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def ended(http: httpx2.Client, path: str) -> Any:
    """The job, model or dataset there, once it has ended or been checked."""
    deadline = time.monotonic() + PATIENCE
    while (record := http.get(path, params={"wait": 20}).json())["state"] in UNDER_WAY:
        assert time.monotonic() < deadline, record
    return record
