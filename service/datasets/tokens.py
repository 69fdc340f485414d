"""Which column of a dataset has the tokens of its texts."""

from __future__ import annotations

from collections.abc import Sequence

from upweight.schema import ColumnSpec, DatasetRecord, TextPreview


def token_column(dataset: DatasetRecord, columns: Sequence[ColumnSpec]) -> ColumnSpec | None:
    """That of a preview of text, else the first input that can be one; None where none can.

    `columns`: of the record, or found by a check before the record has them.
    """
    named = dataset.preview.column if isinstance(dataset.preview, TextPreview) else None
    for each in columns:
        whole = "int" in each.dtype and len(each.shape) == 1
        if each.name == named or (named is None and whole and each.name in dataset.inputs):
            return each
    return None
