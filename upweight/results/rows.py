"""Rows of a dataset, to look at: the flows that fetch them."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.errors import InvalidRequest
from upweight.files.npy import NpySink
from upweight.http.flow import Call, Flow, segment
from upweight.schema import DatasetRecord, DatasetRows, written_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray


PATH = "/v1/datasets"
MOST_CHARACTERS = 15_000  # of rows in an address


def record_of(dataset: str) -> Flow[DatasetRecord]:
    """The dataset's record."""
    reply = yield Call("GET", f"{PATH}/{segment(dataset)}")
    return reply.read(DatasetRecord)


def vocabulary_of(dataset: DatasetRecord) -> Flow[list[str] | None]:
    """The words that the tokens of a dataset stand for, where its preview names some."""
    digest = getattr(dataset.preview, "vocabulary", None)
    if digest is None:
        return None
    reply = yield Call("GET", f"/v1/blobs/{segment(digest)}", headers={"Accept": "*/*"})
    words: list[str] = json.loads(reply.body)
    return words


def rows_of(
    dataset: DatasetRecord,
    rows: str | Sequence[tuple[str, str]],
    columns: Sequence[str] | None = None,
) -> Flow[dict[str, NDArray[Any]]]:
    """Columns by name, (rows, …) each; None: all that models see. `rows` in the contract's grammar: `0:20`, `3,5`; or
    the parameters that choose them."""
    seen = [*dataset.inputs, *dataset.targets]
    known = [*seen, *dataset.metadata]
    chosen = [("rows", rows)] if isinstance(rows, str) else rows
    found = {}
    for name in seen if columns is None else columns:
        if name not in known:
            raise InvalidRequest.field(
                "/columns",
                f"{dataset.name} has no column {name!r}; it has {', '.join(known)}",
                name,
            )
        sink = NpySink()
        query = (*chosen, ("column", name))
        yield Call("GET", f"{PATH}/{segment(dataset.id)}/rows", query, sink=sink)
        found[name] = _texts(sink.array()) if name in dataset.metadata else sink.array()
    return found


def named_rows(
    dataset: DatasetRecord, query: Sequence[tuple[str, str]], column: str
) -> Flow[DatasetRows]:
    """The numbers and ids of the rows that these parameters choose, with one column of them."""
    found = (*query, ("column", column))
    reply = yield Call("GET", f"{PATH}/{segment(dataset.id)}/rows", found)
    return reply.read(DatasetRows)


def ids_of(dataset: DatasetRecord) -> Flow[NDArray[Any]]:
    """The ids of all rows of a dataset that has some: (rows,) of numbers or texts."""
    sink = NpySink()
    query = (("rows", ":"), ("column", dataset.ids or ""))
    yield Call("GET", f"{PATH}/{segment(dataset.id)}/rows", query, sink=sink)
    return _texts(sink.array())


def ids_at(dataset: DatasetRecord, rows: NDArray[np.int64]) -> Flow[NDArray[Any]]:
    """The ids of some rows, (rows,), of a dataset that has some; of rows too scattered to be named, out of all."""
    try:
        text = written_rows(rows.tolist())
    except ValueError:
        text = ""
    if not 0 < len(text) <= MOST_CHARACTERS:
        every = yield from ids_of(dataset)
        return every[rows]
    sink = NpySink()
    query = (("rows", text), ("column", dataset.ids or ""))
    yield Call("GET", f"{PATH}/{segment(dataset.id)}/rows", query, sink=sink)
    return _texts(sink.array())


def _texts(stored: NDArray[Any]) -> NDArray[Any]:
    """Ids or metadata: numbers as they are, texts as texts."""
    if stored.ndim == 1:
        return stored
    if not len(stored):
        return np.empty(0, "U1")
    texts = np.ascontiguousarray(stored).view(f"S{stored.shape[1]}").reshape(-1)
    return np.char.decode(texts, "utf-8")


# Numbers; or ids in a list, where these are strings; or `{"ids": [...]}`, `{"where": {"source": ["web"]}}`.
RowChoice = str | int | slice | range | Sequence[int] | Sequence[str] | Mapping[str, Any]


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
