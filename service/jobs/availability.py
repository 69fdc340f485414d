"""What of the contract works today. What does not is refused at once, never accepted and failed.

A row is deleted when the engine's part behind it is wired in; the file goes with the last row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from upweight.errors import NotAvailableYet
from upweight.schema import JobRequest


@dataclass(frozen=True)
class Missing:
    """A part of the contract that is not there yet: where it is asked for, when, and what to do instead."""

    pointer: str
    asked: Callable[[Any], bool]
    words: str


MISSING = (
    Missing(
        "/webhook",
        lambda job: job.webhook is not None,
        "webhooks; wait with GET /v1/jobs/{id}?wait=60 or follow /events",
    ),
)


def refuse_missing(job: JobRequest) -> None:
    """Raises NotAvailableYet for the first thing asked for that is not there yet."""
    for row in MISSING:
        if row.asked(job):
            raise NotAvailableYet.field(row.pointer, f"not available yet: {row.words}")
