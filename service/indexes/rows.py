"""Rows of a request as arrays: held against the columns that the index's model was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.datasets.rows import ShardedRows
from service.datasets.tokens import token_column
from service.jobs.prepared import chosen
from service.jobs.selections import numbered
from service.jobs.validation.compatibility import fitted, is_floating
from service.jobs.validation.inputs import Chosen, Inputs
from service.parts import Parts
from upweight.errors import InvalidRequest
from upweight.field_errors import pointer_step
from upweight.schema import (
    ColumnMatch,
    ColumnSpec,
    DatasetRecord,
    JobRecord,
    ModelRecord,
    Selection,
    parse_rows,
)
from upweight.schema.indexes import MAXIMUM_QUERIES

Array = np.ndarray[Any, Any]


def given(
    job: JobRecord,
    dataset: DatasetRecord,
    columns: Mapping[str, Sequence[Any]],
    text: Sequence[str] | None = None,
) -> dict[str, Array]:
    """The model's inputs and its loss's targets, from values by column. Raises InvalidRequest.

    Beside texts only the columns that are given: a worker knows which follow from tokens.
    """
    match = _match_of(job.matched, dataset)
    names = [*match.inputs, *match.targets]
    if text is not None:
        _refuse_texts(dataset, match, columns)
    for name in columns:
        if name not in names:
            raise InvalidRequest.field(
                f"/columns/{pointer_step(name)}",
                f"the index's model takes no column {name!r}; it takes {', '.join(names)}",
                None,
            )
    for name in names:
        if name not in columns and text is None:
            raise InvalidRequest.field(
                "/columns",
                f"column {name!r} is missing; an index is asked with {', '.join(names)}",
                None,
            )
    specs = {column.name: column for column in dataset.columns}
    # The others compute in float32, or with its range.
    precision = "float64" if job.request.precision == "float64" else "float32"
    return {
        name: _arranged(dataset, match, name, _array(specs[name], columns[name], precision))
        for name in names
        if name in columns
    }


def _refuse_texts(
    dataset: DatasetRecord, match: ColumnMatch, columns: Mapping[str, Sequence[Any]]
) -> None:
    """Raises InvalidRequest where texts can't be rows of the index's dataset."""
    about = f"dataset {dataset.name}@{dataset.version} of the index"
    tokens = token_column(dataset, dataset.columns)
    if dataset.tokenizer is None or tokens is None:
        raise InvalidRequest.field(
            "/text",
            f"{about} has no tokenizer; give the rows in 'columns', or make an index of a dataset that is registered "
            "with its 'tokenizer'",
            None,
        )
    if tokens.name not in match.inputs:
        words = f"{about} has its tokens in {tokens.name!r}, which its model does not take; give the rows in 'columns'"
        raise InvalidRequest.field("/text", words, None)
    if tokens.name in columns:
        words = f"'text' gives the tokens of {tokens.name!r}; leave the column or the text out"
        raise InvalidRequest.field(f"/columns/{pointer_step(tokens.name)}", words, None)


def chosen_rows(
    parts: Parts, namespace: str, job: JobRecord, model: ModelRecord, test: Selection
) -> dict[str, Array]:
    """The same of rows of a dataset. Raises InvalidRequest, NotFound, NotReady."""
    selection = numbered(parts, namespace, test, "/test")
    found = chosen(parts, namespace, selection, "/test")
    if len(found.rows) > MAXIMUM_QUERIES:
        raise InvalidRequest.field(
            "/test",
            f"chooses {len(found.rows)} rows, and an index answers {MAXIMUM_QUERIES} at a time; a job of kind "
            "'influences' takes any number",
            None,
        )
    document = parts.records.get("dataset", namespace, job.train_id)
    train = Chosen("/train", DatasetRecord.model_validate(document), parse_rows(None, 0))
    inputs = Inputs(model, train, found, train)
    match = _match_of(fitted(inputs, job.request.columns), found.dataset)
    rows = ShardedRows.of(parts, namespace, found.dataset)
    own = _match_of(job.matched, train.dataset)
    pairs = zip((*own.inputs, *own.targets), (*match.inputs, *match.targets), strict=True)
    return {
        name: _arranged(
            found.dataset, match, theirs, _wide(rows.numbers(column, list(found.rows)).whole())
        )
        for name, theirs in pairs
        for column in rows.chosen([theirs])
    }


def _wide(values: Array) -> Array:
    """As numbers of a request are: float64, int64 or bool."""
    if values.dtype.kind == "b":
        return values
    return values.astype(np.int64 if values.dtype.kind in "iu" else np.float64)


def _match_of(matched: Sequence[ColumnMatch], dataset: DatasetRecord) -> ColumnMatch:
    return next(match for match in matched if match.dataset == dataset.id)


def _arranged(dataset: DatasetRecord, match: ColumnMatch, name: str, values: Array) -> Array:
    """A column's features in the order in which the job takes them."""
    if name not in match.features:
        return values
    places = {feature: at for at, feature in enumerate(dataset.features_of(name))}
    return values[..., [places[feature] for feature in match.features[name]]]


def _array(column: ColumnSpec, values: Sequence[Any], precision: str) -> Array:
    """(rows, …) in float64, int64 or bool. Raises InvalidRequest, naming the row."""
    pointer = f"/columns/{pointer_step(column.name)}"
    rows = [
        _row(column, value, f"{pointer}/{at}", at, precision) for at, value in enumerate(values)
    ]
    if len({row.shape for row in rows}) > 1:
        raise InvalidRequest.field(
            pointer, "the rows have different shapes; ask for them one by one", None
        )
    return np.stack(rows)


def _row(column: ColumnSpec, value: Any, pointer: str, at: int, precision: str) -> Array:
    words = f"row {at} of column {column.name!r}"
    try:
        found = np.asarray(value)
    except ValueError:
        found = np.asarray(None)
    if found.dtype.kind == "O" and found.shape and _has_nothing(found):
        raise InvalidRequest.field(pointer, f"{words} has null, or NaN or Inf: {_FINITE}", None)
    if found.dtype.kind not in "biuf":
        raise InvalidRequest.field(
            pointer,
            f"{words} must be numbers of shape {_shape(column)}, nested as the shape says",
            None,
        )
    wanted = column.shape
    if len(found.shape) != len(wanted) or any(
        size is not None and size != own for size, own in zip(wanted, found.shape, strict=True)
    ):
        raise InvalidRequest.field(
            pointer,
            f"{words} has shape {tuple(found.shape)}; it must be {_shape(column)}, as in the index's dataset",
            None,
        )
    if is_floating(column.dtype):
        return _as_floats(found, precision, pointer, words)
    if column.dtype == "bool":
        if not np.isin(found, (0, 1)).all():
            raise InvalidRequest.field(pointer, f"{words} must be true or false", None)
        return found.astype(bool)
    if found.dtype.kind == "f" and not np.equal(np.mod(found, 1), 0).all():
        raise InvalidRequest.field(pointer, f"{words} must be whole numbers ({column.dtype})", None)
    limits = np.iinfo(np.dtype(column.dtype))
    # The largest number of 64 bits is no float, which would be compared with the next one.
    above = found >= limits.max + 1.0 if found.dtype.kind == "f" else found > limits.max
    outside = found[(found < limits.min) | above]
    if outside.size:
        raise InvalidRequest.field(
            pointer,
            f"{words} has {outside.flat[0]}, and {column.dtype} goes from {limits.min} to {limits.max}",
            None,
        )
    return found.astype(np.int64)


_FINITE = (
    "give numbers that are finite, with what a missing one is filled with in the index's dataset"
)


def _has_nothing(found: Array) -> bool:
    return all(each is None or isinstance(each, int | float) for each in found.flat)


def _as_floats(found: Array, precision: str, pointer: str, words: str) -> Array:
    """Float64. Raises InvalidRequest for what is not finite in the index's precision."""
    wide = found.astype(np.float64)
    outside = wide[~(np.abs(wide) <= np.finfo(precision).max)]
    if not np.isfinite(outside).all():
        raise InvalidRequest.field(pointer, f"{words} has NaN or Inf: {_FINITE}", None)
    if outside.size:
        raise InvalidRequest.field(
            pointer,
            f"{words} has {outside.flat[0]}, and the index is in {precision}: {_FINITE}",
            None,
        )
    return wide


def _shape(column: ColumnSpec) -> str:
    sizes = ["any" if size is None else str(size) for size in column.shape]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
