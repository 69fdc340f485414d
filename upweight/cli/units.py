"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from upweight.progress import duration


def size(count: int | None) -> str:
    """Bytes with a prefix."""
    if count is None:
        return ""
    number = float(count)
    for prefix in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {prefix}" if prefix == "B" else f"{number:.1f} {prefix}"
        number /= 1000
    return f"{number:.1f} TB"


def seconds(number: float | None) -> str:
    """A length of time."""
    return "" if number is None else duration(number)


def age(moment: datetime | None) -> str:
    """How long ago."""
    if moment is None:
        return ""
    return f"{seconds(max(0.0, round((datetime.now(UTC) - moment).total_seconds())))} ago".replace(
        ".00", ""
    )


def count(number: int | None) -> str:
    """With thousands set apart."""
    return "" if number is None else f"{number:,}"


def shape(sizes: Sequence[int | None] | None) -> str:
    """`100 × 1,400`."""
    return " × ".join("n" if each is None else f"{each:,}" for each in sizes or ())


def short(text: str, longest: int = 30) -> str:
    """As much of it as a column of a table has room for."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
