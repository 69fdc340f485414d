"""Reading ahead: the same items, a few at most, and no thread that outlives its reader."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from service.storage.read_ahead import read_ahead
from tests.patience import until


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "read-ahead"]


def test_items_come_in_order_and_at_most_a_few_wait() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    ahead = read_ahead(items(), 2)
    assert next(ahead) == 0
    until(lambda: len(made) >= 4)  # two wait, and the next is in the thread's hand
    time.sleep(0.2)
    assert len(made) == 4
    assert [0, *ahead] == list(range(20))
    until(lambda: threads() == [])


def test_an_error_comes_after_what_was_read_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("two")

    ahead = read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(KeyError, match="two"):
        next(ahead)


def test_a_reader_that_goes_away_ends_the_thread() -> None:
    ahead = read_ahead(iter(range(10**9)))
    next(ahead)
    ahead.close()  # type: ignore[attr-defined]
    until(lambda: threads() == [])
