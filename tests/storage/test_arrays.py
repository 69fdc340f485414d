"""Matrices in Zarr 3: any choice of rows and columns, in blocks, and readable by Zarr alone."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import LocalStore, ObjectStore

from service.storage.arrays import NewMatrix
from service.storage.chunks import Chunks
from service.storage.cuts import Cut
from service.storage.objects import Objects
from service.storage.row_blocks import RowBlocks
from service.storage.stores import open_store
from tests.storage.writing import write_matrix, write_rows
from upweight.errors import InternalError

MATRIX = np.random.default_rng(0).normal(size=(11, 37)).astype("f4")


pytestmark = pytest.mark.both_storages


@pytest.fixture
def written(objects: Objects) -> Objects:
    """The objects, with the matrix."""
    write_matrix(objects, "results/ns/job/influences", MATRIX, (4, 10))
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
    written: Objects, rows: range, columns: range, block_bytes: int
) -> None:
    array = Chunks.open(written, "results/ns/job/influences")
    blocks = list(array.blocks(rows, columns, block_bytes))
    found = np.concatenate(blocks) if blocks else np.empty((0, len(columns)), "f4")
    assert np.array_equal(found, MATRIX[np.ix_(list(rows), list(columns))])


def test_users_open_it_with_zarr_alone(written: Objects) -> None:
    path = "results/ns/job/influences"
    folder = written.folder
    store = (
        LocalStore(folder / path)
        if folder
        else ObjectStore(open_store(f"{written.url}/{path}", written.options))
    )
    array = zarr.open_array(store, mode="r")
    assert np.array_equal(array[:], MATRIX)


def test_nothing_is_written_outside_the_array_s_own_path(written: Objects) -> None:
    assert {meta.path.split("/influences/")[0] for meta in written.walk()} == {"results/ns/job"}


def test_a_part_that_is_not_written_is_refused(objects: Objects) -> None:
    write_matrix(objects, "other", MATRIX, (11, 5), columns=10)
    found = Chunks.open(objects, "other")
    assert np.array_equal(next(found.blocks(range(11), range(10), 10**6)), MATRIX[:, :10])
    with pytest.raises(InternalError, match="a part of a stored matrix is missing"):
        next(found.blocks(range(11), range(37), 10**6))


def test_a_chunk_is_written_once_and_never_replaced(written: Objects) -> None:
    path = "results/ns/job/influences"
    before = {meta.path: written.get(meta.path) for meta in written.walk(path)}
    write_matrix(written, path, np.zeros_like(MATRIX), (4, 10))
    assert {meta.path: written.get(meta.path) for meta in written.walk(path)} == before


def test_what_another_wrote_first_stays_and_its_digest_is_told(objects: Objects) -> None:
    matrix = NewMatrix("m", (2, 3), (2, 3), "float32")
    first = matrix.write(objects, 0, 0, np.zeros((2, 3), "f4"))
    assert matrix.write(objects, 0, 0, np.ones((2, 3), "f4")) == first
    assert first == f"sha256:{hashlib.sha256(bytes(24)).hexdigest()}"
    assert objects.get("m/c/0/0") == bytes(24)


@given(
    total=st.integers(1, 40),
    step=st.integers(1, 12),
    rows=st.lists(st.integers(0, 39), max_size=12),
    block_bytes=st.integers(1, 200),
)
def test_rows_kept_in_several_objects_are_read_in_any_order(
    tmp_path_factory: pytest.TempPathFactory,
    total: int,
    step: int,
    rows: list[int],
    block_bytes: int,
) -> None:
    values = MATRIX.reshape(-1)[: total * 3].reshape(total, 3)
    objects = Objects(str(tmp_path_factory.mktemp("rows")))
    write_rows(objects, "a", {"x": values}, step)
    kept = RowBlocks(objects, "a", Cut(total, step), "x")
    assert kept.shape == values.shape
    for chosen in ([row % total for row in rows], range(total), range(total - 1, -1, -2)):
        found = np.concatenate([np.empty((0, 3), "f4"), *kept.read(chosen, block_bytes)])
        assert np.array_equal(found, values[list(chosen)])
