"""BM25 beside an influence: the training rows that share the most telling tokens with test rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import upweight.late.numpy as np
from upweight.errors import InvalidRequest, NotStored
from upweight.extras import needed
from upweight.http.flow import Flow, Work
from upweight.results.rows import ids_of, record_of, rows_of
from upweight.results.tables import Ranking
from upweight.schema import (
    ColumnSpec,
    DatasetRecord,
    JobRecord,
    Ranked,
    Selection,
    TextPreview,
    parse_rows,
    written_rows,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


MASK = "attention_mask"
MOST_TOKENS = 20_000_000  # of both sides, fetched and held
ROWS_AT_ONCE = 1_000


def by_bm25(record: JobRecord, test: int | None, k: int) -> Flow[Ranking]:
    """The k training rows of the highest score, which stands in the place of an influence.

    `test`: row of the result, or its group; None: the mean over all of the job's test rows. Scores of several rows are
    averaged. Raises InvalidRequest for rows that are no tokens, and MissingPackage without bm25s.
    """
    library = needed("bm25s", "bm25()")
    if record.groups is not None and record.groups.train is not None:
        raise NotStored(f"{record.id} has groups of training rows, and BM25 is of rows")
    if record.test_id is None:
        raise InvalidRequest.field("/test", "the job has no test rows to compare words with", None)
    train, other = (yield from record_of(record.train_id)), (yield from record_of(record.test_id))
    rows = _chosen(train, record.request.train)
    queries = yield from _queries(record, other, test)
    tokens = yield from _tokens(train, rows)
    asked = yield from _tokens(other, queries)
    scores = yield Work(lambda: _scores(library, tokens, asked))
    best = np.lexsort((np.arange(len(scores)), -scores))[:k]
    ids = (yield from ids_of(train)) if train.ids is not None else None
    items = [
        Ranked(
            id=rows[at] if ids is None else ids[rows[at]].item(),
            row=rows[at],
            column=int(at),
            influence=float(scores[at]),
        )
        for at in best
    ]
    return Ranking(test=test, sign="helpful", items=items)


def _chosen(dataset: DatasetRecord, selection: Selection) -> list[int]:
    return list(parse_rows(selection.rows, dataset.rows or 0))


def _queries(record: JobRecord, dataset: DatasetRecord, test: int | None) -> Flow[list[int]]:
    """The rows of the test set that a row of the result, or a group of it, is of."""
    every = _chosen(dataset, getattr(record.request, "test", None) or Selection(dataset=dataset.id))
    groups = None if record.groups is None else record.groups.test
    if test is None:
        return every
    total = len(every) if groups is None else len(groups)
    if not 0 <= test < total:
        raise InvalidRequest.field("/test", f"the result has the rows 0 to {total - 1}", test)
    if groups is None:
        return [every[test]]
    aggregate = getattr(record.request, "aggregate", None)
    by = None if aggregate is None else aggregate.column("test")
    if by is None:
        return every
    values = (yield from _fetched(dataset, every, [by]))[by]
    return [row for row, value in zip(every, values, strict=True) if value == groups[test].value]


def _fetched(
    dataset: DatasetRecord, rows: Sequence[int], names: list[str]
) -> Flow[dict[str, NDArray[Any]]]:
    pieces = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = written_rows(rows[start : start + ROWS_AT_ONCE])
        pieces.append((yield from rows_of(dataset, some, names)))
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in names}


def _tokens(dataset: DatasetRecord, rows: Sequence[int]) -> Flow[list[list[int]]]:
    """The tokens of rows; without those that the mask leaves out."""
    spec = _column(dataset)
    width = int(spec.shape[0] or 1)
    if len(rows) * width > MOST_TOKENS:
        words = f"{len(rows):,} rows of {width:,} tokens are more than the {MOST_TOKENS:,} that are fetched"
        raise InvalidRequest.field("/test", words, None)
    names = [spec.name, *([MASK] if MASK in dataset.inputs else [])]
    values = yield from _fetched(dataset, rows, names)
    tokens = values[spec.name]
    kept = values[MASK] != 0 if MASK in values else np.ones_like(tokens, bool)
    return [row[here].tolist() for row, here in zip(tokens, kept, strict=True)]


def _column(dataset: DatasetRecord) -> ColumnSpec:
    """That of the text preview; else the first input that can be tokens. Raises InvalidRequest."""
    named = dataset.preview.column if isinstance(dataset.preview, TextPreview) else None
    for each in dataset.columns:
        whole = "int" in each.dtype and len(each.shape) == 1
        if each.name == named or (named is None and whole and each.name in dataset.inputs):
            return each
    words = f"the rows of {dataset.name} are no tokens, (rows, positions) of whole numbers, and share no words"
    raise InvalidRequest.field("/test", words, dataset.id)


def _scores(library: Any, tokens: list[list[int]], asked: list[list[int]]) -> NDArray[np.float64]:
    """(training rows,): the mean over the rows that are asked about."""
    index = library.BM25()
    index.index([list(map(str, row)) for row in tokens], show_progress=False)
    found = np.zeros(len(tokens))
    for row in asked:
        found += index.get_scores(list(map(str, row)))
    return found / max(1, len(asked))
