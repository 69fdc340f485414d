"""Redis loses everything in the middle of work, and is rebuilt from the object storage by the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import redis

from tests.faults.grids import GridJobs
from tests.faults.slow_jobs import SlowJobs
from tests.faults.watched import PATIENCE
from upweight.schema import JobRecord, JobState

STEPS = 300
LONG = 6_000  # some seconds, so that it is under way when all is lost
WHOLE = {"spread": False}  # in one task
UNDER_WAY = (JobState.QUEUED, JobState.RUNNING)


def reindexed(slow: SlowJobs) -> dict[str, Any]:
    """What `upweight reindex` says of the running service."""
    command = [sys.executable, "-m", "upweight.cli", "reindex", "--json"]
    command += ["--data-dir", str(slow.service.data)]
    unset = ("REDIS_URL", "UPWEIGHT_REDIS_URL", "UPWEIGHT_STORAGE")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    ended = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    said: dict[str, Any] = json.loads(ended.stdout)
    return said


def settled(slow: SlowJobs) -> None:
    """Until every change of a record has been copied."""
    with redis.Redis.from_url(slow.service.redis_url) as client:
        slow.service.wait(lambda: not client.exists("upweight:unsaved"), PATIENCE, "not copied")


def test_redis_emptied_in_the_middle_of_work_is_rebuilt_and_all_jobs_end(slow: SlowJobs) -> None:
    done = slow.ended(slow.start(STEPS, blocks=WHOLE))
    calm = slow.matrix(done)
    cancelled = slow.start(2**30, blocks=WHOLE)
    slow.begun(cancelled)
    slow.client.jobs.cancel(cancelled.id)
    slow.ended(cancelled)
    settled(slow)
    before = {model.id for model in slow.client.models.list()}
    running = [slow.start(LONG, blocks=WHOLE) for _ in range(2)]
    for each in running:
        slow.begun(each)
    queued = [slow.start(STEPS, blocks=WHOLE, priority=name) for name in ("low", "default", "high")]
    with redis.Redis.from_url(slow.service.redis_url) as client:
        client.flushall()
    with_nothing = list(slow.client.jobs.list())
    time.sleep(1.5)  # workers, whose recovery sweeps every second here, see that nothing is there
    rebuilt = reindexed(slow)

    assert with_nothing == []
    assert (rebuilt["queued"], rebuilt["unreadable"]) == (5, [])
    assert {model.id for model in slow.client.models.list()} == before
    ended = [slow.ended(job) for job in (*running, *queued)]
    assert {job.state for job in ended} == {JobState.SUCCEEDED}
    assert len({slow.matrix(job) for job in ended[:2]}) == 1
    assert {slow.matrix(job) for job in ended[2:]} == {calm}
    assert slow.matrix(done) == calm
    assert slow.client.jobs.get(cancelled.id).state is JobState.CANCELLED
    assert slow.client.jobs.get(done.id).finished_at == done.finished_at


def test_a_job_is_known_to_the_object_storage_before_its_answer_is(slow: SlowJobs) -> None:
    """Redis is lost at the very moment of the answer, again and again."""
    accepted: list[JobRecord] = []
    for _ in range(2):
        accepted.append(slow.start())
        with redis.Redis.from_url(slow.service.redis_url) as client:
            client.flushall()
        reindexed(slow)
    for job in accepted:
        assert slow.ended(job).state is JobState.SUCCEEDED


def test_a_job_in_blocks_goes_on_from_those_that_are_done(slow: SlowJobs, grid: GridJobs) -> None:
    calm = grid.ended(grid.start(spread=True))
    settled(slow)
    jobs = [grid.start(spread=True) for _ in range(3)]
    grid.seen(jobs[0], lambda job: job.stage == "contract" or job.finished_at is not None)
    with redis.Redis.from_url(slow.service.redis_url) as client:
        client.flushall()
    reindexed(slow)
    for job in jobs:
        grid.assert_same(job, calm)
