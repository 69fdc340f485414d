"""Many ways to write rows, in the contract's grammar."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from upweight.errors import InvalidRequest

RowChoice = str | int | slice | range | Sequence[int]


def rows_text(rows: RowChoice) -> str:
    """Rows in the contract's grammar: `0:100`, `::10`, `3,5,100:200`."""
    if isinstance(rows, str):
        return rows
    if isinstance(rows, range):
        if rows.step < 0:
            raise InvalidRequest("rows go upwards; use a range with a positive step")
        if rows and rows[0] < 0:
            return ",".join(_runs(list(rows)))
        return f"{rows.start}:{rows.stop}:{rows.step}" if rows else "0:0"
    if isinstance(rows, slice):
        start, stop, step = (("" if part is None else str(operator.index(part))) for part in
                             (rows.start, rows.stop, rows.step))  # fmt: skip
        return f"{start}:{stop}:{step}" if step else f"{start}:{stop}"
    values = np.atleast_1d(np.asarray(rows))
    if values.dtype == bool:
        values = np.flatnonzero(values)
    if values.dtype.kind not in "iu":
        raise InvalidRequest(f"rows are integers, a slice, or text like '0:100'; got {rows!r:.80}")
    return ",".join(_runs(values.tolist()))


def _runs(rows: list[int]) -> list[str]:
    """Neighbours as ranges, in the order given."""
    parts: list[list[int]] = []
    for row in rows:
        if parts and row == parts[-1][1] and parts[-1][0] >= 0:  # '-1:1' would mean no row
            parts[-1][1] = row + 1
        else:
            parts.append([row, row + 1])
    return [str(a) if b == a + 1 else f"{a}:{b}" for a, b in parts]
