"""Matrices in Zarr 3: any choice of rows and columns, in blocks, and readable by Zarr alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

from service.storage.arrays import create_array
from service.storage.chunks import Chunks
from service.storage.objects import Objects

MATRIX = np.random.default_rng(0).normal(size=(11, 37)).astype("f4")


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    objects = Objects(str(tmp_path))
    array = create_array(objects, "results/ns/job/influences", MATRIX.shape, (4, 10), "float32")
    array[:] = MATRIX
    return objects


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (range(11), range(37)),
        (range(2, 9, 3), range(5)),
        ([7, 1, 1], [36, 0]),
        (range(10, -1, -1), range(3)),
        ([3], range(37)),
        ([], range(37)),
        (range(11), []),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 100, 10**6])
def test_any_choice_of_rows_and_columns_is_what_numpy_gives(
    objects: Objects, rows: range, columns: range, block_bytes: int
) -> None:
    array = Chunks.open(objects, "results/ns/job/influences")
    blocks = list(array.blocks(rows, columns, block_bytes))
    found = np.concatenate(blocks) if blocks else np.empty((0, len(columns)), "f4")
    assert np.array_equal(found, MATRIX[np.ix_(list(rows), list(columns))])


def test_users_open_it_with_zarr_alone(objects: Objects, tmp_path: Path) -> None:
    array = zarr.open_array(LocalStore(tmp_path / "results/ns/job/influences"), mode="r")
    assert np.array_equal(array[:], MATRIX)


def test_nothing_is_written_outside_the_array_s_own_path(objects: Objects) -> None:
    assert {meta.path.split("/influences/")[0] for meta in objects.walk("")} == {"results/ns/job"}


def test_what_is_not_written_reads_as_nan(objects: Objects) -> None:
    array = create_array(objects, "other", (4, 4), (2, 2), "float32")
    array[:2, :2] = 1.0
    found = next(Chunks.open(objects, "other").blocks(range(4), range(4), 10**6))
    assert np.isnan(found[2:]).all()
    assert (found[:2, :2] == 1.0).all()
