"""Ranks of suspects: stated as a share of the rows, whatever numbers there are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.results.suspects import ranked
from tests.service.acting import Acting, problem

NUMBERS = st.lists(st.floats(-3, 3) | st.sampled_from([0.0, 1.0, np.nan, np.inf]), max_size=30)


@given(NUMBERS)
def test_scores_grow_with_the_influence_and_equal_ones_are_alike(numbers: list[float]) -> None:
    values = np.array(numbers, np.float64)
    order, scores = ranked(values)
    assert sorted(order) == np.flatnonzero(np.isfinite(values)).tolist()
    assert ((scores > 0) & (scores < 1)).all()
    found = values[order]
    assert (np.sign(np.diff(scores)) == np.sign(np.diff(found))).all()
    if len(order):
        np.testing.assert_allclose(scores.mean(), 0.5)


def test_what_ranks_no_rows_says_what_does(ready: Acting) -> None:
    job = ready.job(hessian_regularization=0.1, keep={"matrix": False, "top": 3})["id"]
    ready.succeed(job, factors=np.ones((10, 3)))
    answer = ready.client.get(f"/v1/jobs/{job}/suspects")
    assert "keep.mean or keep.matrix" in problem(answer, 404, "not-stored")["detail"]
