"""A job in one task whose worker is killed at each of its stages: the bytes are as without it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults.dying_worker import POINTS, dying_at, wait_until_dead
from tests.faults.grids import GridJobs
from tests.faults.other_threads import THREADS, another_worker
from upweight.schema import JobRecord, JobState

DIRECT: dict[str, Any] = {
    "inversion": {"method": "direct"},
    "keep": {"matrix": True, "top": 5, "mean": True, "factors": True},
}
# Two deaths a job: a third would fail it.
TOGETHER = [POINTS[0:2], POINTS[2:4], POINTS[4:6], POINTS[6:]]


@pytest.fixture(scope="module")
def calm(grid: GridJobs) -> JobRecord:
    """The job when nothing happens to it."""
    return grid.ended(grid.start(spread=False, **DIRECT))


@pytest.mark.parametrize("points", TOGETHER, ids="-".join)
def test_a_worker_killed_at_any_stage_leaves_the_bytes_as_they_are(
    grid: GridJobs, calm: JobRecord, points: Sequence[str]
) -> None:
    grid.service.wait_until_ready()
    with dying_at(grid.service, points) as workers:
        job = grid.start(spread=False, **DIRECT)
        wait_until_dead(workers)
    done = grid.ended(job, 120)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, len(points) + 1), done.problem
    grid.assert_same(job, calm)


def test_the_next_worker_computes_with_as_many_threads_as_the_first(
    grid: GridJobs, tmp_path: Path
) -> None:
    """By direct: a factorisation by more threads has other last bits."""
    with dying_at(grid.service, ["storing"], threads=THREADS) as workers:
        job = grid.start(spread=False, **DIRECT)
        wait_until_dead(workers)
    assert grid.ended(job, 120).attempt == 2
    with dying_at(grid.service, []), another_worker(grid.service, tmp_path / "log"):
        calm = grid.ended(grid.start(spread=False, **DIRECT), 120)
    grid.assert_same(job, calm)
