"""What blocks leave is merged exactly: rankings, means and summaries do not depend on how a job was cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.storage.cuts import Cut
from service.storage.layout import ResultPaths
from service.storage.objects import Objects
from upweight.errors import ComputationFailed
from workers.jobs.merge import Ranking, mean_of, merged_summary
from workers.jobs.results import ResultWriter

COLUMNS = 12
Values = list[list[int]]
MATRICES = st.lists(
    st.lists(st.integers(-3, 3), min_size=COLUMNS, max_size=COLUMNS), min_size=1, max_size=6
)


def ranked(block: torch.Tensor, start: int, k: int) -> dict[str, torch.Tensor]:
    ranking = Ranking(k)
    ranking.add(start, block)
    return ranking.tensors()


@settings(max_examples=60, deadline=None)
@given(values=MATRICES, k=st.integers(1, 14), cuts=st.sets(st.integers(1, COLUMNS - 1)))
def test_rankings_do_not_depend_on_blocks_and_ties_go_to_the_lower_column(
    values: Values, k: int, cuts: set[int]
) -> None:
    matrix = torch.tensor(values, dtype=torch.float32)
    at_once, merged = Ranking(k), Ranking(k)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), COLUMNS], strict=True):
        at_once.add(start, matrix[:, start:stop])
        merged.add_ranked(ranked(matrix[:, start:stop], start, k))
    for found in (at_once.tensors(), merged.tensors()):
        for row, numbers in enumerate(values):
            for name, sign in (("helpful", -1), ("harmful", 1)):
                columns = found[f"{name}_columns"][row].tolist()
                expected = sorted(range(COLUMNS), key=lambda c: (sign * numbers[c], c))[:k]
                assert columns == expected
                assert found[f"{name}_values"][row].tolist() == [numbers[c] for c in expected]


@pytest.mark.parametrize("order", ["random", "rising", "equal"])
def test_long_rows_are_ranked_as_if_sorted_at_once(order: str) -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(-500, 500, (4, 3000)).astype("f4")
    if order == "rising":
        values.sort(axis=1)
    elif order == "equal":
        values[1:3] = 7
    ranking = Ranking(9)
    for start in range(0, 3000, 700):
        ranking.add(start, torch.from_numpy(values[:, start : start + 700]))
    for name, sign in (("helpful", -1), ("harmful", 1)):
        expected = np.argsort(sign * values, axis=1, kind="stable")[:, :9]
        assert np.array_equal(ranking.tensors()[f"{name}_columns"].numpy(), expected)


def test_nan_among_later_columns_is_not_passed_over() -> None:
    ranking = Ranking(2)
    ranking.add(0, torch.arange(12.0).reshape(2, 6))
    ranking.add(6, torch.tensor([[0.0, 0.0], [float("nan"), 0.0]]))
    assert ranking.tensors()["helpful_values"].isnan().any()


@settings(max_examples=60, deadline=None)
@given(values=MATRICES, rows=st.integers(1, 6), columns=st.integers(1, COLUMNS))
def test_means_of_blocks_are_the_means_of_the_whole(
    values: Values, rows: int, columns: int
) -> None:
    """Small whole numbers: their sums have no rounding, so that every bit must agree."""
    matrix = torch.tensor(values, dtype=torch.float32)
    parts = [
        mean_of(
            (
                matrix[test, train].sum(0, dtype=torch.float64)
                for test in Cut(len(values), rows).blocks()
            ),
            len(values),
            torch.float32,
        )
        for train in Cut(COLUMNS, columns).blocks()
    ]
    expected = matrix.mean(0, dtype=torch.float64).to(torch.float32)
    assert torch.equal(torch.cat(parts), expected)


def test_summaries_of_blocks_become_one() -> None:
    blocks: list[dict[str, Any]] = [
        {
            "right_hand_sides": 3, "statuses": {"converged": 3}, "worst_residual_norm": 0.1,
            "iterations": 7, "passes": 8, "converged": True, "recurrence": "shared",
            "mean_change_percent": 1.0,
        },
        {
            "right_hand_sides": 1, "statuses": {"maxiter": 1}, "worst_residual_norm": 0.5,
            "iterations": 5, "passes": 6, "converged": False, "recurrence": "shared",
            "mean_change_percent": 5.0,
        },
    ]  # fmt: skip
    assert merged_summary(blocks) == {
        "right_hand_sides": 4, "statuses": {"converged": 3, "maxiter": 1},
        "worst_residual_norm": 0.5, "iterations": 7, "passes": 14, "converged": False,
        "recurrence": "shared", "mean_change_percent": 2.0,
    }  # fmt: skip


def test_a_result_with_nan_is_never_stored(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    writer = ResultWriter(objects, ResultPaths("ns", "job_x"))
    broken = np.array([[1.0, np.nan]])
    with pytest.raises(ComputationFailed, match="NaN"):
        writer.tensors(f"{writer.paths.factors}/0.safetensors", {"factors": broken})
    assert list(objects.walk("")) == []
