"""Rows by what callers call them: by id, and by what metadata columns or labels are in them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from service.datasets.ids import Value
from service.datasets.stored_rows import StoredRows
from service.parts import Parts
from upweight.errors import InvalidRequest
from upweight.schema import DatasetRecord

_NUMBER = re.compile(r"-?\d{1,16}")
_KINDS = {"number": "whole numbers", "text": "texts"}
_LOOKED_THROUGH = 20_000  # ids among which the nearest is sought
_SHOWN = 10
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RowNames:
    """What names rows of a dataset: their ids, or their numbers where there are none."""

    dataset: DatasetRecord
    found: Mapping[int | str, int]
    some: Sequence[int | str] = ()  # ids that there are, for a guess at what was meant

    @classmethod
    def of(
        cls,
        parts: Parts,
        namespace: str,
        dataset: DatasetRecord,
        names: Iterable[int | str],
        keys: Iterable[str] = (),
    ) -> RowNames:
        """Looks these up. `keys`: names as keys of JSON, which are always text."""
        wanted = [*names, *keys]
        if dataset.ids is None or not wanted:
            return cls(dataset, {})
        if dataset.id_kind == "number":
            wanted += [int(key) for key in wanted if _is_number(key)]
        else:
            wanted += [str(name) for name in wanted if isinstance(name, int)]
        rows = StoredRows.of(parts, namespace, dataset)
        found = rows.rows_of(wanted)
        complete = len(found) >= len(set(wanted))
        some = () if complete else rows.ids(range(min(dataset.rows or 0, _LOOKED_THROUGH)))
        return cls(dataset, found, some)

    def row(self, name: int | str, pointer: str) -> int:
        """Raises InvalidRequest for what names none."""
        dataset = self.dataset
        if dataset.ids is not None:
            if name in self.found:
                return self.found[name]
            raise InvalidRequest.field(
                pointer,
                f"no row of {dataset.name!r} has the id {name!r}{nearest(name, self.some)}; its ids are "
                f"{_KINDS[dataset.id_kind or 'text']}",
                name,
            )
        if isinstance(name, str):
            raise InvalidRequest.field(
                pointer,
                f"{name!r} is no row's number; {dataset.name!r} has no ids, and its rows are 0 to "
                f"{(dataset.rows or 0) - 1}",
                name,
            )
        return self._numbered(name, pointer)

    def id_or_number(self, name: int | str, pointer: str) -> int:
        """By its id or, where ids are texts and none is that number, by its number; numbers may be written as text.

        Raises InvalidRequest.
        """
        if isinstance(name, str):
            return self.row_of_key(name, pointer)
        texts = self.dataset.ids is not None and self.dataset.id_kind == "text"
        if texts and str(name) not in self.found:
            return self._numbered(name, pointer)
        return self.row(name, pointer)

    def _numbered(self, row: int, pointer: str) -> int:
        rows = self.dataset.rows or 0
        if not 0 <= row < rows:
            raise InvalidRequest.field(
                pointer,
                f"row {row} of {self.dataset.name!r} is not there: it has rows 0 to {rows - 1}",
                row,
            )
        return row

    def row_of_key(self, key: str, pointer: str) -> int:
        """The same of a key of JSON, which is always text."""
        numbers = self.dataset.ids is None or self.dataset.id_kind == "number"
        return self.row(int(key) if numbers and _is_number(key) else key, pointer)

    def rows(
        self, names: Sequence[int | str], pointer: str, *, or_numbers: bool = False
    ) -> list[int]:
        """Of several, each named once; `or_numbers`: as `id_or_number` does. Raises InvalidRequest."""
        one = self.id_or_number if or_numbers else self.row
        found: dict[int, int] = {}
        for at, name in enumerate(names):
            row = one(name, f"{pointer}/{at}")
            if row in found:
                words = f"{name!r} is named twice, at {found[row]} and {at}; name it once"
                raise InvalidRequest.field(f"{pointer}/{at}", words, name)
            found[row] = at
        return list(found)


def _is_number(key: int | str) -> bool:
    return isinstance(key, str) and _NUMBER.fullmatch(key) is not None


def nearest(name: Any, known: Iterable[Any]) -> str:
    """What is like it, as a question; empty where nothing is."""
    texts = {str(each): each for each in known}
    found = difflib.get_close_matches(str(name), texts, n=1)
    return f"; did you mean {texts[found[0]]!r}?" if found else ""


@dataclass(frozen=True)
class GroupColumn:
    """A column with one value a row, by which rows are chosen and grouped: of metadata, or a target."""

    rows: StoredRows
    name: str
    class_names: Sequence[str] = ()

    @classmethod
    def of(cls, rows: StoredRows, name: str, pointer: str) -> GroupColumn:
        """Raises InvalidRequest for a column that is not there, or has more than a value a row."""
        dataset = rows.dataset
        known = [*dataset.metadata, *dataset.targets]
        if name not in known:
            seen = f", and {name!r} is an input" if name in dataset.inputs else ""
            raise InvalidRequest.field(
                pointer,
                f"{dataset.name!r} has no metadata column or target {name!r}{nearest(name, known)}{seen}; it has "
                f"{', '.join(map(repr, known)) or 'none'}",
                name,
            )
        if name in dataset.metadata:
            return cls(rows, name)
        spec = next(each for each in dataset.columns if each.name == name)
        if spec.shape:
            raise InvalidRequest.field(
                pointer,
                f"target {name!r} of {dataset.name!r} has {list(spec.shape)} values a row; take a column with one",
                name,
            )
        whole = not spec.dtype.startswith(("float", "bfloat"))
        return cls(rows, name, dataset.class_names if whole and len(dataset.targets) == 1 else ())

    def values(self, rows: Sequence[int]) -> Iterator[list[Value]]:
        """Of these rows, some at a time: of a class its number."""
        return self.rows.values_in_blocks(self.name, rows)

    def called(self, value: Value) -> Value:
        """A value as people call it: of a class its name, where it has one."""
        named = isinstance(value, int) and 0 <= value < len(self.class_names)
        return self.class_names[int(value)] if named else value

    def chosen(self, rows: Sequence[int], wanted: Sequence[Value], pointer: str) -> Array:
        """(rows,) whether each has one of the values. Raises InvalidRequest for a value that no row of all has."""
        asked = [_key(self._number(value)) for value in wanted]
        keep, seen = self._scanned(rows, asked)
        total = self.rows.dataset.rows or 0
        if not set(asked) <= set(seen) and len(rows) < total:
            _, seen = self._scanned(range(total), asked)
        for at, key in enumerate(asked):
            if key in seen:
                continue
            there = [self.called(each) for each in seen.values()]
            shown = ", ".join(map(repr, sorted(there, key=str)[:_SHOWN]))
            more = "" if len(there) <= _SHOWN else ", …"
            raise InvalidRequest.field(
                pointer if pointer.startswith("query:") else f"{pointer}/{at}",
                f"no row of {self.rows.dataset.name!r} has {wanted[at]!r} in column {self.name!r}"
                f"{nearest(wanted[at], there)}; there are {shown}{more}",
                wanted[at],
            )
        return keep

    def _scanned(
        self, rows: Sequence[int], asked: Sequence[tuple[type, Value]]
    ) -> tuple[Array, dict[tuple[type, Value], Value]]:
        """(rows,) whether each has what is asked for; and the values that there are, though not too many."""
        keep, seen = np.zeros(len(rows), bool), dict[tuple[type, Value], Value]()
        keys = set(asked)
        for at, value in enumerate(chain.from_iterable(self.values(rows))):
            key = _key(value)
            keep[at] = key in keys
            if keep[at] or len(seen) < _LOOKED_THROUGH:
                seen[key] = value
        return keep, seen

    def _number(self, value: Value) -> Value:
        """Of a class that is named its number."""
        if isinstance(value, str) and value in self.class_names:
            return list(self.class_names).index(value)
        return value


def _key(value: Value) -> tuple[type, Value]:
    """Equal values of one kind: 1 is 1.0, and neither is True or "1"."""
    kind = type(value)
    return kind if kind in (bool, str) else float, value
