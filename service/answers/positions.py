"""Positions along an axis, as a request names them."""

from __future__ import annotations

from typing import Any

from upweight.errors import InvalidRequest
from upweight.schema import parse_rows

PARTS_MAXIMUM = 1_000_000  # positions chosen piecewise are held as a list


def positions(text: str | None, total: int, parameter: str) -> Any:
    """Positions along an axis: a range where one part was written, else a list. Raises InvalidRequest."""
    try:
        rows = parse_rows(text, total)
    except ValueError as error:
        raise InvalidRequest.field(f"query:{parameter}", str(error), text) from None
    if len(rows.parts) == 1:
        return rows.parts[0]
    if len(rows) > PARTS_MAXIMUM:
        raise InvalidRequest.field(
            f"query:{parameter}",
            f"{len(rows)} positions in several parts; ask for {PARTS_MAXIMUM} at most, or for one slice",
            text,
        )
    return list(rows)
