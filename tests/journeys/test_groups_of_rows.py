"""Influences added up over groups of rows, against the formula's matrix in float64, summed by NumPy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pandas as pd
import pytest

from tests.journeys.subjects import Subject
from upweight import AsyncClient, Client, errors
from upweight.schema import DatasetRecord

SOURCES = [("web", "book", "straße")[row % 3] for row in range(120)]
TASKS = [row % 4 for row in range(30)]
CLASSES = ["setosa", "versicolor", "virginica"]
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def train(online: Client, iris: Subject) -> DatasetRecord:
    return online.datasets.register(
        "iris-of-owners",
        x=iris.x_train,
        y=iris.y_train,
        class_names=CLASSES,
        metadata={"source": SOURCES},
    )


@pytest.fixture(scope="module")
def test_set(online: Client, iris: Subject) -> DatasetRecord:
    return online.datasets.register(
        "iris-of-tasks", x=iris.x_test, y=iris.y_test, class_names=CLASSES, metadata={"task": TASKS}
    )


@pytest.fixture(scope="module")
def matrix(iris: Subject) -> Array:
    formula = iris.formula
    factors = formula.factors(iris.x_test, iris.y_test)
    return formula.up(factors, iris.x_train, iris.y_train).numpy()


def summed(matrix: Array, axis: int, values: Any) -> Array:
    """One entry along the axis a value, in sorted order."""
    values = np.asarray(values)
    parts = [np.compress(values == each, matrix, axis).sum(axis) for each in np.unique(values)]
    return np.stack(parts, axis)


def computed(online: Client, iris: Subject, train: Any, test: Any, **options: Any) -> Any:
    options = {"hessian_regularization": iris.damping, **options}
    return online.compute_influences(iris.name, train, test, **options)


METHODS: list[dict[str, Any]] = [
    {},
    {"inversion_method": "cg", "rtol": 1e-12},
    {"inversion_method": "arnoldi", "rank_estimate": 8, "hessian_regularization": 0.1},
    {"curvature": "gauss_newton"},
]


@pytest.mark.parametrize("method", METHODS, ids=["direct", "cg", "arnoldi", "gauss_newton"])
def test_a_class_by_source_table_is_the_sums_of_the_matrix(
    online: Client,
    iris: Subject,
    train: DatasetRecord,
    test_set: DatasetRecord,
    matrix: Array,
    method: dict[str, Any],
) -> None:
    result = computed(
        online, iris, train, test_set, aggregate={"test": "y", "train": "source"}, **method
    )
    assert result.groups == {"test": CLASSES, "train": ["book", "straße", "web"]}
    assert result.shape == result.influences.shape == (3, 3)
    if "rank_estimate" in method:
        # Of a truncated method the reference is its own matrix.
        matrix = computed(online, iris, train, test_set, **method).numpy()
    expected = summed(summed(matrix, 0, iris.y_test), 1, SOURCES)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-8, atol=1e-10)
    frame = result.to_pandas()
    assert (frame.index.tolist(), frame.columns.tolist()) == (CLASSES, ["book", "straße", "web"])
    assert "test_predictions" not in result.job.result.stored


SIDES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"test": "mean"}, {"test": ["mean"]}),
    ({"test": "sum", "train": "sum"}, {"test": ["sum"], "train": ["sum"]}),
    ({"train": "source"}, {"train": ["book", "straße", "web"]}),
    ({"test": {"by": "task", "reduce": "mean"}}, {"test": [0, 1, 2, 3]}),
]


@pytest.mark.parametrize(("aggregate", "groups"), SIDES, ids=[str(each[0]) for each in SIDES])
def test_one_side_or_all_rows_of_it_are_grouped(
    online: Client,
    iris: Subject,
    train: DatasetRecord,
    test_set: DatasetRecord,
    matrix: Array,
    aggregate: dict[str, Any],
    groups: dict[str, Any],
) -> None:
    result = computed(online, iris, train, test_set, aggregate=aggregate)
    expected = matrix
    if aggregate.get("test") in ("mean", "sum"):
        expected = getattr(expected, aggregate["test"])(0, keepdims=True)
    elif "test" in aggregate:
        expected = summed(expected, 0, TASKS) / np.bincount(TASKS)[:, None]
    if aggregate.get("train") == "sum":
        expected = expected.sum(1, keepdims=True)
    elif "train" in aggregate:
        expected = summed(expected, 1, SOURCES)
    assert result.groups == groups
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-8, atol=1e-10)


def test_what_is_kept_is_of_the_table_and_no_cut_changes_it(
    online: Client,
    iris: Subject,
    train: DatasetRecord,
    test_set: DatasetRecord,
    matrix: Array,
    tmp_path: Path,
) -> None:
    table = summed(matrix, 0, iris.y_test)
    keep = {"matrix": True, "top": 4, "mean": True}
    whole = computed(online, iris, train, test_set, aggregate={"test": "y"}, keep=keep)
    blocks = {"test_rows": 7, "train_rows": 50, "rhs_rows": 9}
    cut = computed(online, iris, train, test_set, aggregate={"test": "y"}, keep=keep, blocks=blocks)
    spread = computed(
        *(online, iris, train, test_set),
        aggregate={"test": "y"},
        keep=keep,
        blocks={**blocks, "spread": True},
        reuse=False,
    )
    np.testing.assert_array_equal(spread.numpy(), cut.numpy())
    np.testing.assert_array_equal(spread.mean(), cut.mean())
    for result in (whole, cut):
        np.testing.assert_allclose(result.numpy(), table, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(result.mean(), table.mean(0), rtol=1e-8, atol=1e-10)
        best = result.top(test=2, k=4)
        assert [item.row for item in best] == np.argsort(-table[2], kind="stable")[:4].tolist()
    assert spread.suspects(3).rows.tolist() == whole.suspects(3).rows.tolist()
    saved = pd.read_csv(whole.save(tmp_path / "table.csv"))
    assert saved["test"].unique().tolist() == CLASSES
    both = computed(
        *(online, iris, train, test_set),
        aggregate={"test": "y", "train": "source"},
        keep={"matrix": False, "top": 2},
        blocks={**blocks, "spread": True},
    )
    corner = summed(table, 1, SOURCES)
    names = ["book", "straße", "web"]
    top = both.top(test=1, k=2)
    assert [item.id for item in top] == [names[at] for at in np.argsort(-corner[1])[:2]]
    with pytest.raises(errors.NotStored, match="has groups of training rows"):
        both.suspects()


def test_directions_and_several_dampings_are_added_up_too(
    online: Client, iris: Subject, train: DatasetRecord, test_set: DatasetRecord
) -> None:
    formula = iris.formula
    factors = formula.factors(iris.x_test, iris.y_test)
    moved = formula.perturbation(factors, iris.x_train[:12], iris.y_train[:12]).numpy()
    aggregate = {"test": "y", "train": "source"}
    result = computed(
        *(online, iris, train, test_set),
        aggregate=aggregate,
        influence_type="perturbation",
        train_rows="0:12",
    )
    expected = summed(summed(moved, 0, iris.y_test), 1, SOURCES[:12])
    assert result.shape == (3, 3, 4)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-8, atol=1e-10)
    two = [iris.damping, 2 * iris.damping]
    several = computed(
        online, iris, train, test_set, aggregate=aggregate, hessian_regularization=two
    )
    assert several.shape == (2, 3, 3)
    for damping in two:
        alone = computed(
            *(online, iris, train, test_set),
            aggregate=aggregate,
            hessian_regularization=damping,
        )
        one = several.at(damping=damping)
        np.testing.assert_allclose(one.numpy(), alone.numpy(), rtol=1e-9, atol=1e-12)
        assert one.to_pandas().index.tolist() == CLASSES


def test_factors_of_an_earlier_job_are_added_up(
    online: Client, iris: Subject, train: DatasetRecord, test_set: DatasetRecord, matrix: Array
) -> None:
    factors = online.compute_influence_factors(
        iris.name, train, test_set, hessian_regularization=iris.damping
    )
    result = online.compute_influences(
        iris.name, train, factors=factors, aggregate={"test": "task"}
    )
    np.testing.assert_allclose(result.numpy(), summed(matrix, 0, TASKS), rtol=1e-8, atol=1e-10)


def test_an_async_client_has_the_same_table(
    online: Client, iris: Subject, train: DatasetRecord, test_set: DatasetRecord, matrix: Array
) -> None:
    async def compute() -> tuple[dict[str, Any], Array]:
        async with AsyncClient(online.connection.url) as client:
            result = await client.compute_influences(
                iris.name,
                train,
                test_set,
                hessian_regularization=iris.damping,
                aggregate={"train": "source"},
            )
            return result.groups, await result.numpy()

    groups, found = asyncio.run(compute())
    assert groups == {"train": ["book", "straße", "web"]}
    np.testing.assert_allclose(found, summed(matrix, 1, SOURCES), rtol=1e-8, atol=1e-10)


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"aggregate": {"test": "tusk"}}, "/aggregate/test", "did you mean 'task'"),
    ({"aggregate": {"train": "x"}}, "/aggregate/train", "'x' is an input"),
    ({"aggregate": {"train": "mean"}}, "/aggregate/train", "take 'sum', or divide"),
    ({"aggregate": {}}, "/aggregate", "groups nothing"),
    ({"aggregate": {"train": "source"}, "keep": {"top": 5}}, "/keep/top", "3 groups of training"),
]


@pytest.mark.parametrize(("fields", "pointer", "words"), WRONG, ids=[each[2] for each in WRONG])
def test_groups_that_there_are_not_are_refused_by_name(
    http: httpx2.Client,
    iris: Subject,
    train: DatasetRecord,
    test_set: DatasetRecord,
    fields: dict[str, Any],
    pointer: str,
    words: str,
) -> None:
    body = {
        "kind": "influences",
        "model": iris.name,
        "train": {"dataset": train.id},
        "test": {"dataset": test_set.id},
        "inversion": {"method": "direct"},
        "hessian_regularization": iris.damping,
        **fields,
    }
    reply = http.post("/v1/jobs", json=body)
    assert reply.status_code == 422, reply.text
    error = reply.json()["errors"][0]
    assert (error["pointer"], words in error["detail"]) == (pointer, True), error
