"""How far a computation has come, reported to the caller between any two batches or iterations."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called often and cheaply; whatever it raises ends the computation and passes through."""

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None: ...


def silent(stage: str, done: int, total: int, unit: str) -> None:
    """Tells nobody."""
