"""A single byte range as HTTP writes it."""

from __future__ import annotations

import re

from upweight.errors import RangeNotSatisfiable

_RANGE = re.compile(r"^bytes=(\d{0,19})-(\d{0,19})$")


class OutsideBlob(RangeNotSatisfiable):
    """No byte of the blob is in the range; the answer tells the blob's size, as HTTP wants it."""

    def __init__(self, asked: str, size: int) -> None:
        super().__init__(
            f"the blob has {size} bytes, and {asked!r} names none of them; the last byte is {size - 1}"
        )
        self.headers = {"Content-Range": f"bytes */{size}"}


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """[start, stop) of the range asked for; None for the whole (no header, or several ranges, which may be ignored).

    Raises OutsideBlob.
    """
    match = _RANGE.fullmatch((header or "").replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
    if start >= size or stop <= start:
        raise OutsideBlob(header or "", size)
    return start, stop
