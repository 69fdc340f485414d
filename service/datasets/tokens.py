"""Which column of a dataset has the tokens of its texts."""

from __future__ import annotations

from collections.abc import Sequence

from upweight.schema import ColumnSpec, DatasetRecord, TextPreview

MASK = "attention_mask"
BESIDE = frozenset({MASK, "token_type_ids", "position_ids", "special_tokens_mask"})


def token_column(dataset: DatasetRecord, columns: Sequence[ColumnSpec]) -> ColumnSpec | None:
    """That of a preview of text, else the first input that can be one; None where none can.

    The first by the order of the inputs, as a file's columns have none. What a tokenizer of Hugging Face gives beside
    tokens, and columns of 0 and 1, are taken for tokens only where there is nothing else.

    `columns`: of the record, or found by a check before the record has them.
    """
    if isinstance(dataset.preview, TextPreview):
        named = dataset.preview.column
        return next((each for each in columns if each.name == named), None)
    whole = {each.name: each for each in columns if "int" in each.dtype and len(each.shape) == 1}
    found = [whole[name] for name in dataset.inputs if name in whole]
    return min(found, key=_is_beside, default=None)


def _is_beside(column: ColumnSpec) -> bool:
    return column.name in BESIDE or (column.maximum is not None and column.maximum <= 1)
