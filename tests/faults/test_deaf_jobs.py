"""A cancelled job in the middle of a call that can't be interrupted: the worker's program is replaced."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from service.local.background import Running
from tests.faults.slow_jobs import SlowJobs, worker_pid
from tests.faults.watched import PATIENCE
from upweight import Client
from upweight.schema import Direct, JobRecord, JobState

SIZE = 7_200  # all eigenvalues of such a Hessian take a core half a minute, in one call


@pytest.fixture(scope="module")
def deaf(fragile: Running) -> Iterator[SlowJobs]:
    """Slow jobs, and a model whose Hessian is large."""
    with Client(fragile.url) as client:
        slow = SlowJobs(fragile, client)
        torch.manual_seed(0)
        x = torch.randn(60, SIZE // 8 - 1)
        network = nn.Linear(x.shape[1], 8).eval()
        client.models.register("wide", network, example=x[:2], loss="cross_entropy")
        client.datasets.register("wide-rows", x=x, y=torch.randint(0, 8, (60,)))
        yield slow


def factorising(slow: SlowJobs, spread: bool) -> JobRecord:
    """A job that is in the middle of its eigenvalues."""
    job = slow.client.compute_influences(
        "wide", "wide-rows", "wide-rows", test_rows="0:2", inversion_method=Direct(spectrum="all"),
        hessian_regularization=1.0, wait=False, blocks={"spread": spread},
    ).job  # fmt: skip

    def at_it(record: JobRecord) -> bool:
        told = record.stage == "factorise" or (spread and record.stage == "fit")
        return told or record.finished_at is not None

    return slow.seen(job, at_it)


def cut_off(slow: SlowJobs, job: JobRecord) -> bool:
    """Whether a worker replaced its program to end this job, and did not end the job's tasks, once either is so."""

    def told(event: str) -> int:
        lines = (Path(slow.service.data) / "log").read_text().splitlines()
        return sum(f'"{event}"' in line and job.id in line for line in lines)

    slow.service.wait(
        lambda: told("worker-begins-anew") > 0 or told("task-ended") == told("task-began"),
        PATIENCE,
        "the call goes on",
    )
    return told("worker-begins-anew") > 0


@pytest.mark.parametrize("spread", [False, True])
def test_it_is_cancelled_without_waiting_for_the_calls_end(deaf: SlowJobs, spread: bool) -> None:
    deadline = time.monotonic() + PATIENCE
    was_cut_off = False
    while not was_cut_off and time.monotonic() < deadline:  # it may be cancelled before the call
        job = factorising(deaf, spread)
        assert job.state is JobState.RUNNING
        time.sleep(1.5)  # into the call itself
        before = deaf.service.state().pids
        deaf.client.jobs.cancel(job)
        done = deaf.ended(job)
        assert done.state is JobState.CANCELLED
        assert deaf.objects(job) == []
        was_cut_off = cut_off(deaf, job)
        # The program was replaced in its place: no supervisor had to start another.
        assert deaf.service.state().pids == before
        assert worker_pid(done) in before.values()
    assert was_cut_off, "no call was cut off"


def test_both_workers_go_on_and_the_job_can_be_tried_again(deaf: SlowJobs) -> None:
    job = factorising(deaf, False)
    deaf.client.jobs.cancel(job)
    assert deaf.ended(job).state is JobState.CANCELLED
    deaf.client.jobs.retry(job)
    others = [deaf.start() for _ in range(6)]
    assert {deaf.ended(each).state for each in others} == {JobState.SUCCEEDED}
    deaf.seen(job, lambda record: record.stage == "factorise")
    deaf.client.jobs.cancel(job)
    assert deaf.ended(job).state is JobState.CANCELLED
