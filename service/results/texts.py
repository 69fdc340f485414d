"""Rows of a training set in words, where it shows its tokens as text."""

from __future__ import annotations

import json
from collections.abc import Sequence

from service.datasets.rows import ShardedRows
from service.results.stored import StoredResult
from service.storage.layout import blob_path
from upweight.errors import NotStored
from upweight.schema import DatasetRecord, Ranking, TextPreview
from upweight.tokens import text_of

MOST_ROWS = 1000  # that are put into words at once
MOST_TOKENS = 400  # of each


def with_texts(result: StoredResult, ranking: Ranking) -> Ranking:
    """The ranking with the text of each row. Raises NotStored where there is none, or there are too many rows."""
    job = result.job
    found = result.parts.records.get("dataset", result.namespace, job.train_id)
    dataset = DatasetRecord.model_validate(found)
    preview = dataset.preview
    if result.groups("train") is not None or not isinstance(preview, TextPreview):
        raise NotStored(
            f"the training rows of job {job.id} have no text; register the dataset with its 'tokenizer', or with a "
            "preview of kind 'text'"
        )
    if len(ranking.items) > MOST_ROWS:
        raise NotStored(f"words are for {MOST_ROWS} rows at most; ask for a smaller k")
    words = _vocabulary(result, preview)
    rows = [item.row for item in ranking.items]
    items = [
        item.model_copy(update={"text": text})
        for item, text in zip(
            ranking.items, _texts(result, dataset, preview, rows, words), strict=True
        )
    ]
    return ranking.model_copy(update={"items": items})


def _vocabulary(result: StoredResult, preview: TextPreview) -> list[str] | None:
    if preview.vocabulary is None:
        return None
    data = result.objects.get(blob_path(result.namespace, preview.vocabulary))
    words: list[str] = json.loads(data)
    return words


def _texts(
    result: StoredResult,
    dataset: DatasetRecord,
    preview: TextPreview,
    rows: Sequence[int],
    words: Sequence[str] | None,
) -> list[str]:
    stored = ShardedRows.of(result.parts, result.namespace, dataset)
    (column,) = stored.chosen([preview.column])
    tokens = stored.numbers(column, rows).whole()
    return [text_of(row.ravel().tolist(), words, MOST_TOKENS) for row in tokens]
