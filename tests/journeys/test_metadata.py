"""Metadata columns: no model sees them; rows are chosen by them, by labels and by ids."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.journeys.subjects import Subject
from upweight import Client, errors
from upweight.schema import DatasetRecord

ROWS = 120
IDS = [f"flower-{(7 * row) % ROWS}" for row in range(ROWS)]
SOURCES = [("web", "book", "straße")[row % 3] for row in range(ROWS)]
YEARS = [2000 + row % 5 for row in range(ROWS)]
GOOD = [row % 2 == 0 for row in range(ROWS)]
WEIGHTS = [row / 8 for row in range(ROWS)]
METADATA = {"source": SOURCES, "year": YEARS, "good": GOOD, "weight": WEIGHTS}


@pytest.fixture(scope="module")
def named(online: Client, iris: Subject) -> DatasetRecord:
    return online.datasets.register(
        "iris-with-metadata",
        x=iris.x_train,
        y=iris.y_train,
        ids=IDS,
        class_names=["setosa", "versicolor", "virginica"],
        metadata=METADATA,
    )


def chosen(online: Client, iris: Subject, train: Any, **options: Any) -> Any:
    return online.self_influences(
        iris.name, train, hessian_regularization=iris.damping, hessian_on=iris.train, **options
    )


def test_no_model_sees_metadata(online: Client, iris: Subject, named: DatasetRecord) -> None:
    assert [each.name for each in named.columns] == ["x", "y"]
    kinds = {each.name: (each.kind, each.values) for each in named.metadata_columns}
    assert kinds == {
        "source": ("text", ["book", "straße", "web"]),
        "year": ("integer", [2000, 2001, 2002, 2003, 2004]),
        "good": ("boolean", [False, True]),
        "weight": ("float", None),
    }
    assert set(online.datasets.rows(named, "0:2")) == {"x", "y"}
    plain = online.self_influences(iris.name, iris.train, hessian_regularization=iris.damping)
    np.testing.assert_array_equal(chosen(online, iris, named).numpy(), plain.numpy())


def test_rows_are_shown_with_their_metadata(
    online: Client, http: httpx2.Client, named: DatasetRecord
) -> None:
    for name, values in METADATA.items():
        assert online.datasets.rows(named, "3,1", name)[name].tolist() == [values[3], values[1]]
    shown = http.get(f"/v1/datasets/{named.id}/rows", params={"id": [IDS[4], IDS[2]]}).json()
    assert shown["rows"] == [4, 2]
    assert shown["metadata"] == {name: [each[4], each[2]] for name, each in METADATA.items()}
    some = online.datasets.rows(named, where={"source": "web", "y": "setosa"}, columns=["x", "y"])
    wanted = [row for row in range(ROWS) if SOURCES[row] == "web"]
    y = online.datasets.rows(named, ":")["y"]
    assert len(some["y"]) == sum(y[row] == 0 for row in wanted) > 0
    by_id = online.datasets.rows(named, [IDS[5], IDS[0]])
    np.testing.assert_array_equal(by_id["x"], online.datasets.rows(named, "5,0")["x"])


def test_a_job_takes_rows_by_id_and_by_metadata(
    online: Client, http: httpx2.Client, iris: Subject, named: DatasetRecord
) -> None:
    web = [row for row in range(ROWS) if SOURCES[row] in ("web", "straße") and GOOD[row]]
    for rows, choice in (
        ([7, 3, 50], {"train_rows": [IDS[7], IDS[3], IDS[50]]}),
        ([7, 3, 50], {"train_rows": {"ids": [IDS[7], IDS[3], IDS[50]]}}),
        (web, {"train_rows": {"where": {"source": ["web", "straße"], "good": True}}}),
    ):
        result = chosen(online, iris, named, **choice)
        assert result.to_pandas().index.tolist() == [IDS[row] for row in rows]
        same = chosen(online, iris, named, train_rows=rows)
        np.testing.assert_array_equal(result.numpy(), same.numpy())
    found = online.compute_influences(
        iris.name,
        named,
        named,
        hessian_regularization=iris.damping,
        train_where={"weight": [WEIGHTS[3], WEIGHTS[9]]},
        test_rows="10:20",
        test_where={"year": 2001, "y": [0, 1]},
    )
    test = [row for row in range(10, 20) if YEARS[row] == 2001 and iris.y_train[row] < 2]
    frame = found.to_pandas()
    assert frame.columns.tolist() == [IDS[3], IDS[9]]
    assert frame.index.tolist() == [IDS[row] for row in test]
    # The record has what was asked for, and the numbers; sent again it means the same.
    request = found.job.request
    assert request.train.where == {"weight": (WEIGHTS[3], WEIGHTS[9])}
    assert (request.train.rows, request.train.ids) == ("3,9", None)
    body = request.model_dump(mode="json")
    again = http.post("/v1/jobs", json=body).raise_for_status().json()
    assert again["request"]["test"] == body["test"]
    slice = http.get(f"/v1/jobs/{found.id}/influences").json()
    assert (slice["test_ids"], slice["train_ids"]) == (frame.index.tolist(), [IDS[3], IDS[9]])


WRONG: list[tuple[dict[str, Any], str, str]] = [
    (
        {"ids": ["flower-7", "flower-1x"]},
        "/train/ids/1",
        "has the id 'flower-1x'; did you mean 'fl",
    ),
    ({"ids": ["flower-7", "flower-7"]}, "/train/ids/1", "named twice"),
    ({"ids": [7]}, "/train/ids/0", "has the id 7; its ids are texts"),
    ({"where": {"sauce": ["web"]}}, "/train/where/sauce", "'sauce'; did you mean 'source'"),
    ({"where": {"x": [1.0]}}, "/train/where/x", "and 'x' is an input"),
    ({"where": {"source": ["web", "wep"]}}, "/train/where/source/1", "'wep'.*did you mean 'web'"),
    (
        {"where": {"year": ["2001"]}},
        "/train/where/year/0",
        "has '2001' in column 'year'; did you mean 2001",
    ),
    ({"where": {"good": [1]}}, "/train/where/good/0", "has 1 in column 'good'"),
    ({"where": {"y": ["setoza"]}}, "/train/where/y/0", "did you mean 'setosa'"),
    ({"where": {"source": []}}, "/train/where/source", "at least 1"),
    ({"rows": "0:5", "ids": ["flower-7"]}, "/train", "choose the same; give one"),
    (
        {"rows": "1:3", "where": {"source": ["book"], "good": [True]}},
        "/train/where",
        "all of these together",
    ),
]


@pytest.mark.parametrize(
    ("choice", "pointer", "words"), WRONG, ids=[str(each[0]) for each in WRONG]
)
def test_a_choice_of_rows_that_are_not_there_is_refused_by_name(
    http: httpx2.Client,
    iris: Subject,
    named: DatasetRecord,
    choice: dict[str, Any],
    pointer: str,
    words: str,
) -> None:
    body = {
        "kind": "self_influences",
        "model": iris.name,
        "train": {"dataset": named.id, **choice},
        "inversion": {"method": "direct"},
        "hessian_regularization": iris.damping,
    }
    reply = http.post("/v1/jobs", json=body)
    assert reply.status_code == 422, reply.text
    error = reply.json()["errors"][0]
    assert error["pointer"] == pointer
    assert re.search(words, error["detail"]), error


def test_a_view_keeps_the_metadata_of_its_rows(
    online: Client, iris: Subject, named: DatasetRecord, fresh_name: str
) -> None:
    other = next(row for row in range(20, ROWS) if iris.y_train[row] == 0)
    view = online.datasets.derive(fresh_name, named, drop="1:10:3", relabel={IDS[other]: 2})
    left = [row for row in range(ROWS) if row not in range(1, 10, 3)]
    assert view.metadata == list(METADATA)
    found = chosen(online, iris, view, train_rows={"where": {"source": "web", "y": ["virginica"]}})
    y = iris.y_train.numpy().copy()
    y[other] = 2
    wanted = [IDS[row] for row in left if SOURCES[row] == "web" and y[row] == 2]
    assert found.to_pandas().index.tolist() == wanted


def test_a_frames_columns_are_metadata_where_they_are_named(
    online: Client, fresh_name: str
) -> None:
    frame = pd.DataFrame(
        {"a": np.arange(4.0), "b": 1.0, "y": [0, 1, 0, 1], "source": ["p", "q", "p", "q"]}
    )
    frame["kind"] = frame["source"].astype("category")
    for data in (frame, frame.to_dict("list"), frame.to_dict("records")):
        record = online.datasets.register(fresh_name, data, metadata=["source", "kind"])
        assert record.metadata == ["source", "kind"]
        assert online.datasets.rows(record, ":", "kind")["kind"].tolist() == list("pqpq")
        assert "source" not in record.inputs


X, Y = np.ones((4, 2), "f4"), np.array([0, 1, 0, 1])


def as_npz(path: Path, rows: slice, words: list[str]) -> Path:
    np.savez(path, x=X[rows], y=Y[rows], key=np.array(words), n=np.arange(len(words)))
    return path


def as_parquet(path: Path, rows: slice, words: list[str]) -> Path:
    table = {"x": pa.array(list(X[rows])), "y": Y[rows], "key": words, "n": np.arange(len(words))}
    pq.write_table(pa.table(table), path)
    return path


@pytest.mark.parametrize(("ending", "write"), [("npz", as_npz), ("parquet", as_parquet)])
def test_files_hold_words_of_any_length_as_ids_and_metadata(
    online: Client, fresh_name: str, tmp_path: Path, ending: str, write: Any
) -> None:
    words = ["a", "bb", "straße", ""]
    first = write(tmp_path / f"1.{ending}", slice(0, 2), words[:2])
    second = write(tmp_path / f"2.{ending}", slice(2, 4), words[2:])
    record = online.datasets.register(
        fresh_name, [first, second], inputs="x", targets="y", metadata=["key", "n"]
    )
    assert [(each.kind) for each in record.metadata_columns] == ["text", "integer"]
    assert online.datasets.rows(record, "3,2,0", "key")["key"].tolist() == ["", "straße", "a"]
    named = online.datasets.register(fresh_name, first, inputs="x", targets="y", ids="key")
    assert named.id_kind == "text"
    np.testing.assert_array_equal(online.datasets.rows(named, ["bb"])["y"], [1])
    with pytest.raises(errors.Rejected, match="has an id that is empty"):
        online.datasets.register(fresh_name, second, inputs="x", targets="y", ids="key")


REFUSED: list[tuple[Any, str]] = [
    ({"m": ["a", None, "b", "c"]}, "column 'm': row 1 has no value"),
    ({"m": [1.0, float("nan"), 2.0, 3.0]}, "row 1 has no value"),
    ({"m": [1, "a", 2, 3]}, "has int and str mixed"),
    ({"m": [1, 2, 3]}, "there are 3 values of 'm' and more rows"),
    ({"m": pd.to_datetime(["2020-01-01"] * 4).to_series()}, "row 0 has a|no value|mixed"),
    ({"m": ["a" * 2000] * 4}, "row 0 has 2000 bytes"),
    ({"x": [1, 2, 3, 4]}, "'metadata' names 'x', which is an input"),
    (["nowhere"], "there is no column 'nowhere'; give it as metadata="),
    ({"m": 5}, "give a value for each row, not 5"),
]


@pytest.mark.parametrize(("metadata", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_metadata_that_can_be_nothing_are_refused_with_the_first_row(
    online: Client, fresh_name: str, metadata: Any, words: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=words):
        online.datasets.register(fresh_name, x=X, y=Y, metadata=metadata)


def test_stored_metadata_are_checked_by_the_worker(online: Client, fresh_name: str) -> None:
    for column, words in (
        (np.array([1.0, np.nan, 0, 0]), "NaN or infinity in row 1"),
        (np.ones((4, 2)), "a boolean a row, or UTF-8 text"),
        (np.array([1, 2, 3, 2**60]), "whole numbers go up to"),
        (np.array([[97], [255], [97], [97]], np.uint8), "no UTF-8"),
        (np.arange(3), "does not have the 4 rows"),
    ):
        buffer = io.BytesIO()
        np.savez(buffer, x=X, y=Y, m=column)
        with pytest.raises(errors.Rejected, match=words) as caught:
            online.datasets.register(fresh_name, buffer.getvalue(), format="npz", metadata=["m"])
        assert caught.value.errors[0].pointer == "/metadata/0"
