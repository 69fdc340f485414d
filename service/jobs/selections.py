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
from upweight.schema import DatasetRecord, JobRequest, Selection, parse_rows, written_rows

_WAY_OUT = "choose rows that lie together, or derive a dataset that has just these"


def with_numbers(parts: Parts, namespace: str, job: JobRequest) -> JobRequest:
    """The job with numbers in the place of ids and filters. Raises InvalidRequest, NotFound, NotReady."""
    update = {
        field: numbered(parts, namespace, selection, f"/{field}")
        for field, selection in _selections(job)
        if selection.ids is not None or selection.where is not None
    }
    return job.model_copy(update=update) if update else job


def _selections(job: JobRequest) -> Iterator[tuple[str, Selection]]:
    for field in type(job).model_fields:
        value = getattr(job, field)
        if isinstance(value, Selection):
            yield field, value


def numbered(parts: Parts, namespace: str, selection: Selection, pointer: str) -> Selection:
    """One choice by numbers. It keeps `where`, with which these numbers come to themselves."""
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
        at = f"{pointer}/where/{column.replace('~', '~0').replace('/', '~1')}"
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
