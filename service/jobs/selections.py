"""Rows that a job chooses by id or by what columns are in them, as the numbers that all else goes by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np

from service.datasets.names import GroupColumn, RowNames
from service.datasets.stored_rows import StoredRows
from service.jobs.prepared import ready
from service.parts import Parts
from upweight.errors import InvalidRequest
from upweight.field_errors import pointer_step
from upweight.schema import (
    DatasetRecord,
    InfluencesJob,
    JobRequest,
    Selection,
    parse_rows,
    written_rows,
)

_WAY_OUT = "choose rows that lie together, or derive a dataset that has just these"


def with_numbers(parts: Parts, namespace: str, job: JobRequest) -> JobRequest:
    """The job with numbers in the place of ids and filters. Raises InvalidRequest, NotFound, NotReady."""
    update = {
        field: numbered(parts, namespace, selection, f"/{field}")
        for field, selection in _selections(job)
    }
    job = job.model_copy(update=update)
    if isinstance(job, InfluencesJob) and job.groups is not None:
        return _with_sets(parts, namespace, job)
    return job


def _with_sets(parts: Parts, namespace: str, job: InfluencesJob) -> InfluencesJob:
    """The sets by numbers, and as training rows those that any of them has. Raises InvalidRequest."""
    found = ready(parts, "dataset", namespace, job.train.dataset, "/train/dataset")
    dataset, groups = DatasetRecord.model_validate(found), job.groups or ()
    total = dataset.rows or 0
    listed = [name for each in groups if not isinstance(each, str) for name in each]
    names = RowNames.of(parts, namespace, dataset, listed)
    sets: list[list[int]] = []
    for at, each in enumerate(groups):
        pointer = f"/groups/{at}"
        try:
            rows = list(parse_rows(each, total)) if isinstance(each, str) else None
        except ValueError as error:
            raise InvalidRequest.field(pointer, str(error), each) from None
        rows = names.rows(each, pointer, or_numbers=True) if rows is None else rows
        if not rows or len(set(rows)) < len(rows):
            words = "has no rows" if not rows else "has a row twice; name it once"
            raise InvalidRequest.field(pointer, words, None)
        sets.append(sorted(rows))
    union = sorted({row for rows in sets for row in rows})
    train = job.train
    if train.rows is None:
        train = train.model_copy(update={"rows": _text(union, "/groups")})
    else:
        there = set(parse_rows(train.rows, total))
        for at, rows in enumerate(sets):
            outside = next((row for row in rows if row not in there), None)
            if outside is not None:
                words = f"row {outside} is not among the rows of 'train'; leave these out, or choose it there"
                raise InvalidRequest.field(f"/groups/{at}", words, outside)
    texts = tuple(_text(rows, f"/groups/{at}") for at, rows in enumerate(sets))
    return job.model_copy(update={"groups": texts, "train": train})


def _text(rows: Sequence[int], pointer: str) -> str:
    try:
        return written_rows(rows)
    except ValueError as error:
        raise InvalidRequest.field(pointer, str(error), None) from None


def _selections(job: JobRequest) -> Iterator[tuple[str, Selection]]:
    for field in type(job).model_fields:
        value = getattr(job, field)
        if isinstance(value, Selection):
            yield field, value


def numbered(parts: Parts, namespace: str, selection: Selection, pointer: str) -> Selection:
    """One choice by numbers. It keeps `where`, with which these numbers come to themselves."""
    if selection.ids is None and selection.where is None:
        return (
            selection  # by numbers as they were written, which is what is told where they are wrong
        )
    found = ready(parts, "dataset", namespace, selection.dataset, f"{pointer}/dataset")
    dataset = DatasetRecord.model_validate(found)
    rows = filtered(parts, namespace, dataset, selection, pointer)
    return selection.model_copy(update={"rows": written(rows, pointer, selection), "ids": None})


def filtered(
    parts: Parts, namespace: str, dataset: DatasetRecord, selection: Selection, pointer: str
) -> Sequence[int]:
    """The rows of a dataset that a choice means, in its order. Raises InvalidRequest."""
    rows: Sequence[int]
    if selection.ids is not None:
        names = RowNames.of(parts, namespace, dataset, selection.ids)
        rows = names.rows(selection.ids, f"{pointer}/ids")
    else:
        try:
            parsed = parse_rows(selection.rows, dataset.rows or 0)
        except ValueError as error:
            raise InvalidRequest.field(f"{pointer}/rows", str(error), selection.rows) from None
        rows = parsed.parts[0] if len(parsed.parts) == 1 else list(parsed)
    if selection.where is None:
        return rows
    shown = StoredRows.of(parts, namespace, dataset)
    keep = np.ones(len(rows), bool)
    for column, values in selection.where.items():
        at = f"{pointer}/where/{pointer_step(column)}"
        keep &= GroupColumn.of(shown, column, at).chosen(rows, values, at)
    if not keep.any():
        words = f"no row of {dataset.name!r} has all of these together; choose less narrowly"
        said = json.dumps(selection.model_dump(mode="json")["where"])
        raise InvalidRequest.field(f"{pointer}/where", words, said)
    return [rows[place] for place in np.flatnonzero(keep).tolist()]


def written(rows: Sequence[int], pointer: str, selection: Selection) -> str:
    """As the grammar of rows has them. Raises InvalidRequest where that is too long."""
    field = "ids" if selection.ids is not None else "where"
    try:
        return written_rows(rows)
    except ValueError as error:
        raise InvalidRequest.field(f"{pointer}/{field}", f"{error}; {_WAY_OUT}", None) from None
