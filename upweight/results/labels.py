"""What the positions of stored arrays stand for: rows of datasets, their ids, groups, layers, λ's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.errors import NotStored
from upweight.http.flow import Flow
from upweight.http.polling import ended
from upweight.results.rows import ids_at, ids_of, record_of
from upweight.results.saving import DAMPING, Axis, Labelled
from upweight.results.stored import VECTORS, layer_names, summary
from upweight.schema import DatasetRecord, JobRecord, Selection, parse_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray


def labelled(record: JobRecord, name: str) -> Flow[Labelled]:
    """The names of an array's axes, and the dataset rows, or λ's, that its positions stand for."""
    found = yield from _labelled(record, name)
    several = summary(record).dampings if ended(record) else None
    if several is None:
        return found
    return Labelled((Axis(DAMPING, np.asarray(several)), *found.axes), found.value)


def identified(record: JobRecord, name: str) -> Flow[Labelled]:
    """The same with the rows' ids in place of their numbers, where the datasets have ids."""
    found = yield from labelled(record, name)
    axes = []
    for axis in found.axes:
        dataset = yield from _with_ids(record, name, axis)
        if dataset is not None:
            ids = yield from ids_of(dataset)
            axis = Axis(axis.name, ids if axis.rows is None else ids[axis.rows])
        axes.append(axis)
    return Labelled(tuple(axes), found.value)


def names_of(
    record: JobRecord, name: str, chosen: Sequence[Sequence[int]]
) -> Flow[list[NDArray[Any] | None]]:
    """The ids, or groups, at chosen positions of an array's first axes; None for an axis whose rows have no ids."""
    found = yield from labelled(record, name)
    names: list[NDArray[Any] | None] = []
    for axis, some in zip(found.axes, chosen, strict=False):
        labels = axis.labels(np.asarray(some, np.int64))
        dataset = yield from _with_ids(record, name, axis)
        if dataset is not None:
            names.append((yield from ids_at(dataset, labels)))
        else:
            names.append(labels if _is_grouped(record, name, axis) else None)
    return names


def _is_grouped(record: JobRecord, name: str, axis: Axis) -> bool:
    return name not in VECTORS and axis.name in group_names(record)


def _with_ids(record: JobRecord, name: str, axis: Axis) -> Flow[DatasetRecord | None]:
    """The dataset whose rows the axis has, if these have ids."""
    if _is_grouped(record, name, axis):
        return None
    id = {"train": record.train_id, "test": record.test_id}.get(axis.name)
    dataset = None if id is None else (yield from record_of(id))
    return None if dataset is None or dataset.ids is None else dataset


def group_names(record: JobRecord) -> dict[str, list[bool | int | float | str]]:
    """The names of the groups along each axis that has some, in its order."""
    return {} if record.groups is None else record.groups.names


def refuse_groups(record: JobRecord) -> None:
    """Raises NotStored for a result whose axes are groups: none of its positions is a row to be shown."""
    if record.groups is not None:
        raise NotStored(
            f"{record.id} has groups in the place of rows, and no row to show; take to_pandas(), or its page"
        )


def _as_axis(names: Sequence[Any]) -> NDArray[Any]:
    """Of one kind, as a column's values are."""
    return np.asarray(names)


def _labelled(record: JobRecord, name: str) -> Flow[Labelled]:
    request = record.request
    test: Selection | None = getattr(request, "test", None)
    if name == "gradients":
        rows = yield from _rows(request.train, record.train_id)
        return Labelled((Axis("train", rows), Axis("parameter")), "value")
    if name in VECTORS:
        if test is None:
            return Labelled((Axis("row"), Axis("parameter")), "value")
        rows = yield from _rows(test, record.test_id)
        return Labelled((Axis("test", rows), Axis("parameter")), "value")
    groups = group_names(record)
    if "train" in groups:
        train = Axis("train", _as_axis(groups["train"]))
    else:
        train = Axis("train", (yield from _rows(request.train, record.train_id)))
    if name == "mean" or request.is_self:
        return Labelled((train,))
    # Of parts, what the influence is split into: layers by name, positions by number.
    split: tuple[Axis, ...] = ()
    if name == "by_layer":
        split = (Axis("layer", _as_axis(layer_names(record))),)
    elif name == "by_token" and len(summary(record).part_shape or ()) == 1:
        split = (Axis("token"),)
    if "test" in groups:
        return Labelled((Axis("test", _as_axis(groups["test"])), train))
    if test is None:  # of factors for right-hand sides of their own
        return Labelled((Axis("row"), train, *split))
    return Labelled((Axis("test", (yield from _rows(test, record.test_id))), train, *split))


def _rows(chosen: Selection, dataset_id: str | None) -> Flow[NDArray[np.int64] | None]:
    """The dataset's rows that were chosen; None: all of them."""
    if chosen.rows is None:
        return None
    dataset = yield from record_of(dataset_id or chosen.dataset)
    parts = parse_rows(chosen.rows, dataset.rows or 0).parts
    return np.concatenate([np.arange(part.start, part.stop, part.step) for part in parts])
