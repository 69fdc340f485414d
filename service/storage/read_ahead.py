"""The next items of an iterator, made in a thread while the ones before are worked on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from queue import Full, Queue
from threading import Event, Thread
from typing import TypeVar

Item = TypeVar("Item")
_LOOK_SECONDS = 0.1  # how soon the thread sees that nobody wants more
_LEAVE_SECONDS = 1.0  # a thread that waits for a storage longer than that ends by itself, later


@dataclass(frozen=True)
class _End:
    """Nothing more comes: because of an error, or because that was all."""

    error: BaseException | None = None


def read_ahead(items: Iterator[Item], depth: int = 2) -> Iterator[Item]:
    """The same items, at most `depth` of them waiting. Closing it ends the thread."""
    waiting: Queue[Item | _End] = Queue(depth)
    unwanted = Event()
    reader = Thread(target=_read, args=(items, waiting, unwanted), name="read-ahead", daemon=True)
    reader.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        unwanted.set()
        reader.join(_LEAVE_SECONDS)


def _read(items: Iterator[Item], waiting: Queue[Item | _End], unwanted: Event) -> None:
    end = _End()
    try:
        for item in items:
            if not _handed_over(item, waiting, unwanted):
                return
    except BaseException as error:
        end = _End(error)
    _handed_over(end, waiting, unwanted)


def _handed_over(item: Item | _End, waiting: Queue[Item | _End], unwanted: Event) -> bool:
    while not unwanted.is_set():
        try:
            waiting.put(item, timeout=_LOOK_SECONDS)
            return True
        except Full:
            continue
    return False
