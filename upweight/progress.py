"""What goes on: a progress bar of one line on a terminal, lines of the log `upweight` elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

logger = logging.getLogger("upweight")
WIDTH = 24  # characters
INTERVAL = 0.1  # seconds between two drawings


class Bar:
    """What is being done, how much of it is done. Without a stream it draws nothing."""

    def __init__(self, label: str, total: int | None, unit: str, stream: TextIO | None) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._stream = stream
        self._drawn_at = 0.0
        self._width = 0

    @property
    def drawn(self) -> bool:
        """Whether anyone sees it."""
        return self._stream is not None

    def advance(self, amount: int) -> None:
        """So much more is done."""
        self.to(self.done + amount, self.total)

    def to(self, done: int, total: int | None, label: str | None = None) -> None:
        """So much is done, of so much."""
        self.done, self.total, self.label = done, total, label or self.label
        if self._stream is not None and time.monotonic() - self._drawn_at >= INTERVAL:
            self._draw()

    def over(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The chunks as they are, counted. Starts from 0: a second try draws anew."""
        self.to(0, self.total)
        for chunk in chunks:
            yield chunk
            self.advance(len(chunk))

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._stream is not None and self._width:
            self._draw()
            self._stream.write("\n")
            self._stream.flush()

    def _draw(self) -> None:
        assert self._stream is not None
        self._drawn_at = time.monotonic()
        text = self.text()
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)

    def text(self) -> str:
        """The line as it is drawn."""
        if not self.total:
            return f"{self.label}  {_amount(self.done, self.unit)}" if self.done else self.label
        share = min(1.0, self.done / self.total)
        filled = round(share * WIDTH)
        bar = "█" * filled + "░" * (WIDTH - filled)
        return f"{self.label}  {bar} {share:4.0%}  {self._of()}"

    def _of(self) -> str:
        if self.unit == "B":
            return f"{_amount(self.done, 'B')} of {_amount(self.total or 0, 'B')}"
        return f"{self.done:,} of {_amount(self.total or 0, self.unit)}"


@dataclass(frozen=True)
class Bars:
    """Makes bars; `wanted` None draws them where stderr is a terminal. `quiet` neither draws nor logs."""

    wanted: bool | None = None
    quiet: bool = False

    def bar(
        self,
        label: str,
        total: int | None = None,
        unit: str = "B",
        wanted: bool | None = None,
        level: int = logging.INFO,
    ) -> Bar:
        """`level`: of the line in the log where nobody sees the bar."""
        choice = self.wanted if wanted is None else wanted
        drawn = not self.quiet and (sys.stderr.isatty() if choice is None else choice)
        if not drawn and not self.quiet:
            logger.log(level, label)
        return Bar(label, total, unit, sys.stderr if drawn else None)


def duration(seconds: float) -> str:
    """A length of time as people say it."""
    if seconds < 120:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 2880 else f"{minutes / 1440:.0f} d"


def _amount(number: int, unit: str) -> str:
    if unit != "B":
        return f"{number:,} {unit}"
    size = float(number)
    for prefix in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {prefix}" if prefix == "B" else f"{size:.1f} {prefix}"
        size /= 1000
    return f"{size:.1f} TB"
