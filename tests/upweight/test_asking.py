"""Questions to an index before they are sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from upweight.errors import InvalidRequest
from upweight.results.asking import asked

X, Y = np.zeros((64, 5)), np.zeros(100, np.int64)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"columns": {"x": X, "y": Y}}, "'x' has 64, 'y' has 100"),
        ({"columns": {"x": X.tolist(), "y": Y.tolist()}}, "'x' has 64, 'y' has 100"),
        ({"columns": {"y": Y}, "text": ["the cat"] * 64}, "'text' has 64, 'y' has 100"),
    ],
)
def test_rows_that_are_too_many_of_one_column_are_not_left_out(
    given: dict[str, Any], words: str
) -> None:
    """64 of each fit into the one request that the first column fills."""
    columns = given.pop("columns")
    with pytest.raises(InvalidRequest, match=f"different numbers of rows: {words}"):
        next(asked("job_1", columns, k=2, candidates=0, model=None, **given))
