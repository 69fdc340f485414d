"""Rows of a training set in words, where it shows its tokens as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from service.datasets.rows import ShardedRows
from service.datasets.vocabulary import WHAT, words_of
from service.results.stored import StoredResult
from upweight.errors import InvalidRequest, NotStored
from upweight.schema import Bm25Ranking, DatasetRecord, Ranking, TextPreview
from upweight.tokens import text_of

Ranked = TypeVar("Ranked", Ranking, Bm25Ranking)
MOST_ROWS = 1000  # that are put into words at once
MOST_TOKENS = 400  # of each


def with_texts(result: StoredResult, ranking: Ranked) -> Ranked:
    """The ranking with the text of each row. Raises NotStored where there is none, InvalidRequest for too many rows."""
    job = result.job
    found = result.parts.records.get("dataset", result.namespace, job.train_id)
    dataset = DatasetRecord.model_validate(found)
    preview = dataset.preview
    if result.groups("train") is not None or not isinstance(preview, TextPreview):
        raise NotStored(
            f"the training rows of job {job.id} have no text; register the dataset with its 'tokenizer', or with a "
            "preview of kind 'text'"
        )
    rows = [item.row for item in ranking.items]
    if len(rows) > MOST_ROWS:
        words = f"words are for {MOST_ROWS} rows at most; ask for a smaller k"
        raise InvalidRequest.field("query:k", words, len(rows))
    texts = _texts(result, dataset, preview, rows, vocabulary_of(result, dataset, preview))
    items = [
        item.model_copy(update={"text": text})
        for item, text in zip(ranking.items, texts, strict=True)
    ]
    return ranking.model_copy(update={"items": items})


def vocabulary_of(
    result: StoredResult, dataset: DatasetRecord, preview: TextPreview
) -> list[str] | None:
    """The word of each token; empty: padding, which is not seen. Raises NotStored for a blob that is none."""
    digest = preview.vocabulary
    if digest is None:
        return None
    words = words_of(result.objects, result.namespace, digest)
    if words is not None:
        return words
    raise NotStored(
        f"the vocabulary of dataset {dataset.name!r}, {digest}, is no blob with {WHAT}; "
        f"upload one, and name it in the preview: PATCH /v1/datasets/{dataset.id}"
    )


def _texts(
    result: StoredResult,
    dataset: DatasetRecord,
    preview: TextPreview,
    rows: Sequence[int],
    words: Sequence[str] | None,
) -> list[str]:
    stored = ShardedRows.of(result.parts, result.namespace, dataset)
    (column,) = stored.chosen([preview.column])
    if "int" not in column.dtype:
        raise NotStored(
            f"column {column.name!r} of dataset {dataset.name!r} is {column.dtype}, and tokens are whole numbers; give "
            f"it a preview of another column, or kind: PATCH /v1/datasets/{dataset.id}"
        )
    tokens = stored.numbers(column, rows).whole()
    return [text_of(row.ravel().tolist(), words, MOST_TOKENS) for row in tokens]
