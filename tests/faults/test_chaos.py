"""The chaotic run, short: what an hour of it must give, half a minute must give too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.chaos.run import run

SECONDS = 30.0


@pytest.mark.timeout(540)
def test_whatever_is_killed_each_job_ends_with_the_bytes_of_a_calm_run(tmp_path: Path) -> None:
    report = run(tmp_path, SECONDS, seed=3, evidence=tmp_path / "evidence")
    assert report.losses == [], report.as_dict()
    assert report.compared > 0
