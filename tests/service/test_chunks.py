"""Rows of stored matrices by byte ranges: what Zarr wrote, whatever the choice."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.storage.arrays import NewMatrix
from service.storage.chunks import Chunks
from service.storage.objects import Objects
from tests.storage.writing import write_matrix
from upweight.errors import InternalError

SHAPE = (11, 37, 2)
MATRIX = np.random.default_rng(0).normal(size=SHAPE)


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Chunks:
    objects = Objects(str(tmp_path_factory.mktemp("objects")))
    write_matrix(objects, "m", MATRIX, (4, 10, 2))
    return Chunks.open(objects, "m")


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.integers(0, SHAPE[0] - 1), max_size=15),
    columns=st.lists(st.integers(0, SHAPE[1] - 1), max_size=15),
    block=st.integers(1, 2000),
)
def test_any_choice_in_any_order_is_what_was_written(
    chunks: Chunks, rows: list[int], columns: list[int], block: int
) -> None:
    blocks = list(chunks.blocks(rows, columns, block))
    found = np.concatenate(blocks) if blocks else np.empty((0, len(columns), 2))
    assert np.array_equal(found, MATRIX[rows][:, columns])
    pieces = [piece.ravel() for piece in chunks.pieces(rows, columns, block)]
    assert np.array_equal(np.concatenate([np.empty(0), *pieces]), found.ravel())


@settings(max_examples=60, deadline=None)
@given(
    rows=st.slices(SHAPE[0]).filter(lambda each: (each.step or 1) > 0),
    columns=st.slices(SHAPE[1]).filter(lambda each: (each.step or 1) > 0),
    block=st.integers(1, 2000),
)
def test_slices_are_read_as_numpy_reads_them(
    chunks: Chunks, rows: slice, columns: slice, block: int
) -> None:
    chosen = range(SHAPE[0])[rows], range(SHAPE[1])[columns]
    found = [each.ravel() for each in chunks.blocks(*chosen, block)]
    expected = MATRIX[rows, columns].ravel()
    assert np.array_equal(np.concatenate([np.empty(0), *found]), expected)
    pieces = [piece.ravel() for piece in chunks.pieces(*chosen, block)]
    assert np.array_equal(np.concatenate([np.empty(0), *pieces]), expected)


def test_ranges_are_taken_as_they_are(chunks: Chunks) -> None:
    found = np.concatenate(list(chunks.blocks(range(1, 11, 3), range(5, 37), 900)))
    assert np.array_equal(found, MATRIX[1:11:3, 5:])


def test_what_is_not_written_is_refused_and_the_rest_is_read(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    matrix = NewMatrix("m", (6, 6), (3, 3), "float32")
    matrix.describe(objects)
    matrix.write(objects, 0, 1, np.ones((3, 3), "float32"))
    found = Chunks.open(objects, "m")
    assert np.array_equal(next(found.blocks(range(3), range(3, 6), 10**6)), np.ones((3, 3)))
    with pytest.raises(InternalError, match="a part of a stored matrix is missing"):
        next(found.blocks(range(3), range(6), 10**6))


def test_one_row_of_a_wide_matrix_reads_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = Objects(str(tmp_path))
    write_matrix(objects, "m", np.ones((256, 8192), "float32"), (256, 1024))
    matrix = Chunks.open(objects, "m")
    lengths: list[int] = []
    original = objects.get_ranges

    def counted(path: str, ranges: list[tuple[int, int]]) -> list[bytes]:
        lengths.extend(length for _, length in ranges)
        return original(path, ranges)

    monkeypatch.setattr(objects, "get_ranges", counted)
    list(matrix.blocks([17], range(8192), 10**6))
    assert sum(lengths) == 8192 * 4


def test_however_wide_a_row_is_its_pieces_take_no_more_memory_than_one(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    new, part = (
        NewMatrix("m", (1, 10_000_000), (1, 100_000), "float32"),
        np.ones((1, 100_000), "f4"),
    )
    new.describe(objects)
    for column in range(100):
        new.write(objects, 0, column, part)
    matrix, block = Chunks.open(objects, "m"), 1 << 20
    tracemalloc.start()
    try:
        numbers = sum(piece.size for piece in matrix.pieces([0], range(10_000_000), block))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert numbers == 10_000_000
    assert peak < 4 * block
