"""Ids of rows as callers have them: whole numbers or texts, one for each row and each once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray


LONGEST = 256  # bytes of one id
LONGEST_METADATA = 1024  # bytes of one text
_NAMES = ("ids", "row_ids", "upweight_ids")


def column_of(ids: Any) -> NDArray[Any]:
    """Ids as they are stored: int64 (rows,), or UTF-8 as uint8 (rows, bytes), filled up with 0.

    Raises InvalidRequest, naming the first row that is wrong.
    """
    values = _listed(ids)
    if isinstance(values, np.ndarray):
        _refuse_twice(values.tolist())
        return values
    kind = _kind(values[0], 0) if values else int
    for row, value in enumerate(values):
        if _kind(value, row) is not kind:
            raise _refused(
                row, value, "row 0 has another type of id; give all as strings, or all as numbers"
            )
    _refuse_twice(values)
    if kind is int:
        return _whole(values)
    encoded = [value.encode() for value in values]
    for row, text in enumerate(encoded):
        if not text or len(text) > LONGEST or b"\0" in text:
            raise _refused(row, values[row], f"ids have 1 to {LONGEST} bytes, none of them 0")
    width = max(map(len, encoded))
    packed = np.array(encoded, dtype=f"S{width}")
    return packed.view(np.uint8).reshape(len(encoded), width)


def metadata_column(name: str, given: Any) -> NDArray[Any]:
    """A column that no model sees as it is stored: booleans, int64, float64, or UTF-8 as uint8 (rows, bytes).

    Raises InvalidRequest, naming the first row that is wrong.
    """
    if hasattr(given, "detach"):
        given = given.detach().cpu().numpy()
    if hasattr(given, "to_numpy"):
        given = given.to_numpy()
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise _bad(name, f"give a value for each row, not {given!r:.80}")
    values = given.tolist() if isinstance(given, np.ndarray) else list(given)
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    kinds = {_metadata_kind(name, row, value) for row, value in enumerate(values)}
    if kinds == {int, float}:
        kinds = {float}
    if len(kinds) > 1:
        words = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise _bad(name, f"has {words} mixed; give all rows one kind, text say")
    return _texts(name, values) if kinds == {str} else _numbers(name, values, kinds)


def _metadata_kind(name: str, row: int, value: Any) -> type:
    if value is None or value != value or type(value).__name__ in ("NAType", "NaTType"):
        raise _bad(name, f"row {row} has no value; give each row one, such as 'unknown'")
    if not isinstance(value, bool | int | float | str):
        kind = type(value).__name__
        raise _bad(name, f"row {row} has a {kind} ({value!r:.80}); give text, numbers or booleans")
    return type(value)


def _texts(name: str, values: list[str]) -> NDArray[Any]:
    encoded = [value.encode() for value in values]
    for row, text in enumerate(encoded):
        if len(text) > LONGEST_METADATA or b"\0" in text:
            words = f"row {row} has {len(text)} bytes; texts have up to {LONGEST_METADATA}, none of them 0"
            raise _bad(name, words)
    width = max(1, *map(len, encoded))
    return np.array(encoded, dtype=f"S{width}").view(np.uint8).reshape(len(encoded), width)


def _numbers(name: str, values: list[Any], kinds: set[type]) -> NDArray[Any]:
    for row, value in enumerate(values):
        if kinds == {float} and not math.isfinite(value):
            raise _bad(name, f"row {row} is infinite")
        if kinds == {int} and not -(2**53) <= value <= 2**53:
            raise _bad(name, f"row {row} ({value}): whole numbers go up to 2**53; give text")
    dtype = np.bool_ if kinds == {bool} else np.int64 if kinds == {int} else np.float64
    return np.array(values, dtype)


def _bad(name: str, words: str) -> InvalidRequest:
    found = InvalidRequest.field("/metadata", f"column {name!r}: {words}", name)
    assert isinstance(found, InvalidRequest)
    return found


def is_column(
    ids: Any, inputs: Sequence[str] | str | None, targets: Sequence[str] | str | None
) -> bool:
    """Whether `ids` are the numbers of a column that models see, as token ids are."""
    named = [
        name
        for each in (inputs, targets)
        for name in ([each] if isinstance(each, str) else each or ())
    ]
    if ids is None or isinstance(ids, str):
        return False
    if "ids" in named or getattr(ids, "ndim", 1) > 1:
        return True
    first = next(iter(ids), None) if isinstance(ids, list | tuple) else None
    return isinstance(first, list | tuple) or getattr(first, "ndim", 0) > 0


def usual_ids(index: Any) -> Any:
    """A DataFrame's index where it says more than the row's number and can be ids; else None."""
    if index.nlevels != 1 or not index.is_unique or index.hasnans:
        return None
    kind = getattr(index.dtype, "kind", "O")
    if kind in "iu":
        values = index.to_numpy()
        return None if np.array_equal(values, np.arange(len(values))) else values
    try:
        column_of(list(index))
    except InvalidRequest:
        return None
    return list(index)


def free_name(taken: Iterable[str]) -> str:
    """A column's name that none of the others has."""
    there = set(taken)
    return next(name for name in _NAMES if name not in there)


def _listed(ids: Any) -> list[Any] | NDArray[Any]:
    """Numbers at once as an array, all else one by one."""
    if hasattr(ids, "to_numpy"):
        ids = ids.to_numpy()
    if hasattr(ids, "detach"):
        ids = ids.detach().cpu().numpy()
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1:
            raise InvalidRequest.field("/ids", f"have shape {ids.shape}; give one id for each row")
        if ids.dtype.kind in "iu":
            return _whole(ids.tolist())
        return list(ids.tolist())
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise InvalidRequest.field("/ids", f"give one id for each row, not {ids!r:.80}")
    return list(ids)


def _whole(values: list[int]) -> NDArray[Any]:
    for row, value in enumerate(values):
        if not -(2**53) <= value <= 2**53:
            raise _refused(row, value, "numbers as ids go up to 2**53; give larger ones as strings")
    return np.array(values, np.int64)


def _kind(value: Any, row: int) -> type:
    if isinstance(value, str):
        return str
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int
    if value is None or value != value:
        raise _refused(row, None, "there is no id; give each row one")
    raise _refused(row, value, "ids are strings or whole numbers")


def _refuse_twice(values: list[Any]) -> None:
    seen: dict[Any, int] = {}
    for row, value in enumerate(values):
        first = seen.setdefault(value, row)
        if first != row:
            raise _refused(row, value, f"row {first} has it too; ids name one row each")


def _refused(row: int, value: Any, why: str) -> InvalidRequest:
    told = "" if value is None else f" ({value!r:.80})"
    found = InvalidRequest.field("/ids", f"row {row}{told}: {why}", value)
    assert isinstance(found, InvalidRequest)
    return found
