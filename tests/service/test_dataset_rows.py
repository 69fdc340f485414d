"""Rows of a dataset: the numbers that were uploaded, from whichever shard and format, and never more than is shown."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from service.storage.objects import Objects
from tests.service.acting import Acting, field, problem

NPY = {"Accept": "application/x-npy"}
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(30, 2, 3)).astype("f4")
Y = np.arange(30) % 7
SHARDS = (slice(0, 13), slice(13, 14), slice(14, 30))
CHECKED = {
    "rows": 30,
    "shard_rows": [13, 1, 16],
    "columns": [
        {"name": "x", "dtype": "float32", "shape": [2, 3]},
        {"name": "y", "dtype": "int64", "shape": []},
    ],
}


def npz(x: Any, y: Any, write: Any = np.savez) -> bytes:
    buffer = io.BytesIO()
    write(buffer, x=x, y=y)
    return buffer.getvalue()


def parquet(x: Any, y: Any) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"x": pa.array(x.tolist(), pa.list_(pa.list_(pa.float32()))), "y": y})
    pq.write_table(table, buffer, row_group_size=5)
    return buffer.getvalue()


WRITERS: dict[str, Callable[[Any, Any], bytes]] = {
    "safetensors": lambda x, y: save({"x": x.copy(), "y": y.copy()}),
    "npz": npz,
    "npz, compressed": lambda x, y: npz(x, y, np.savez_compressed),
    "npz, Fortran order": lambda x, y: npz(np.asfortranarray(x), y),
    "parquet": parquet,
}


def stored(acting: Acting, writer: str, name: str = "data", **found: Any) -> None:
    """A dataset of three shards that a worker has found to be well."""
    blobs = [acting.upload(WRITERS[writer](X[part], Y[part])) for part in SHARDS]
    request = {"format": writer.partition(",")[0], "blobs": blobs}
    acting.dataset(name, request=request, **(CHECKED | found))


def rows(acting: Acting, rows: str, headers: Any = None, **query: Any) -> httpx2.Response:
    query = {"rows": rows, **query}
    return acting.client.get("/v1/datasets/data/rows", params=query, headers=headers)


@pytest.mark.parametrize("writer", WRITERS)
def test_rows_are_what_was_uploaded_whatever_the_format(acting: Acting, writer: str) -> None:
    stored(acting, writer)
    for text, chosen in (
        ("0:5", range(5)),
        ("12:15", [12, 13, 14]),
        ("29,0,29,13", [29, 0, 29, 13]),
    ):
        answer = rows(acting, text).json()
        assert answer["rows"] == list(chosen)
        assert np.array_equal(np.asarray(answer["columns"]["x"], "f4"), X[list(chosen)])
        assert answer["columns"]["y"] == Y[list(chosen)].tolist()
    whole = rows(acting, ":", NPY, column="x")
    assert np.array_equal(np.load(io.BytesIO(whole.content), allow_pickle=False), X)


def test_many_numbers_leave_as_npy_of_one_column(acting: Acting) -> None:
    stored(acting, "safetensors")
    problem(rows(acting, ":"), 406, "not-acceptable")
    assert rows(acting, ":", column="y").json()["columns"] == {"y": Y.tolist()}
    assert "choose one column of x, y" in field(rows(acting, ":", NPY), "query:column")
    assert "there are x, y" in field(rows(acting, ":", column="z"), "query:column")
    assert "is not there" in field(rows(acting, "30"), "query:rows")
    every = acting.client.get("/v1/datasets/data/rows")  # without a choice, all rows
    problem(every, 406, "not-acceptable")


def test_only_the_rows_asked_for_are_fetched(
    acting: Acting, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[int] = []

    def watched(name: str, size: Callable[[Any], int]) -> None:
        real = getattr(Objects, name)

        def counted(self: Objects, *arguments: Any) -> Any:
            answer = real(self, *arguments)
            fetched.append(size(answer))
            return answer

        monkeypatch.setattr(Objects, name, counted)

    watched("get_range", len)
    watched("get_ranges", lambda parts: sum(map(len, parts)))
    x = np.zeros((400_000, 4), "f4")
    for writer in ("safetensors", "npz"):
        blob = acting.upload(WRITERS[writer](x, np.zeros(len(x), "i8")))
        columns = [{"name": "x", "dtype": "float32", "shape": [4]}]
        acting.dataset(
            writer,
            request={"format": writer, "blobs": [blob], "targets": []},
            rows=len(x),
            shard_rows=[len(x)],
            columns=columns,
        )
        fetched.clear()
        answer = acting.client.get(f"/v1/datasets/{writer}/rows", params={"rows": "399998:"})
        assert answer.json()["columns"]["x"] == [[0.0] * 4] * 2
        assert sum(fetched) < 400_000  # of 9.6 million bytes


def test_a_compressed_shard_larger_than_the_budget_is_refused_with_the_way_out(
    acting: Acting, front: Any
) -> None:
    x = np.zeros((front.settings.preview_bytes // 8 + 1,))
    blob = acting.upload(npz(x, Y, np.savez_compressed))
    acting.dataset(
        request={"format": "npz", "blobs": [blob], "targets": []},
        rows=len(x),
        shard_rows=[len(x)],
        columns=[{"name": "x", "dtype": "float64", "shape": []}],
    )
    assert "without compression" in field(rows(acting, "0"), "query:rows")


def test_what_cannot_be_shown_says_why(acting: Acting) -> None:
    stored(acting, "safetensors", state="checking")
    assert "checking" in problem(rows(acting, "0"), 409, "not-ready")["detail"]
    problem(acting.client.get("/v1/datasets/none/rows?rows=0"), 404, "not-found")
    stored(acting, "safetensors", blobs=["sha256:" + "0" * 64] * 3)
    assert "upload it again" in problem(rows(acting, "0"), 404, "not-found")["detail"]
