"""A choice of rows as people write it: `0:100`, `::10`, `3,5,100:200`. Kept as ranges, never as a list of rows."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

MAXIMUM_PARTS = 50_000
MAXIMUM_CHARACTERS = 300_000  # a job's record is read often
_PART = re.compile(
    r"^(?:(?P<index>-?\d{1,18})|(?P<start>-?\d{1,18})?:(?P<stop>-?\d{1,18})?(?::(?P<step>\d{1,18}))?)$"
)


@dataclass(frozen=True)
class Rows:
    """Ranges in the order written. A row may appear twice if it is written twice."""

    parts: tuple[range, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __iter__(self) -> Iterator[int]:
        for part in self.parts:
            yield from part

    def __getitem__(self, position: int) -> int:
        """The row at a position of the selection. Raises IndexError past the end."""
        number = bisect_right(self._ends, position)
        if position < 0 or number == len(self.parts):
            raise IndexError(position)
        return self.parts[number][position - (self._ends[number - 1] if number else 0)]

    @cached_property
    def _ends(self) -> list[int]:
        """Of each part, the position after its last row."""
        return list(accumulate(len(part) for part in self.parts))


def parse_rows(text: str | None, total: int) -> Rows:
    """The rows that `text` names among `total`; None names all.

    Slices reach past the end as in Python; a single row that is not there is a ValueError, as is bad grammar.
    """
    if text is None:
        return Rows((range(total),))
    return Rows(tuple(_range(part, total) for part in _parts(text)))


def written_rows(rows: Sequence[int]) -> str:
    """Rows in the grammar, neighbours as slices, in the order given. Raises ValueError where that is too long."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][1]:
            runs[-1][1] = row + 1
        else:
            runs.append([row, row + 1])
    text = ",".join(str(a) if b == a + 1 else f"{a}:{b}" for a, b in runs)
    if len(runs) > MAXIMUM_PARTS or len(text) > MAXIMUM_CHARACTERS:
        raise ValueError(
            f"the {len(rows)} rows lie in {len(runs)} separate runs, and a choice may have {MAXIMUM_PARTS}, or "
            f"{MAXIMUM_CHARACTERS} characters"
        )
    return text


def _parts(text: str) -> list[re.Match[str]]:
    pieces = text.split(",")
    if len(pieces) > MAXIMUM_PARTS:
        raise ValueError(
            f"at most {MAXIMUM_PARTS} comma-separated parts are allowed; {len(pieces)} were given"
        )
    return [_match(piece.strip()) for piece in pieces]


def _match(piece: str) -> re.Match[str]:
    match = _PART.fullmatch(piece)
    if match is None and _PART.fullmatch(piece.replace("-", "")) and piece.count(":") == 2:
        step = piece.rpartition(":")[2]
        raise ValueError(
            f"{piece!r} has a step of {step}; steps are 1 or more. For another order write the rows in it: '9,8,7'"
        )
    if match is None:
        raise ValueError(
            f"{piece!r} is not a row or a slice; "
            "write 'start:stop', 'start:stop:step', or single rows: '0:100', '3,5,7'"
        )
    if match["step"] is not None and int(match["step"]) == 0:
        raise ValueError(f"{piece!r} has a step of 0; use 1 or more")
    return match


def _range(match: re.Match[str], total: int) -> range:
    if match["index"] is None:
        bound = {key: int(match[key]) if match[key] else None for key in ("start", "stop", "step")}
        return range(total)[bound["start"] : bound["stop"] : bound["step"]]
    row = int(match["index"])
    if not -total <= row < total:
        raise ValueError(f"row {row} is not there: there are {total} rows, 0 to {total - 1}")
    return range(total)[row : row + 1] if row >= 0 else range(total + row, total + row + 1)


def _checked(text: str) -> str:
    _parts(text)
    return text


RowSelection = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAXIMUM_CHARACTERS),
    AfterValidator(_checked),
    Field(
        description="Rows as slices and single numbers, comma-separated, counted from 0.",
        examples=["0:100"],
    ),
]
