"""What the processes of one machine are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.local.plan import Plan, side_by_side, threads_each


def test_workers_share_the_cores_and_sleep_while_they_wait_for_each_other(tmp_path: Path) -> None:
    told = Plan(tmp_path, workers=2).environment({"HOME": "/home"}, "redis://here")
    assert told["UPWEIGHT_THREADS"] == str(threads_each(2))
    assert told["OMP_WAIT_POLICY"] == "passive"
    assert told["HOME"] == "/home"


def test_a_worker_that_is_alone_is_told_neither() -> None:
    assert side_by_side({}, 1).keys() == {"PYTHONUNBUFFERED"}


@pytest.mark.parametrize("set_already", [{"OMP_WAIT_POLICY": "active"}, {"UPWEIGHT_THREADS": "7"}])
def test_what_is_set_already_stays(set_already: dict[str, str]) -> None:
    assert side_by_side(set_already, 2) | set_already == side_by_side(set_already, 2)
