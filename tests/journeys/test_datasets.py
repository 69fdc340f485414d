"""A dataset in any format, uploaded or where it lies: the same influences, and a clear word when a file changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.storage.objects import Objects
from tests.journeys.subjects import Subject
from upweight import Client, errors

pytestmark = pytest.mark.both_storages


def parquet(path: Path, iris: Subject, rows: slice) -> bytes:
    """A file with the columns as lists and numbers, and one that is neither."""
    columns = {
        "x": pa.array(iris.x_train[rows].tolist(), pa.list_(pa.float64())),
        "y": pa.array(iris.y_train[rows].numpy()),
        "note": pa.array(["flower"] * len(iris.x_train[rows])),
    }
    pq.write_table(pa.table(columns), path, row_group_size=17)
    return path.read_bytes()


@pytest.fixture(scope="module")
def exact(online: Client, iris: Subject) -> np.ndarray:  # type: ignore[type-arg]
    return online.compute_influences(*iris.names, hessian_regularization=iris.damping).numpy()


def test_parquet_files_give_the_influences_of_the_arrays(
    online: Client,
    iris: Subject,
    exact: np.ndarray,  # type: ignore[type-arg]
    tmp_path: Path,
    fresh_name: str,
) -> None:
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, rows in zip(paths, (slice(0, 50), slice(50, None)), strict=True):
        parquet(path, iris, rows)
    train = online.datasets.register(fresh_name, paths)
    assert train.rows == len(iris.x_train)
    result = online.compute_influences(
        iris.name, train, iris.test, hessian_regularization=iris.damping
    )
    np.testing.assert_array_equal(result.numpy(), exact)


def test_files_are_used_where_they_lie_until_they_change(
    online: Client,
    iris: Subject,
    exact: np.ndarray,  # type: ignore[type-arg]
    lake: Objects,
    tmp_path: Path,
    fresh_name: str,
) -> None:
    for number, rows in enumerate((slice(0, 50), slice(50, None))):
        path = tmp_path / "rows"
        lake.put(f"{fresh_name}/{number}.parquet", parquet(path, iris, rows))
    train = online.datasets.register(
        fresh_name, uri=f"{lake.url}/{fresh_name}", format="parquet", targets="y"
    )
    assert [file.path for file in train.files] == ["0.parquet", "1.parquet"]
    how = {"hessian_regularization": iris.damping}
    result = online.compute_influences(iris.name, train, iris.test, **how)
    np.testing.assert_array_equal(result.numpy(), exact)

    again = online.datasets.register(
        fresh_name, uri=f"{lake.url}/{fresh_name}", format="parquet", targets="y"
    )
    lake.put(f"{fresh_name}/1.parquet", parquet(path, iris, slice(0, 50)))
    with pytest.raises(errors.UpweightError, match=r"'1.parquet' has changed since") as caught:
        online.compute_influences(iris.name, again, iris.test, **how)
    assert caught.value.errors[0].pointer == "/uri"


def test_a_file_that_is_no_parquet_inside_is_rejected_by_its_name(
    online: Client, iris: Subject, lake: Objects, tmp_path: Path, fresh_name: str
) -> None:
    whole = parquet(tmp_path / "rows", iris, slice(0, 50))
    lake.put(f"{fresh_name}/0.parquet", whole)
    lake.put(f"{fresh_name}/1.parquet", whole[:-20])
    with pytest.raises(errors.Rejected, match=r"'1.parquet' can't be read as parquet"):
        online.datasets.register(fresh_name, uri=f"{lake.url}/{fresh_name}", format="parquet")
    with pytest.raises(errors.Rejected, match="'note' is text"):
        online.datasets.register(
            fresh_name,
            uri=f"{lake.url}/{fresh_name}/0.parquet",
            format="parquet",
            inputs=["x", "note"],
            targets="y",
        )
