"""Questions to an index: rows as callers have them, and what is answered of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

import upweight.late.numpy as np
from upweight.errors import InvalidRequest
from upweight.field_errors import field_errors
from upweight.http.flow import Call, Flow, segment
from upweight.results.rows import RowChoice, rows_text
from upweight.schema import Explained, IndexAnswer, IndexQuery
from upweight.schema.indexes import MAXIMUM_QUERIES

_PATH = "/v1/indexes"


def asked(
    id: str,
    columns: Mapping[str, Any],
    *,
    test: Any = None,
    test_rows: RowChoice | None = None,
    k: int,
    candidates: int,
    model: Any,
) -> Flow[list[Explained]]:
    """What an index answers of each row: of many, some rows at a time."""
    rows = _rows(columns)
    chosen = _chosen(test, test_rows)
    count = len(next(iter(rows.values()), []))
    found: list[Explained] = []
    for first in range(0, max(1, count), MAXIMUM_QUERIES):
        fields: dict[str, Any] = {"k": k, "candidates": candidates}
        if chosen is not None:
            fields["test"] = chosen
        if rows:
            fields["columns"] = {
                name: values[first : first + MAXIMUM_QUERIES] for name, values in rows.items()
            }
        if model is not None:
            fields["model"] = getattr(model, "id", model)
        path = f"{_PATH}/{segment(id)}/query"
        reply = yield Call("POST", path, json=_checked(fields, path))
        found += reply.read(IndexAnswer).rows
    return found


def _chosen(test: Any, rows: RowChoice | None) -> dict[str, Any] | None:
    """Rows of a dataset: its name, id or record, or a mapping with `dataset` and which rows."""
    if test is None:
        if rows is not None:
            raise InvalidRequest("'test_rows' are of 'test': give the dataset, too")
        return None
    found = dict(test) if isinstance(test, Mapping) else {"dataset": test}
    found["dataset"] = getattr(found.get("dataset"), "id", found.get("dataset"))
    chosen = found.pop("rows", None) if rows is None else rows
    if chosen is not None:
        found["rows"] = rows_text(chosen)
    return found


def _checked(fields: Mapping[str, Any], path: str) -> dict[str, Any]:
    try:
        return IndexQuery.model_validate(fields).model_dump(mode="json", exclude_unset=True)
    except ValidationError as exc:
        errors = field_errors(
            [{**error, "loc": ("body", *error["loc"])} for error in exc.errors()], fields, path
        )
        words = "; ".join(f"{error.pointer or 'the request'}: {error.detail}" for error in errors)
        raise InvalidRequest(words, errors=errors) from exc


def _rows(columns: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Lists of rows; where one column is a number alone, all are of one row."""
    arrays = {name: _plain(values) for name, values in columns.items()}
    single = any(not isinstance(values, list) for values in arrays.values())
    return {name: [values] if single else values for name, values in arrays.items()}


def _plain(values: Any) -> Any:
    """Nested lists, of arrays, tensors, frames, or what they are made of."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if hasattr(values, "tolist"):
        return values.tolist()
    if isinstance(values, list | tuple):
        return [_plain(each) for each in values]
    return np.asarray(values).tolist()
