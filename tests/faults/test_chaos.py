"""The chaotic run, short: what an hour of it must give, less than a minute must give too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.chaos.run import run
from tests.s3_server import S3Server

SECONDS = 40.0  # or until each kind of fault has come
JOB_SECONDS = 2.0  # so that the tests beside it have some of the machine


@pytest.mark.timeout(SECONDS + 600)
def test_whatever_is_killed_or_cut_each_job_ends_with_the_bytes_of_a_calm_run(
    tmp_path: Path, s3: S3Server
) -> None:
    report = run(tmp_path, SECONDS, 3, s3, evidence=tmp_path / "evidence", job_seconds=JOB_SECONDS)
    assert report.losses == [], report.as_dict()
    assert report.compared > 0
