"""Which column of a dataset has its tokens."""

from __future__ import annotations

from typing import Any

import pytest

from service.datasets.tokens import token_column
from tests.service.acting import Acting
from upweight.schema import DatasetRecord

KINDS: dict[str, dict[str, Any]] = {
    "attention_mask": {"dtype": "int64", "shape": [6], "maximum": 1.0},
    "input_ids": {"dtype": "int64", "shape": [6], "maximum": 40.0},
    "other_ids": {"dtype": "int64", "shape": [6], "maximum": 50.0},
    "seen": {"dtype": "uint8", "shape": [6], "maximum": 1.0},
    "token_type_ids": {"dtype": "int64", "shape": [6], "maximum": 2.0},
    "x": {"dtype": "float32", "shape": [6], "maximum": 9.0},
}
LABELS = {"name": "y", "dtype": "int64", "shape": []}


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        (["input_ids", "attention_mask"], "input_ids"),
        (["attention_mask", "token_type_ids", "x", "input_ids"], "input_ids"),
        (["seen", "input_ids"], "input_ids"),
        (["other_ids", "input_ids"], "other_ids"),
        (["seen"], "seen"),
        (["x"], None),
    ],
)
def test_tokens_are_the_first_input_that_is_not_beside_them(
    acting: Acting, inputs: list[str], found: str | None
) -> None:
    """Whatever the order of the file's columns, which has them by name."""
    columns = [{"name": name, **kind} for name, kind in KINDS.items()]
    made = acting.dataset(request={"inputs": inputs}, columns=[*columns, LABELS])
    record = DatasetRecord.model_validate(made)
    column = token_column(record, record.columns)
    assert (None if column is None else column.name) == found
