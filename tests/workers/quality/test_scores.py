"""What measures make of scores in blocks, beside the whole matrix at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.storage.arrays import NewMatrix
from service.storage.chunks import Chunks
from service.storage.objects import Objects
from workers.quality.scores import Scores, at_random, of_matrix, of_rows, of_texts

RNG = np.random.default_rng(2)
WHOLE = RNG.normal(size=(7, 11))


def in_blocks(rows: int, columns: int) -> Scores:
    def blocks():
        for top in range(0, 7, rows):
            for left in range(0, 11, columns):
                test, train = slice(top, min(top + rows, 7)), slice(left, min(left + columns, 11))
                yield test, train, WHOLE[test, train]

    return Scores("whole", (7, 11), blocks)


SIZES = pytest.mark.parametrize(("rows", "columns"), [(7, 11), (2, 3), (1, 11), (7, 1)])


@SIZES
def test_sums_are_those_of_the_members(rows: int, columns: int) -> None:
    members = RNG.random((5, 11)) < 0.5
    expected = [[WHOLE[row, some].sum() for row in range(7)] for some in members]
    np.testing.assert_allclose(in_blocks(rows, columns).sums(members), expected, atol=1e-12)


@SIZES
def test_columns_come_in_the_order_asked_for(rows: int, columns: int) -> None:
    np.testing.assert_array_equal(
        in_blocks(rows, columns).columns([9, 0, 3]), WHOLE[:, [9, 0, 3]].T
    )


@SIZES
def test_means_are_over_test_rows(rows: int, columns: int) -> None:
    np.testing.assert_allclose(in_blocks(rows, columns).means(), WHOLE.mean(0), atol=1e-12)


@SIZES
def test_the_best_rows_are_those_with_the_highest_scores(rows: int, columns: int) -> None:
    expected = [np.argsort(-WHOLE[row])[:4] for row in (6, 1)]
    np.testing.assert_array_equal(in_blocks(rows, columns).best(4, [6, 1]), expected)


def test_more_of_the_best_than_there_are_rows_are_all_rows() -> None:
    assert in_blocks(2, 3).best(99, [0]).shape == (1, 11)


@pytest.mark.parametrize("layer", [None, 1], ids=["one λ", "the second λ of two"])
@pytest.mark.parametrize("block_bytes", [1, 200, 1 << 20])
def test_a_stored_matrix_is_gone_through_whole_in_any_blocks(
    tmp_path: Path, layer: int | None, block_bytes: int
) -> None:
    objects = Objects(str(tmp_path / "objects"))
    layered = layer is not None
    shape, chunk = ((2, 7, 11), (2, 3, 4)) if layered else ((7, 11), (3, 4))
    matrix = NewMatrix("m", shape, chunk, "float64", layered=layered)
    matrix.describe(objects)
    for row in range(3):
        for column in range(3):
            block = WHOLE[row * 3 : row * 3 + 3, column * 4 : column * 4 + 4]
            matrix.write(objects, row, column, np.stack([-block, block]) if layered else block)
    found = of_matrix("m", Chunks.open(objects, "m", layer), block_bytes)
    np.testing.assert_array_equal(found.columns(range(11)), WHOLE.T)
    np.testing.assert_allclose(found.means(), WHOLE.mean(0), atol=1e-12)


def test_a_score_of_training_rows_alone_is_every_test_rows() -> None:
    np.testing.assert_array_equal(of_rows("loss", np.arange(3.0), 2).columns([2]), [[2.0, 2.0]])


def test_random_scores_depend_on_the_seed_alone() -> None:
    one, again, other = (at_random(3, 5000, seed).columns([0, 4999]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).all()


def test_bm25_is_high_for_rows_that_share_rare_tokens() -> None:
    pytest.importorskip("bm25s")
    train = [[1, 2, 3], [1, 1, 9], [4, 5, 6]]
    found = of_texts([[9, 9], [4, 7]], train).columns([0, 1, 2]).T
    assert found[0].argmax() == 1
    assert found[1].argmax() == 2
    assert found[1, 1] == 0.0


def test_bm25_is_robertsons_formula() -> None:
    pytest.importorskip("bm25s")
    train = [[1, 2, 3, 3], [1, 1, 9], [4, 5, 6]]
    k1, b, mean = 1.5, 0.75, np.mean([len(row) for row in train])
    expected = np.zeros((1, 3))
    for token in (1, 3):
        holding = sum(token in row for row in train)
        idf = np.log(1 + (len(train) - holding + 0.5) / (holding + 0.5))
        for place, row in enumerate(train):
            count = row.count(token)
            expected[0, place] += idf * count / (count + k1 * (1 - b + b * len(row) / mean))
    found = of_texts([[1, 3]], train).columns([0, 1, 2]).T
    np.testing.assert_allclose(found, expected, rtol=1e-6)
