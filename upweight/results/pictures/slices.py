"""A part of the influences as a picture shows it: values, and what stands at its edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import upweight.late.numpy as np
import upweight.results.labels as labels
import upweight.results.stored as stored
from upweight.errors import InvalidRequest
from upweight.http.flow import Flow
from upweight.progress import Bars
from upweight.results.pictures.look import label
from upweight.results.rows import record_of, rows_of
from upweight.schema import DatasetRecord, JobRecord, parse_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray


MOST = (100, 400)  # rows and columns that are shown unless others are asked for
TICKS = 9
SCALE = "influence (blue: helps, red: harms)"


@dataclass(frozen=True)
class Side:
    """An edge: what its positions are, some of them marked, and where groups of them meet."""

    name: str
    ticks: list[float]
    labels: list[str]
    borders: list[int]


@dataclass(frozen=True)
class Slice:
    """Values with two dimensions, and their edges."""

    values: NDArray[Any]
    down: Side
    across: Side
    title: str
    scale: str = SCALE
    aspect: Literal["auto", "equal"] = "auto"


def part(record: JobRecord, test: Any, train: Any, by_class: bool, bars: Bars) -> Flow[Slice]:
    """Rows of the matrix by columns of it; of perturbations, the features of one row by another."""
    labels.refuse_groups(record)
    record = stored.one(record)
    source = stored.influences(record)
    if len(source.shape) == 1:
        raise InvalidRequest("self-influences are one number a row; draw 'top' or 'ranking'")
    if len(source.shape) > 2:
        return (yield from _features(record, test or 0, train or 0, bars))
    named = yield from labels.labelled(record, "influences")
    datasets = (record.test_id, record.train_id)
    sides, picked = [], []
    for axis, chosen, size, most, dataset in zip(
        named.axes, (test, train), source.shape, MOST, datasets, strict=True
    ):
        positions = _positions(chosen, size, most)
        rows = axis.labels(positions)
        side, order = yield from _side(axis.name, dataset, rows, by_class)
        sides.append(side)
        picked.append(positions[order])
    values = yield from source.fetched(np.ix_(*picked), bars)
    shape = " × ".join(f"{size:,}" for size in source.shape)
    title = f"{len(picked[0]):,} × {len(picked[1]):,} of {shape} influences"
    return Slice(values, sides[0], sides[1], title)


def _features(record: JobRecord, test: Any, train: Any, bars: Bars) -> Flow[Slice]:
    if not isinstance(test, int) or not isinstance(train, int):
        raise InvalidRequest(
            "of perturbations, one test row and one train row are drawn; give both as numbers"
        )
    values = yield from stored.influences(record).fetched((test, train), bars)
    dataset = yield from record_of(record.train_id)
    image = values.reshape(getattr(dataset.preview, "shape", None) or values.shape)
    if image.ndim > 2:  # channels first: what they do together
        image = image.reshape(-1, *image.shape[-2:]).sum(0)
    flat = image.ndim == 1
    side = Side("", [], [], [])
    named = yield from labels.labelled(record, "influences")
    rows = [
        int(axis.labels(np.array([at]))[0])
        for axis, at in zip(named.axes, (test, train), strict=True)
    ]
    return Slice(
        image.reshape(1, -1) if flat else image, side, side,
        title=f"what raising each feature of training row {rows[1]} does to test row {rows[0]}",
        scale="influence of the feature (blue: helps, red: harms)",
        aspect="auto" if flat else "equal",
    )  # fmt: skip


def _positions(chosen: Any, size: int, most: int) -> NDArray[np.int64]:
    """Those that were asked for; without, evenly spaced ones."""
    every = np.arange(size)
    if chosen is None:
        return every[:: -(-size // most)]
    if isinstance(chosen, str):
        return np.fromiter(parse_rows(chosen, size), np.int64)
    return np.atleast_1d(every[chosen])


def _side(
    name: str, dataset_id: str | None, rows: NDArray[np.int64], by_class: bool
) -> Flow[tuple[Side, NDArray[np.intp]]]:
    """An edge, and the order of its positions. Right-hand sides of a job's own are of no dataset."""
    dataset = (yield from record_of(dataset_id)) if dataset_id is not None else None
    labels = (yield from _classes(dataset, rows)) if by_class and dataset is not None else None
    if labels is None or dataset is None:
        marks = np.unique(np.linspace(0, len(rows) - 1, min(TICKS, len(rows))).astype(int))
        return Side(f"{name} rows", marks.tolist(), [str(rows[at]) for at in marks], []), np.arange(
            len(rows)
        )
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[order], return_index=True)
    ends = np.append(starts[1:], len(rows))
    centres = ((starts + ends - 1) / 2).tolist()
    names = [label(each, dataset) for each in classes]
    return Side(f"{name} rows by label", centres, names, starts[1:].tolist()), order


def _classes(dataset: DatasetRecord, rows: NDArray[np.int64]) -> Flow[NDArray[Any] | None]:
    """The label of each row; None where rows have no classes."""
    spec = {column.name: column for column in dataset.columns}.get((dataset.targets or [""])[0])
    if spec is None or spec.shape or "int" not in spec.dtype:
        return None
    found = []
    for some in _shared(rows):
        text = ",".join(map(str, some))
        found.append((yield from rows_of(dataset, text, [spec.name]))[spec.name])
    return np.concatenate(found) if found else None


def _shared(rows: NDArray[np.int64]) -> Sequence[NDArray[np.int64]]:
    """So many at a time that a request names them."""
    return [rows[start : start + 500] for start in range(0, len(rows), 500)]
