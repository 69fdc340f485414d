"""Slices as Arrow streams: the numbers of the matrix, in batches as they are read."""

from __future__ import annotations

from typing import Any

import httpx2
import numpy as np
import pyarrow as pa

from tests.service.acting import Acting
from tests.service.test_results import MATRIX, result_of

ARROW = {"Accept": "application/vnd.apache.arrow.stream"}


def read(answer: httpx2.Response) -> tuple[pa.Table, int]:
    """The table, and how many batches it came in."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == ARROW["Accept"]
    with pa.ipc.open_stream(answer.content) as stream:
        batches = list(stream)
        return pa.Table.from_batches(batches, stream.schema), len(batches)


def numbers(table: pa.Table) -> np.ndarray[Any, Any]:
    return np.array(table["values"].to_pylist(), np.float32)


def test_a_slice_is_a_column_of_lists(acting: Acting) -> None:
    get = result_of(acting, matrix=MATRIX)
    table, _ = read(get("influences", ARROW, test="2:5,0", train="::10"))
    assert table.schema.field("values").type == pa.list_(pa.float32(), 5)
    assert np.array_equal(numbers(table), MATRIX[[2, 3, 4, 0], ::10])
    table, _ = read(get("mean", ARROW))
    assert np.allclose(numbers(table), MATRIX.mean(0), atol=1e-6)
    table, _ = read(get("influences", ARROW, test="5:5"))
    assert table.num_rows == 0


def test_what_is_large_comes_in_batches_and_nan_stays_nan(acting: Acting) -> None:
    matrix = np.random.default_rng(0).normal(size=(9, 500)).astype("f4")
    matrix[3, 4] = np.nan
    table, batches = read(result_of(acting, matrix=matrix)("influences", ARROW))
    assert batches > 1
    assert np.array_equal(numbers(table), matrix, equal_nan=True)


def test_of_several_kinds_the_one_that_is_possible_is_sent(acting: Acting) -> None:
    get = result_of(acting, matrix=MATRIX)
    both = {"Accept": f"application/json, {ARROW['Accept']};q=0.5"}
    assert np.array_equal(numbers(read(get("influences", both))[0]), MATRIX)
    assert get("influences", both, test="0:1").headers["content-type"] == "application/json"
