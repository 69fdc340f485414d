"""Workers of two versions at once: what the older can't do it leaves to the newer, untouched."""

from __future__ import annotations

import time

from tests.operation.conftest import Upgrading
from tests.patience import PATIENCE, until
from upweight.schema import JobState


def test_a_job_that_is_newer_than_its_worker_waits_for_a_newer_worker(
    upgrading: Upgrading,
) -> None:
    jobs = [upgrading.submit() for _ in range(3)]
    until(lambda: upgrading.log("older").count("left-to-newer-worker") >= 2 * len(jobs))
    waiting = [upgrading.client.jobs.get(id) for id in jobs]
    assert {(job.state, job.attempt) for job in waiting} == {(JobState.QUEUED, 0)}
    with upgrading.newer_worker() as newer:
        done = [upgrading.client.jobs.wait(id, timeout=PATIENCE, progress=False) for id in jobs]
    assert {(job.state, job.attempt) for job in done} == {(JobState.SUCCEEDED, 1)}
    assert {job.worker.split("-")[-2] for job in done if job.worker} == {str(newer.pid)}


def test_the_older_worker_does_not_spin_on_what_it_leaves(upgrading: Upgrading) -> None:
    before = upgrading.log("older").count("left-to-newer-worker")
    began = time.monotonic()
    id = upgrading.submit()
    time.sleep(2.5)
    passed = upgrading.log("older").count("left-to-newer-worker") - before
    seconds = time.monotonic() - began
    upgrading.client.jobs.cancel(id)
    assert passed <= 6 * seconds
