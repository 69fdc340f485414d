"""Scores of test rows with training rows, gone through in blocks: a result's matrix, or a baseline's.

No more than a block is in memory, and what a measure makes of them: sums over subsets, some columns, the best rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.storage.chunks import Chunks

Array = NDArray[np.float64]
Block = tuple[slice, slice, NDArray[np.floating]]
RANDOM_COLUMNS = 4096  # drawn together, whatever the blocks are


@dataclass(frozen=True)
class Scores:
    """Scores (m, n), POSITIVE where the training row is helpful. `blocks` goes through them anew at each call."""

    name: str
    shape: tuple[int, int]
    blocks: Callable[[], Iterable[Block]]

    def sums(self, members: NDArray[np.bool_]) -> Array:
        """(S, m): Σ of each test row's scores over the training rows of each subset; `members` (S, n)."""
        found = np.zeros((len(members), self.shape[0]))
        for test, train, block in self.blocks():
            found[:, test] += members[:, train].astype(np.float64) @ block.T.astype(np.float64)
        return found

    def columns(self, wanted: Sequence[int]) -> Array:
        """(k, m) of some training rows."""
        places = np.asarray(wanted)
        found = np.zeros((len(places), self.shape[0]))
        for test, train, block in self.blocks():
            here = np.flatnonzero((places >= train.start) & (places < train.stop))
            found[here, test] = block[:, places[here] - train.start].T
        return found

    def means(self) -> Array:
        """(n,) over the test rows."""
        found = np.zeros(self.shape[1])
        for _, train, block in self.blocks():
            found[train] += block.sum(0, dtype=np.float64)
        return found / max(1, self.shape[0])

    def best(self, k: int, rows: Sequence[int]) -> NDArray[np.int64]:
        """(len(rows), k): the training rows with the highest scores of these test rows, the highest first."""
        chosen, k = np.asarray(rows), min(k, self.shape[1])
        values = np.full((len(chosen), k), -np.inf)
        places = np.zeros((len(chosen), k), np.int64)
        for test, train, block in self.blocks():
            here = np.flatnonzero((chosen >= test.start) & (chosen < test.stop))
            numbers = np.broadcast_to(
                np.arange(train.start, train.stop), (len(here), block.shape[1])
            )
            met = np.concatenate([values[here], block[chosen[here] - test.start]], 1)
            where = np.concatenate([places[here], numbers], 1)
            order = np.argsort(-met, 1, kind="stable")[:, :k]
            values[here] = np.take_along_axis(met, order, 1)
            places[here] = np.take_along_axis(where, order, 1)
        return places


def of_matrix(name: str, matrix: Chunks, block_bytes: int) -> Scores:
    """Of a stored matrix (m, n), in blocks of about so many bytes."""
    test, train = matrix.shape
    # Whole chunks: each is read once.
    rows, columns = matrix.chunk
    width = max(1, block_bytes // (8 * rows * columns)) * columns

    def blocks() -> Iterator[Block]:
        for top in range(0, test, rows):
            for left in range(0, train, width):
                here, there = (
                    range(top, min(top + rows, test)),
                    range(left, min(left + width, train)),
                )
                start = top
                for block in matrix.blocks(here, there, block_bytes):
                    yield (
                        slice(start, start + len(block)),
                        slice(there.start, there.stop),
                        np.asarray(block, np.float64),
                    )
                    start += len(block)

    return Scores(name, (test, train), blocks)


def of_rows(name: str, values: Array, test: int) -> Scores:
    """The same score (n,) of a training row for every test row."""

    def blocks() -> Iterator[Block]:
        yield slice(0, test), slice(0, len(values)), np.broadcast_to(values, (test, len(values)))

    return Scores(name, (test, len(values)), blocks)


def at_random(test: int, train: int, seed: int) -> Scores:
    """Normal numbers: what a score is that knows nothing."""

    def blocks() -> Iterator[Block]:
        for start in range(0, train, RANDOM_COLUMNS):
            stop = min(start + RANDOM_COLUMNS, train)
            for row in range(test):
                drawn = np.random.default_rng([seed, row, start]).normal(size=(1, stop - start))
                yield slice(row, row + 1), slice(start, stop), drawn

    return Scores("random", (test, train), blocks)


def of_texts(
    test: Sequence[Sequence[int]], train: Sequence[Sequence[int]], block_rows: int = 64
) -> Scores:
    """BM25 of rows that are sequences of tokens, by bm25s. Raises ImportError where it is not installed."""
    import bm25s

    index = bm25s.BM25()
    index.index([[str(token) for token in row] for row in train], show_progress=False)

    def blocks() -> Iterator[Block]:
        for start in range(0, len(test), block_rows):
            some = test[start : start + block_rows]
            found = [index.get_scores([str(token) for token in row]) for row in some]
            yield (
                slice(start, start + len(some)),
                slice(0, len(train)),
                np.asarray(np.stack(found), np.float64),
            )

    return Scores("BM25", (len(test), len(train)), blocks)
