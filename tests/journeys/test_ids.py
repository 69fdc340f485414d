"""Ids of rows: no model sees them, every answer carries them, and rows are dropped and relabelled by them."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from tests.journeys.subjects import Subject
from upweight import Client, InfluenceResult, errors
from upweight.schema import DatasetRecord

ROWS = 120
TEXTS = [f"flower-{(7 * row) % ROWS}{'ß' if row % 2 else ''}" for row in range(ROWS)]
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def named(online: Client, iris: Subject) -> DatasetRecord:
    return online.datasets.register("iris-named", x=iris.x_train, y=iris.y_train, ids=TEXTS)


@pytest.fixture(scope="module")
def result(online: Client, iris: Subject, named: DatasetRecord) -> InfluenceResult:
    return online.compute_influences(
        iris.name, named, iris.test, hessian_regularization=iris.damping, train_rows="::2"
    )


def test_no_model_sees_the_ids(
    online: Client, iris: Subject, named: DatasetRecord, result: InfluenceResult
) -> None:
    assert (named.ids, named.id_kind) == ("ids", "text")
    assert [each.name for each in named.columns] == ["x", "y"]
    assert set(online.datasets.rows(named, "0:2")) == {"x", "y"}
    plain = online.compute_influences(
        *iris.names, hessian_regularization=iris.damping, train_rows="::2"
    )
    np.testing.assert_array_equal(result.numpy(), plain.numpy())


def test_every_answer_carries_the_ids(
    http: httpx2.Client, named: DatasetRecord, result: InfluenceResult, tmp_path: Path
) -> None:
    for ranking in (
        result.top(k=5),
        result.top(test=3, k=5),
        result.rows(sort="-loss", side="train"),
    ):
        assert [item.id for item in ranking.items] == [TEXTS[item.row] for item in ranking.items]
    suspects = result.suspects()
    assert suspects.ids == [TEXTS[row] for row in suspects.rows]
    assert suspects.to_pandas()["id"].tolist() == suspects.ids
    assert result.to_pandas().columns.tolist() == TEXTS[::2]
    table = result.save(tmp_path / "part.parquet")
    assert pq.read_table(table)["train"].to_pylist()[:60] == TEXTS[::2]
    assert result.to_arrow()["train"].to_pylist()[:60] == TEXTS[::2]
    shown = http.get(f"/v1/datasets/{named.id}/rows", params={"rows": "5,3"}).json()
    assert shown["ids"] == [TEXTS[5], TEXTS[3]]


def test_pictures_and_notebooks_say_ids_beside_the_rows(
    result: InfluenceResult, named: DatasetRecord, tmp_path: Path
) -> None:
    first = result.panels([0], 2)[0]
    for example in (*first.helpful, *first.harmful):
        assert example.id == TEXTS[example.row]
        assert example.name == f"row {example.row} · {TEXTS[example.row]}"
    assert first.test is not None
    assert first.test.name == f"row {first.test.row}"  # the test set has no ids
    best = result.top(None, 1).items[0].row
    assert escape(f"row {best} · {TEXTS[best]}") in result._repr_html_()
    figure = result.plot("top", tmp_path / "top.png", test=0, k=2)
    said = {axes.get_xlabel().partition("\n")[0] for axes in figure.axes}
    assert {example.name for example in (*first.helpful, *first.harmful)} <= said


def test_ids_and_class_names_are_no_formulas_and_no_markup(
    online: Client, iris: Subject, fresh_name: str, tmp_path: Path
) -> None:
    ids = [f"${row}^{{$ <i>'" for row in range(len(iris.x_train))]
    data = online.datasets.register(
        fresh_name, x=iris.x_train, y=iris.y_train, ids=ids, class_names=["$^{$ a", "b", "c"]
    )
    result = online.compute_influences(
        iris.name, data, data, hessian_regularization=iris.damping, test_rows="0:9"
    )
    for kind in ("top", "heatmap"):
        result.plot(kind, tmp_path / f"{kind}.png")
        assert (tmp_path / f"{kind}.png").stat().st_size > 0
    shown = result._repr_html_()
    assert "<i>" not in shown
    assert "^{$ &lt;i&gt;&#x27;" in shown


def test_datasets_without_ids_have_the_rows_numbers(online: Client, iris: Subject) -> None:
    result = online.self_influences(
        iris.name, iris.train, hessian_regularization=iris.damping, train_rows="10:20"
    )
    assert [item.id for item in result.top(k=3).items] == [
        item.row for item in result.top(k=3).items
    ]
    assert result.suspects().ids == result.suspects().rows.tolist()


def test_rows_are_dropped_and_relabelled_by_id(
    online: Client, iris: Subject, named: DatasetRecord, result: InfluenceResult, fresh_name: str
) -> None:
    worst = result.suspects(3)
    other = next(id for id in TEXTS if id not in worst.ids)
    label = (int(iris.y_train[TEXTS.index(other)]) + 1) % 3
    view = online.datasets.derive(fresh_name, named, drop=worst, relabel={other: label})
    same = online.datasets.derive(fresh_name, named, drop=worst.ids, relabel={other: label})
    assert view.digest == same.digest
    left = [row for row in range(ROWS) if row not in worst.rows]
    y = iris.y_train.numpy().copy()
    y[TEXTS.index(other)] = label
    np.testing.assert_array_equal(online.datasets.rows(view, ":")["y"], y[left])
    # A view's rows keep their ids, whatever their numbers are now.
    again = online.datasets.derive(fresh_name, view, drop=[TEXTS[left[17]]])
    found = online.self_influences(iris.name, again, hessian_regularization=iris.damping)
    assert found.to_pandas().index.tolist() == [TEXTS[row] for row in left if row != left[17]]
    by_number = online.datasets.derive(fresh_name, named, drop="0:5")
    by_mask = online.datasets.derive(fresh_name, named, drop=np.arange(ROWS) < 5)
    assert by_number.rows == ROWS - 5
    assert by_mask.digest == by_number.digest
    # Where ids are texts, whole numbers are rows.
    assert online.datasets.derive(fresh_name, named, drop=list(range(5))).digest == by_mask.digest
    for drop, words in (
        (["nobody"], "has the id 'nobody'; its ids are texts"),
        ([ROWS], f"row {ROWS} of 'iris-named' is not there"),
        (np.arange(ROWS - 1) < 5, f"a mask has an entry for each row: it has {ROWS - 1}"),
        (worst.to_pandas(), r"take its column of ids: table\['id'\]"),
    ):
        with pytest.raises(errors.InvalidRequest, match=words):
            online.datasets.derive(fresh_name, named, drop=drop)
    with pytest.raises(errors.InvalidRequest, match="is dropped and relabelled"):
        online.datasets.derive(fresh_name, named, drop=worst, relabel={worst.ids[1]: 0})


def test_a_retraining_leaves_out_and_takes_rows_by_id(
    online: Client, iris: Subject, named: DatasetRecord, result: InfluenceResult, fresh_name: str
) -> None:
    recipe = {"optimizer": "sgd", "lr": 0.1, "epochs": 2, "start": "warm"}

    def trained(**choice: Any) -> str | None:
        return online.retrain(iris.name, named, recipe=recipe, name=fresh_name, **choice).weights

    worst = result.suspects(3)
    numbers = sorted(worst.rows.tolist())
    by_number = trained(drop=",".join(map(str, numbers)))
    assert trained(drop=worst) == trained(drop=list(worst.ids)) == by_number
    mask = np.isin(np.arange(ROWS), numbers)
    assert trained(drop=mask) == by_number
    assert trained(drop=numbers) == by_number
    assert trained(rows=[TEXTS[4], TEXTS[9]]) == trained(rows=[4, 9])
    by_id = {"weights": {TEXTS[9]: 3.0, TEXTS[2]: 0.5}, "labels": {TEXTS[4]: 2}}
    assert trained(**by_id) == trained(weights={9: 3.0, 2: 0.5}, labels={4: 2}) != trained()

    for choice, words in (
        ({"drop": ["flower-1x"]}, r"no row .* has the id 'flower-1x'; did you mean 'flower-1"),
        ({"rows": ["flower-1x"]}, r"no row .* has the id 'flower-1x'; did you mean 'flower-1"),
        ({"drop": [ROWS]}, f"row {ROWS} of .* is not there"),
        ({"drop": mask[:-1]}, "a mask has an entry for each row"),
        ({"weights": {"flower-1x": 2.0}}, r"no row .* has the id 'flower-1x'"),
    ):
        with pytest.raises(errors.InvalidRequest, match=words):
            trained(**choice)


def test_numbers_that_may_be_ids_written_as_texts_are_refused(
    online: Client, iris: Subject, fresh_name: str
) -> None:
    record = online.datasets.register(
        fresh_name, x=np.ones((4, 2), "f4"), y=np.arange(4), ids=["3", "2", "1", "0"]
    )
    with pytest.raises(errors.InvalidRequest, match="has the id 3; did you mean '3'"):
        online.datasets.derive(fresh_name, record, drop=[3])
    with pytest.raises(errors.InvalidRequest, match="has the id 3; did you mean '3'"):
        online.compute_influences(iris.name, record, record, groups=[{"ids": [3]}], dry_run=True)


def test_wrong_labels_are_named_by_id(
    online: Client, iris: Subject, named: DatasetRecord, result: InfluenceResult
) -> None:
    by_id, by_number = (
        online.evaluate(result, "mislabel", wrong=wrong, baselines=False)
        for wrong in ([TEXTS[4], TEXTS[10]], [4, 10])
    )
    assert by_id.rows == by_number.rows
    with pytest.raises(errors.InvalidRequest, match="did you mean 'flower-1"):
        online.evaluate(result, "mislabel", wrong=["flower-1x"])


def test_a_frames_index_is_its_ids_where_it_says_more_than_the_rows_number(
    online: Client, fresh_name: str
) -> None:
    frame = pd.DataFrame({"a": np.arange(6.0), "b": 1.0, "y": [0, 1, 0, 1, 0, 1]})
    split = frame.sample(frac=1, random_state=0)
    record = online.datasets.register(fresh_name, split)
    assert record.id_kind == "number"
    kept = online.datasets.derive(
        fresh_name, record, drop=[int(split.index[0])], relabel={int(split.index[1]): 1}
    )
    assert online.datasets.rows(kept, "0:1")["y"].tolist() == [1]
    for plain in (frame, frame.set_axis([0, 0, 1, 1, 2, 2]), frame.set_axis(np.linspace(0, 1, 6))):
        assert online.datasets.register(fresh_name, plain).ids is None
    named = online.datasets.register(fresh_name, frame.assign(key=list("uvwxyz")), ids="key")
    assert named.id_kind == "text"
    assert named.features["x"] == ["a", "b"]


def test_token_ids_are_a_column_like_others(online: Client, fresh_name: str) -> None:
    tokens = np.arange(12).reshape(4, 3)
    for ids in (tokens, tokens.tolist()):
        record = online.datasets.register(fresh_name, ids=ids, y=Y)
        assert (record.ids, record.inputs) == (None, ["ids"])
    flat = online.datasets.register(fresh_name, x=X, ids=[1, 2, 1, 2], y=Y, inputs=["x", "ids"])
    assert flat.ids is None


X, Y = np.ones((4, 2), "f4"), np.array([0, 1, 0, 1])
WRONG: list[tuple[Any, str]] = [
    (["a", "b", "a", "b"], r"row 2 \('a'\): row 0 has it too"),
    ([1, 2, 3, 2], r"row 3 \(2\): row 1 has it too"),
    (["a", None, "b", "c"], "row 1: there is no id"),
    ([1.0, np.nan, 2.0, 3.0], r"row 0 \(1.0\): ids are strings or whole numbers"),
    (["a", "b", 3, "c"], r"row 2 \(3\): row 0 has another type"),
    ([1, 2, "3", 4], r"row 2 \('3'\): row 0 has another type"),
    (["a", "", "b", "c"], r"row 1 \(''\): ids have 1 to 256 bytes"),
    ([1, 2, 3, 2**60], "give larger ones as strings"),
    ([1, 2, 3], "there are 3 ids and more rows"),
    ([1, 2, 3, 4, 5], "there are 5 ids and fewer rows"),
    ("nowhere", "there is no column 'nowhere'"),
    (5, "give one id for each row, not 5"),
]


@pytest.mark.parametrize(("ids", "words"), WRONG, ids=[words[:30] for _, words in WRONG])
def test_ids_that_name_no_rows_are_refused_with_the_first_row(
    online: Client, fresh_name: str, ids: Any, words: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=words) as caught:
        online.datasets.register(fresh_name, x=X, y=Y, ids=ids)
    assert caught.value.errors[0].pointer == "/ids"


STORED: list[tuple[Array, str]] = [
    (np.array([1, 2, 1, 4]), "rows 0 and 2 have the same id 1"),
    (np.array([1.0, 2, 3, 4]), "ids are whole numbers, or UTF-8"),
    (np.array([[97], [98], [97], [99]], np.uint8), "rows 0 and 2 have the same id 'a'"),
    (np.array([[97], [0], [98], [99]], np.uint8), "row 1 has an id that is empty"),
    (
        np.array([[97, 0, 97]] * 4, np.uint8),
        "row 0 has an id that is empty, or has a byte 0 inside",
    ),
    (np.array([[97], [98], [255], [99]], np.uint8), "row 2 has an id that is no UTF-8"),
    (np.array([1, 2, 3, 2**60]), "row 3 has the id"),
]


@pytest.mark.parametrize(("ids", "words"), STORED, ids=[words[:30] for _, words in STORED])
def test_stored_ids_are_checked_by_the_worker(
    online: Client, http: httpx2.Client, fresh_name: str, ids: Array, words: str
) -> None:
    digest = online.blobs.put(save({"x": X, "y": Y, "key": ids})).digest
    body = {"name": fresh_name, "format": "safetensors", "blobs": [digest], "ids": "key"}
    record = http.post("/v1/datasets", json=body).raise_for_status().json()
    with pytest.raises(errors.Rejected, match=words):
        online.datasets.wait(record["id"])
