"""Derived datasets: views that give what their rows would as a dataset of their own, and are held as one."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch import nn

from service.local.background import Running
from tests.journeys.subjects import Subject
from upweight import AsyncClient, Client, errors
from upweight.schema import DatasetRecord

DROP = [0, 3, 4, 5, 49, 50, 77, 119]
RELABEL = {1: 2, 60: 0, 7: 1}
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def cleaned(iris: Subject) -> tuple[Array, Array]:
    """The rows of the view, as arrays."""
    y = iris.y_train.numpy().copy()
    for row, label in RELABEL.items():
        y[row] = label
    keep = np.setdiff1d(np.arange(len(y)), DROP)
    return iris.x_train.numpy()[keep], y[keep]


@pytest.fixture(scope="module")
def view(online: Client, iris: Subject) -> DatasetRecord:
    return online.datasets.derive("iris-clean", iris.train, drop=DROP, relabel=RELABEL)


def test_a_view_has_the_rows_and_labels_that_it_says(
    online: Client, view: DatasetRecord, cleaned: tuple[Array, Array]
) -> None:
    x, y = cleaned
    assert view.rows == len(y)
    assert view.derived_from is not None
    assert (view.derived_from.dropped, view.derived_from.relabelled) == (len(set(DROP)), 3)
    found = online.datasets.rows(view, ":")
    np.testing.assert_array_equal(found["x"], x)
    np.testing.assert_array_equal(found["y"], y)
    picked = online.datasets.rows(view, "5,2,60:63")
    np.testing.assert_array_equal(picked["y"], y[[5, 2, 60, 61, 62]])


def test_a_job_on_a_view_gives_the_bytes_of_its_rows_as_a_dataset_of_their_own(
    online: Client,
    iris: Subject,
    view: DatasetRecord,
    cleaned: tuple[Array, Array],
    fresh_name: str,
) -> None:
    own = online.datasets.register(fresh_name, x=cleaned[0], y=cleaned[1])
    results = [
        online.compute_influences(iris.name, train, iris.test, hessian_regularization=iris.damping)
        for train in (view, own)
    ]
    np.testing.assert_array_equal(results[0].numpy(), results[1].numpy())
    whole = online.compute_influences(
        iris.name, iris.train, iris.test, hessian_regularization=iris.damping
    )
    kept = np.setdiff1d(np.arange(whole.shape[1]), DROP)
    assert not np.allclose(whole.numpy()[:, kept], results[0].numpy())
    predicted = [result.rows(":", side="train", limit=500).items for result in results]
    assert predicted[0] == predicted[1]
    assert [item.target for item in predicted[0]] == cleaned[1].tolist()


def test_some_rows_of_a_view_are_counted_in_the_view(
    online: Client,
    iris: Subject,
    view: DatasetRecord,
    cleaned: tuple[Array, Array],
    fresh_name: str,
) -> None:
    own = online.datasets.register(fresh_name, x=cleaned[0], y=cleaned[1])
    some, same = (
        online.self_influences(
            iris.name,
            {"dataset": train.id, "rows": "2:40:3,1"},
            hessian_regularization=iris.damping,
        )
        for train in (view, own)
    )
    np.testing.assert_array_equal(some.numpy(), same.numpy())


def test_a_view_of_a_view_counts_its_rows_and_shares_the_same_shards(
    online: Client,
    iris: Subject,
    view: DatasetRecord,
    cleaned: tuple[Array, Array],
    fresh_name: str,
) -> None:
    again = online.datasets.derive(fresh_name, view, drop="0:10", relabel={12: 0, 50: 1})
    y = cleaned[1].copy()
    y[[12, 50]] = 0, 1
    np.testing.assert_array_equal(online.datasets.rows(again, ":")["y"], y[10:])
    np.testing.assert_array_equal(online.datasets.rows(again, ":")["x"], cleaned[0][10:])
    parent = online.datasets.get(iris.train)
    assert again.blobs == view.blobs == parent.blobs
    assert again.derived_from is not None
    assert again.derived_from.dataset == view.id


def test_what_is_changed_in_steps_has_the_digest_of_what_is_changed_at_once(
    online: Client, iris: Subject, view: DatasetRecord, fresh_name: str
) -> None:
    first = online.datasets.derive(fresh_name, iris.train, drop=DROP[:4])
    steps = online.datasets.derive(fresh_name, first, drop=np.array(DROP[4:]) - 4,
                                   relabel={0: 2, 56: 0, 3: 1})  # fmt: skip
    assert steps.version == 2
    assert steps.digest == view.digest
    assert steps.digest != online.datasets.get(iris.train).digest


def test_a_view_of_parquet_files_where_they_lie_reads_across_them(
    online: Client, iris: Subject, lake: Any, tmp_path: Any, fresh_name: str,
    cleaned: tuple[Array, Array],
) -> None:  # fmt: skip
    for part in range(3):
        rows = slice(part * 40, (part + 1) * 40)
        columns = {
            "x": pa.array(iris.x_train[rows].tolist(), pa.list_(pa.float64())),
            "y": pa.array(iris.y_train[rows].numpy()),
        }
        pq.write_table(pa.table(columns), tmp_path / "part.parquet", row_group_size=7)
        lake.put(f"{fresh_name}/{part}.parquet", (tmp_path / "part.parquet").read_bytes())
    uri = f"{lake.url}/{fresh_name}"
    there = online.datasets.register(fresh_name, uri=uri, format="parquet")
    view = online.datasets.derive(f"{fresh_name}-view", there, drop=DROP, relabel=RELABEL)
    result = online.self_influences(
        iris.name, view, hessian_regularization=iris.damping, precision="float64"
    )
    own = online.datasets.register(f"{fresh_name}-own", x=cleaned[0], y=cleaned[1])
    same = online.self_influences(
        iris.name, own, hessian_regularization=iris.damping, precision="float64"
    )
    np.testing.assert_array_equal(result.numpy(), same.numpy())
    lake.put(f"{fresh_name}/1.parquet", b"PAR1 something else")
    with pytest.raises(errors.Rejected, match="has changed since the dataset was registered"):
        online.self_influences(iris.name, view, hessian_regularization=iris.damping)


def test_what_a_view_is_derived_from_stays_until_the_view_has_gone(
    online: Client, iris: Subject, fresh_name: str
) -> None:
    parent = online.datasets.register(fresh_name, x=iris.x_train[:9], y=iris.y_train[:9])
    child = online.datasets.derive(f"{fresh_name}-child", parent, drop=[1])
    assert online.datasets.get(parent).used_by == [child.id]
    with pytest.raises(errors.InUse, match=child.id):
        online.datasets.delete(parent)
    online.datasets.delete(child)
    online.datasets.delete(parent)


def test_labels_out_of_range_can_be_put_right_by_a_view(
    online: Client, iris: Subject, fresh_name: str
) -> None:
    y = iris.y_train.numpy()[:50].copy()
    y[7] = 17
    wrong = online.datasets.register(fresh_name, x=iris.x_train[:50], y=y)
    options: Any = {"hessian_regularization": iris.damping}
    with pytest.raises(errors.InvalidRequest, match="the label 17"):
        online.self_influences(iris.name, wrong, **options)
    for mended in ({"drop": [7]}, {"relabel": {7: 0}}):
        view = online.datasets.derive(f"{fresh_name}-mended", wrong, **mended)
        assert online.self_influences(iris.name, view, **options).shape == (view.rows,)


REFUSED: list[tuple[Any, str, str]] = [
    ({}, "", "give 'drop', 'relabel', or both"),
    ({"drop": [120]}, "/drop/0", "it has rows 0 to 119"),
    ({"drop": "3,200"}, "/drop", "row 200 is not there: there are 120 rows, 0 to 119"),
    ({"drop": "3;4"}, "/drop", "write 'start:stop'"),
    ({"drop": [-1]}, "/drop/0", ""),
    ({"drop": [1.5]}, "/drop/0", ""),
    ({"drop": True}, "/drop", ""),
    ({"drop": ":"}, "/drop", "drops all 120 rows of '[^']+'; a dataset needs one at least"),
    ({"drop": list(range(120))}, "/drop", "drops all 120 rows"),
    ({"relabel": {"120": 1}}, "/relabel/120", "it has rows 0 to 119"),
    ({"relabel": {"-1": 1}}, "/relabel/-1", "it has rows 0 to 119"),
    ({"relabel": {"a/b": 1}}, "/relabel/a~1b", "no row's number"),
    ({"relabel": {"3": 3}}, "/relabel/3", "they go from 0 to 2; to have a class that no row has"),
    ({"relabel": {"3": -1}}, "/relabel/3", "they go from 0 to 2"),
    ({"relabel": {"3": 1.5}}, "/relabel/3", "whole numbers"),
    ({"relabel": {"3": "cat"}}, "/relabel/3", "its classes have no names; give a number"),
    ({"relabel": {"3": None}}, "/relabel/3", ""),
    ({"relabel": {"3": 1, "03": 2}}, "/relabel/03", "row 3 is named twice"),
    ({"drop": [3], "relabel": {"3": 1}}, "/relabel/3", "row 3 is dropped and relabelled"),
    ({"drop": "0:9", "relabel": {"8": 1}}, "/relabel/8", "row 8 is dropped and relabelled"),
    ({"drop": [1], "name": "no name"}, "/name", ""),
    ({"drop": [1], "rows": "0:3"}, "/rows", ""),
]


@pytest.mark.parametrize(
    ("body", "pointer", "words"), REFUSED, ids=[str(each[0])[:40] for each in REFUSED]
)
def test_what_no_view_can_be_is_refused_by_its_field(
    http: httpx2.Client, iris: Subject, body: Any, pointer: str, words: str
) -> None:
    answer = http.post(f"/v1/datasets/{iris.train}/derive", json={"name": "refused", **body})
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert [each["pointer"] for each in problem["errors"]] == [pointer]
    assert re.search(words, problem["errors"][0]["detail"]), problem


def test_names_of_classes_are_labels_too(online: Client, iris: Subject, fresh_name: str) -> None:
    names = ("setosa", "versicolor", "virginica", "another")
    named = online.datasets.register(
        fresh_name, x=iris.x_train[:20], y=iris.y_train[:20], class_names=names
    )
    view = online.datasets.derive(fresh_name, named, relabel={3: "another", 4: np.int64(1)})
    assert online.datasets.rows(view, "3:5")["y"].tolist() == [3, 1]
    assert view.class_names == list(names)
    with pytest.raises(errors.InvalidRequest, match=r"'rose' is no class .* classes are setosa"):
        online.datasets.derive(fresh_name, named, relabel={3: "rose"})
    with pytest.raises(errors.InvalidRequest, match="0 to 3, as 'class_names' has it"):
        online.datasets.derive(fresh_name, named, relabel={3: 4})


def test_numbers_to_predict_are_replaced_and_arrays_are_not(
    online: Client, regression: Subject, fresh_name: str
) -> None:
    y = np.linspace(0, 1, 6, dtype="f4")
    data = online.datasets.register(fresh_name, x=np.ones((6, 2), "f4"), y=y)
    view = online.datasets.derive(fresh_name, data, relabel={2: 7.25, 3: -1})
    assert online.datasets.rows(view, ":")["y"][[2, 3]].tolist() == [7.25, -1.0]
    assert next(each.maximum for each in view.columns if each.name == "y") == 7.25
    with pytest.raises(errors.InvalidRequest, match="no finite number of float32"):
        online.datasets.derive(fresh_name, data, relabel={2: 1e39})
    column = online.datasets.register(fresh_name, x=np.ones((6, 2), "f4"), y=y[:, None])
    view = online.datasets.derive(fresh_name, column, drop=[0], relabel={2: 7.25, 3: -1})
    found = online.datasets.rows(view, ":")["y"]
    assert found.shape == (5, 1)
    np.testing.assert_allclose(found[:, 0], [y[1], 7.25, -1.0, y[4], y[5]])
    pairs = online.datasets.register(fresh_name, x=np.ones((6, 2), "f4"), y=np.ones((6, 2), "f4"))
    with pytest.raises(errors.InvalidRequest, match=r"an array of shape \[2\]"):
        online.datasets.derive(fresh_name, pairs, relabel={2: 1.0})
    assert online.datasets.derive(fresh_name, pairs, drop=[0]).rows == 5


def test_a_label_of_two_classes_that_is_neither_is_refused_after_deriving(
    online: Client, fresh_name: str
) -> None:
    x, y = np.ones((6, 2), "f4"), np.array([[0], [1], [1], [0], [1], [0]], "f4")
    recipe = {"optimizer": "sgd", "lr": 0.1, "epochs": 1, "start": "warm"}
    online.models.register(
        fresh_name, nn.Linear(2, 1), example=x[:2], loss="bce_with_logits", recipe=recipe
    )
    data = online.datasets.register(fresh_name, x=x, y=y)
    view = online.datasets.derive(fresh_name, data, relabel={2: 2})
    with pytest.raises(errors.InvalidRequest, match=r"has the label 2; .* labels from 0 to 1"):
        online.retrain(fresh_name, view)
    right = online.datasets.derive(fresh_name, view, relabel={2: 0})
    assert online.retrain(fresh_name, right).training is not None


def test_the_awaited_client_derives_alike(
    stack: Running, iris: Subject, view: DatasetRecord, fresh_name: str
) -> None:
    async def work() -> DatasetRecord:
        async with AsyncClient(stack.url) as client:
            mask = np.isin(np.arange(120), DROP)
            return await client.datasets.derive(fresh_name, iris.train, drop=mask, relabel=RELABEL)

    assert asyncio.run(work()).digest == view.digest


def test_no_dataset_that_is_still_checked_or_missing_is_derived_from(http: httpx2.Client) -> None:
    answer = http.post("/v1/datasets/nowhere/derive", json={"name": "a", "drop": [1]})
    assert answer.status_code == 404
