"""Rows of a dataset, to look at: the flows that fetch them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from upweight.errors import InvalidRequest
from upweight.exchange import Call, Flow, segment
from upweight.npy import NpySink
from upweight.schema import DatasetRecord

PATH = "/v1/datasets"


def record_of(dataset: str) -> Flow[DatasetRecord]:
    """The dataset's record."""
    reply = yield Call("GET", f"{PATH}/{segment(dataset)}")
    return reply.read(DatasetRecord)


def rows_of(
    dataset: DatasetRecord, rows: str, columns: Sequence[str] | None = None
) -> Flow[dict[str, NDArray[Any]]]:
    """Columns by name, (rows, …) each; None: all of them. `rows` in the contract's grammar: `0:20`, `3,5`."""
    known = [*dataset.inputs, *dataset.targets]
    found = {}
    for name in known if columns is None else columns:
        if name not in known:
            raise InvalidRequest.field(
                "/columns",
                f"{dataset.name} has no column {name!r}; it has {', '.join(known)}",
                name,
            )
        sink = NpySink()
        query = (("rows", rows), ("column", name))
        yield Call("GET", f"{PATH}/{segment(dataset.id)}/rows", query, sink=sink)
        found[name] = sink.array()
    return found
