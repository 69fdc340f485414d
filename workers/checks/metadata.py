"""The check of a metadata column: one kind in all shards, a value in each row, and which values there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from service.datasets.ids import Value, is_text, plain, values_in
from service.datasets.sources import Source
from upweight.errors import Rejected
from upweight.schema import MetadataSpec
from upweight.schema.dataset import VALUES_LISTED
from workers.checks.ids import BLOCK_ROWS, has_hole, shape_beside, text_bytes, too_large
from workers.datasets.arrays import Array
from workers.datasets.shards import ColumnShape, Shard

_LONGEST = 1024  # bytes of one text
Kind = Literal["text", "integer", "float", "boolean"]


class Metadata:
    """One column of all shards, as they come by."""

    def __init__(self, name: str, place: int) -> None:
        self._name, self._pointer = name, f"/metadata/{place}"
        self._kind: Kind | None = None
        self._values: set[Value] | None = set()
        self._rows = 0

    def read(self, shard: Shard, source: Source, rows: int, checkpoint: Callable[[], None]) -> None:
        """That of one shard. Raises Rejected, naming the first row that is wrong."""
        kind = self._kind_in(shard, source, rows)
        if self._kind not in (None, kind):
            raise self._rejected(
                f"column {self._name!r} is {kind} from row {self._rows} on, and {self._kind} before"
            )
        self._kind = kind
        for start in range(0, rows, BLOCK_ROWS):
            checkpoint()
            block = plain(shard.read(self._name, start, min(start + BLOCK_ROWS, rows)))
            self._look(block, self._rows + start)
        self._rows += rows

    def spec(self) -> MetadataSpec:
        """What was found."""
        values = None if self._values is None else sorted(self._values)
        return MetadataSpec(name=self._name, kind=self._kind or "text", values=values)

    def _kind_in(self, shard: Shard, source: Source, rows: int) -> Kind:
        found = shape_beside(shard, source, self._name, rows, self._rejected)
        kind = _kind_of(found)
        if kind is None:
            raise self._rejected(
                f"column {self._name!r} is {found.dtype} {list(found.shape[1:])} a row; metadata are a number or a "
                f"boolean a row, or UTF-8 text as uint8 of at most {_LONGEST} bytes a row"
            )
        return kind

    def _look(self, block: Array, before: int) -> None:
        if is_text(block):
            if has_hole(block).any():
                raise self._rejected(f"column {self._name!r} has a text with a byte 0 inside")
        elif block.dtype.kind == "f" and not np.isfinite(block).all():
            row = before + int(np.argmin(np.isfinite(block)))
            raise self._rejected(f"column {self._name!r} has NaN or infinity in row {row}")
        elif block.dtype.kind in "iu" and len(block):
            large = too_large(block)
            if large.any():
                row = before + int(np.argmax(large))
                raise self._rejected(
                    f"column {self._name!r} has {int(block[row - before])} in row {row}; whole numbers go up to 2**53"
                )
        try:
            found = values_in(np.unique(block, axis=0))
        except UnicodeDecodeError:
            raise self._rejected(f"column {self._name!r} has a text that is no UTF-8") from None
        if self._values is not None:
            self._values.update(found)
            if len(self._values) > VALUES_LISTED:
                self._values = None

    def _rejected(self, detail: str) -> Exception:
        return Rejected.field(self._pointer, detail, self._name)


def _kind_of(found: ColumnShape) -> Kind | None:
    if len(found.shape) == 2:
        text = found.dtype == np.uint8 and 0 < found.shape[1] <= _LONGEST
        return "text" if text else None
    if len(found.shape) != 1:
        return None
    if found.dtype.kind in "US":
        return "text" if text_bytes(found.dtype) <= _LONGEST else None
    kinds: dict[str, Kind] = {"b": "boolean", "i": "integer", "u": "integer", "f": "float"}
    return kinds.get(found.dtype.kind)
