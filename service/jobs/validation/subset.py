"""Which rows a training takes, with which weights and labels, as a job says it. Workers have it, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.storage.layout import blob_path
from service.storage.objects import Objects
from service.storage.tensors import BadTensors, read_entry, read_header
from upweight.errors import InvalidRequest
from upweight.schema import Rows, parse_rows

Array = NDArray[Any]
NUMBERS = ("rows", "drop", "weight_rows", "label_rows")  # of rows of the dataset
KNOWN = (*NUMBERS, "weights", "labels")


def given_arrays(objects: Objects, namespace: str, digest: str | None) -> dict[str, Array]:
    """The arrays of a job's `given`. Raises InvalidRequest for a blob that is none, or holds others."""
    if digest is None:
        return {}
    path = blob_path(namespace, digest)
    try:
        entries = read_header(objects, path)
    except FileNotFoundError:
        words = f"there is no such blob here; upload it first: PUT /v1/blobs/{digest}"
        raise InvalidRequest.field("/given", words, digest) from None
    except BadTensors as error:
        raise _bad(f"the blob is not a safetensors file: {error}", digest) from None
    unknown = sorted(set(entries) - set(KNOWN))
    if unknown:
        raise _bad(f"there is no use for {unknown[0]!r}; known are {', '.join(KNOWN)}", digest)
    for name, entry in entries.items():
        if name in NUMBERS and (entry.dtype.kind not in "iu" or len(entry.shape) != 1):
            raise _bad(f"{name!r} must be row numbers: whole numbers, on one axis", digest)
        if name == "weights" and (entry.dtype.kind != "f" or len(entry.shape) != 1):
            raise _bad("'weights' must be floating-point numbers, on one axis", digest)
    return {name: read_entry(objects, path, entry) for name, entry in entries.items()}


def chosen_rows(
    selected: Rows,
    drop: str | None,
    given: Mapping[str, Array],
    total: int,
    *,
    written: bool = False,
) -> NDArray[np.int64]:
    """The dataset's rows that are trained on, in their order. Raises InvalidRequest, naming the field.

    `written`: whether the job says in words which rows it takes.
    """
    rows = np.fromiter(selected, np.int64, len(selected))
    if "rows" in given:
        if written:
            words = "'rows' are in 'train.rows' and in 'given' as well; choose them in one place"
            raise _bad(words, None)
        rows = _numbers(given["rows"], total, "rows")
    unique, counts = np.unique(rows, return_counts=True)
    if len(unique) < len(rows):
        twice = int(unique[counts > 1][0])
        words = f"row {twice} is chosen {int(counts.max())} times; choose it once, and give it a weight instead"
        raise InvalidRequest.field("/train/rows", words, twice)
    left_out = np.zeros(total, bool)
    try:
        for row in parse_rows(drop, total) if drop is not None else ():
            left_out[row] = True
    except ValueError as error:
        raise InvalidRequest.field("/drop", str(error), drop) from None
    if "drop" in given:
        left_out[_numbers(given["drop"], total, "drop")] = True
    for name, at in (("weight", "weight_rows"), ("label", "label_rows")):
        named = _numbers(given[at], total, at) if at in given else np.empty(0, np.int64)
        if (dropped := named[left_out[named]]).size:
            words = f"row {int(dropped[0])} is dropped, and has a {name} of its own; give it one of both"
            raise InvalidRequest.field("/drop", words, int(dropped[0]))
    found: NDArray[np.int64] = rows[~left_out[rows]]
    if not len(found):
        raise InvalidRequest.field(
            "/drop" if len(rows) else "/train/rows",
            f"none of the {len(rows)} chosen rows is left to train on; drop fewer, or choose more",
            drop,
        )
    return found


def row_weights(given: Mapping[str, Array], total: int) -> NDArray[np.float64] | None:
    """A factor of the loss of each row of the dataset; None where all are 1. Raises InvalidRequest."""
    if "weights" not in given:
        return None
    values, rows = _placed(given, "weights", "weight_rows", total)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise _bad("'weights' must be finite, and 0 or more", None)
    weights = np.ones(total)
    weights[rows] = values
    return weights


def refuse_weightless(weights: NDArray[np.float64] | None, rows: NDArray[np.int64]) -> None:
    """Raises InvalidRequest where no chosen row counts."""
    if weights is not None and not weights[rows].any():
        raise _bad(
            f"each of the {len(rows)} chosen rows has weight 0; give one a weight above 0", None
        )


def row_labels(given: Mapping[str, Array], total: int) -> tuple[NDArray[np.int64], Array] | None:
    """Rows of the dataset, and their labels in place of those that it has. Raises InvalidRequest."""
    if "labels" not in given:
        return None
    values, rows = _placed(given, "labels", "label_rows", total)
    return rows, values


def _placed(
    given: Mapping[str, Array], name: str, at: str, total: int
) -> tuple[Array, NDArray[np.int64]]:
    values = given[name]
    rows = _numbers(given[at], total, at) if at in given else np.arange(total)
    unique, counts = np.unique(rows, return_counts=True)
    if len(unique) < len(rows):
        twice = int(unique[counts > 1][0])
        raise _bad(f"{at!r} has row {twice} {int(counts.max())} times; name it once", twice)
    if values.ndim == 0 or len(values) != len(rows):
        have = 1 if values.ndim == 0 else len(values)
        wanted = (
            f"each of the {len(rows)} rows of {at!r}" if at in given else f"each of {total} rows"
        )
        raise _bad(f"{name!r} has {have} entries; it needs one for {wanted}", None)
    return values, rows


def _numbers(values: Array, total: int, name: str) -> NDArray[np.int64]:
    outside = values[(values < -total) | (values >= total)]
    if outside.size:
        words = f"{name!r} has row {int(outside[0])}, and there are {total} rows, 0 to {total - 1}"
        raise InvalidRequest.field("/given", words, int(outside[0]))
    found: NDArray[np.int64] = np.where(values < 0, values.astype(np.int64) + total, values).astype(
        np.int64
    )
    return found


def _bad(words: str, value: object) -> InvalidRequest:
    error = InvalidRequest.field("/given", words, value)
    assert isinstance(error, InvalidRequest)
    return error
