"""BM25 beside a ranking: the training rows that share the most telling tokens with test rows.

Robertson, Zaragoza: The Probabilistic Relevance Framework: BM25 and Beyond (2009), in the form that Lucene has it. A
front end has no room for an index of all words, so only the counts of the tokens that are asked for are taken, in two
passes over the rows: first in how many rows each is, then the scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from service.answers.formats import Array
from service.datasets.names import GroupColumn
from service.datasets.rows import ShardedRows
from service.datasets.tokens import MASK, token_column
from service.results.ranking import strongest
from service.results.stored import StoredResult
from service.results.texts import vocabulary_of
from upweight.errors import InvalidRequest, NotStored
from upweight.schema import (
    Bm25Ranking,
    ColumnSpec,
    DatasetRecord,
    Matched,
    Selection,
    TextPreview,
    parse_rows,
)

K1, B = 1.5, 0.75  # how soon more of a token counts less, and how much long rows count less
MOST_TOKENS = 20_000_000  # of either side
BLOCK_TOKENS = 1 << 20  # read at a time


def bm25(result: StoredResult, test: int | None, k: int) -> Bm25Ranking:
    """The k training rows of the highest score for a test row, a group of them, or all; scores of several are averaged.

    Raises NotStored where there are no tokens to compare, InvalidRequest.
    """
    job = result.job
    if result.groups("train") is not None:
        raise NotStored(f"job {job.id} has groups of training rows, and BM25 ranks rows")
    if job.test_id is None:
        raise NotStored(f"job {job.id} has no test rows whose words could be compared")
    train, other = (_dataset(result, id) for id in (job.train_id, job.test_id))
    rows = np.fromiter(result.train_rows(), np.int64)
    own, others = _words(result, train), _words(result, other)
    _refuse_other_words(train.dataset, own, other.dataset, others)
    padding = np.union1d(_padding(own), _padding(others))
    scores = _scores(
        _Tokens.of(train, rows, padding),
        _Tokens.of(other, _asked(result, other, test), padding),
    )
    columns, values = strongest(scores, k, positive=True)
    best = rows[columns].tolist()
    items = [
        Matched(id=id, row=row, column=int(column), score=float(value))
        for id, row, column, value in zip(
            result.ids("train", best), best, columns, values, strict=True
        )
    ]
    return Bm25Ranking(test=test, items=items)


def _dataset(result: StoredResult, id: str) -> ShardedRows:
    record = DatasetRecord.model_validate(result.parts.records.get("dataset", result.namespace, id))
    return ShardedRows.of(result.parts, result.namespace, record)


def _words(result: StoredResult, source: ShardedRows) -> list[str] | None:
    """Of each token, as the dataset's vocabulary has them. Raises NotStored."""
    preview = source.dataset.preview
    return (
        vocabulary_of(result, source.dataset, preview) if isinstance(preview, TextPreview) else None
    )


def _padding(words: Sequence[str] | None) -> Array:
    """Tokens that stand for no word."""
    return np.array([token for token, word in enumerate(words or ()) if not word], np.int64)


def _refuse_other_words(
    train: DatasetRecord,
    own: Sequence[str] | None,
    other: DatasetRecord,
    others: Sequence[str] | None,
) -> None:
    """Raises NotStored where the same number is another word on the other side."""
    if own is not None and others is not None:
        pairs = enumerate(zip(own, others, strict=False))
        apart = next((at for at, (a, b) in pairs if a and b and a != b), None)
        if apart is None:
            return
        why = f"token {apart} is {own[apart]!r} in {train.name!r} and {others[apart]!r} in {other.name!r}"
    elif train.tokenizer is None or other.tokenizer in (None, train.tokenizer):
        return
    else:
        why = f"{train.name!r} and {other.name!r} have tokens of different tokenizers"
    raise NotStored(
        f"{why}, so that equal tokens are no equal words; make the rows of both with one tokenizer, and register both "
        "with it"
    )


def _asked(result: StoredResult, other: ShardedRows, test: int | None) -> Array:
    """The rows of the test set that a row of the result, or a group of it, is of."""
    request = result.job.request
    selection = getattr(request, "test", None) or Selection(dataset=other.dataset.id)
    every = np.fromiter(parse_rows(selection.rows, other.dataset.rows or 0), np.int64)
    groups = result.groups("test")
    if test is None:
        return every
    total = len(every) if groups is None else len(groups)
    if not 0 <= test < total:
        words = f"row {test} is not in the result, which has {total}: 0 to {total - 1}"
        raise InvalidRequest.field("query:test", words, test)
    if groups is None:
        return every[test : test + 1]
    aggregate = getattr(request, "aggregate", None)
    by = None if aggregate is None else aggregate.column("test")
    if by is None:
        return every
    values = chain.from_iterable(GroupColumn.of(other, by, "query:test").values(every.tolist()))
    return every[[value == groups[test].value for value in values]]


@dataclass(frozen=True)
class _Tokens:
    """The tokens of some rows of a dataset, without padding and those that its mask leaves out."""

    source: ShardedRows
    rows: Array
    column: ColumnSpec
    mask: ColumnSpec | None
    padding: Array

    @classmethod
    def of(cls, source: ShardedRows, rows: Array, padding: Array) -> _Tokens:
        """Raises NotStored for rows that are no tokens, InvalidRequest for too many."""
        dataset = source.dataset
        column = _column_of(dataset)
        count = len(rows) * int(column.shape[0] or 1)
        if count > MOST_TOKENS:
            raise InvalidRequest(
                f"the {len(rows):,} rows of {dataset.name!r} have {count:,} tokens, more than the {MOST_TOKENS:,} that "
                "are compared; compute the ranking over fewer rows"
            )
        masks = [
            each for each in dataset.columns if each.name == MASK and each.shape == column.shape
        ]
        mask = masks[0] if masks and MASK in dataset.inputs else None
        return cls(source, rows, column, mask, padding)

    def blocks(self) -> Iterator[tuple[Array, Array]]:
        """(b, positions) tokens of the next rows, and which of them count."""
        step = max(1, BLOCK_TOKENS // max(1, int(self.column.shape[0] or 1)))
        for start in range(0, len(self.rows), step):
            some = self.rows[start : start + step].tolist()
            tokens = self.source.numbers(self.column, some).whole().astype(np.int64, copy=False)
            kept = ~np.isin(tokens, self.padding)
            if self.mask is not None:
                kept &= self.source.numbers(self.mask, some).whole() != 0
            yield tokens, kept


def _column_of(dataset: DatasetRecord) -> ColumnSpec:
    """Raises NotStored."""
    found = token_column(dataset, dataset.columns)
    if found is not None and "int" in found.dtype and len(found.shape) == 1:
        return found
    raise NotStored(
        f"the rows of {dataset.name!r} are no tokens, (rows, positions) of whole numbers, and share no words"
    )


def _scores(texts: _Tokens, asked: _Tokens) -> Array:
    """(training rows,): the mean over the rows that are asked about."""
    words, times = _counted(asked)
    total = len(texts.rows)
    scores = np.zeros(total)
    if not len(words) or not total:
        return scores
    lengths, holding = np.zeros(total), np.zeros(len(words))
    for start, kept, _, word, _ in _matches(texts, words):
        lengths[start : start + len(kept)] = kept.sum(1)
        holding += np.bincount(word, minlength=len(words))
    rarity = times / max(1, len(asked.rows)) * np.log1p((total - holding + 0.5) / (holding + 0.5))
    mean = float(lengths.mean()) or 1.0  # of rows without any token there is no score
    for start, kept, row, word, count in _matches(texts, words):
        long = K1 * (1 - B + B * lengths[start + row] / mean)
        parts = rarity[word] * count / (count + long)
        scores[start : start + len(kept)] = np.bincount(row, parts, len(kept))
    return scores


def _counted(asked: _Tokens) -> tuple[Array, Array]:
    """The tokens that are asked for, in order, and how often each is there in all rows."""
    found: dict[int, int] = {}
    for tokens, kept in asked.blocks():
        for token, count in zip(*np.unique(tokens[kept], return_counts=True), strict=True):
            found[int(token)] = found.get(int(token), 0) + int(count)
    words = np.array(sorted(found), np.int64)
    return words, np.array([found[word] for word in words.tolist()], np.float64)


def _matches(
    texts: _Tokens, words: Sequence[int] | Array
) -> Iterator[tuple[int, Array, Array, Array, Array]]:
    """Of each block: its first row, which tokens count, and for each pair that meets row, word, and how often."""
    start = 0
    for tokens, kept in texts.blocks():
        at = np.minimum(np.searchsorted(words, tokens), len(words) - 1)
        here = kept & (np.asarray(words)[at] == tokens)
        pairs = np.nonzero(here)[0] * len(words) + at[here]
        pair, count = np.unique(pairs, return_counts=True)
        yield start, kept, pair // len(words), pair % len(words), count
        start += len(kept)
