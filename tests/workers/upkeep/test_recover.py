"""What recovery takes for lost: what a worker lets go of while it is looked at is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from service.storage.queue import PRIORITIES
from upweight.schema import JobState
from workers.jobs.tasks import lease_of
from workers.process.context import Context
from workers.upkeep.recover import Recovery

NAMESPACE, ID, WORKER = "default", "job_01ARZ3NDEKTSV4RRFFQ69G5FAV", "at-work"
PLAN = {"stages": {"solve": 2, "finish": 1}}
JOB = {
    "id": ID,
    "state": "queued",
    "attempt": 0,
    "request": {"kind": "influences", "priority": "default", "inversion": {"method": "cg"}},
    "model_id": "m",
    "labels": {},
    "created_at": "2026-01-01T00:00:00+00:00",
    "finished_at": None,
}


@pytest.fixture
def context(context: Context) -> Context:
    """The parts of a worker that recovers, and a job that another has begun."""
    context.records.create("job", NAMESPACE, JOB)
    assert context.leases.take(ID, WORKER)
    assert context.lifecycle.begin(NAMESPACE, ID, WORKER, "cpu")
    return context


def when_looked_for(
    context: Context, monkeypatch: pytest.MonkeyPatch, lease: str, happens: Callable[[], Any]
) -> None:
    """Something happens right before it is looked up whether a lease is held, the first time."""
    held, left = context.leases.held, [happens]

    def look(id: str) -> bool:
        if id == lease and left:
            left.pop()()
        return held(id)

    monkeypatch.setattr(context.leases, "held", look)


def test_a_job_whose_worker_is_silent_goes_back_to_its_queue(context: Context) -> None:
    context.leases.release(ID, WORKER)
    Recovery(context).sweep()
    job = context.records.get("job", NAMESPACE, ID)
    assert (job["state"], job["lost"]) == (JobState.QUEUED, 1)
    assert context.queue.position(ID, 1, "default") == 0


def test_a_job_that_is_cut_into_blocks_while_it_is_looked_at_goes_on_in_its_attempt(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut() -> None:
        context.lifecycle.planned(NAMESPACE, ID, 1, PLAN, [])
        context.queue.enqueue_blocks(NAMESPACE, ID, ["solve-0", "solve-1"])
        context.leases.release(ID, WORKER)

    when_looked_for(context, monkeypatch, ID, cut)
    Recovery(context).sweep()
    job = context.records.get("job", NAMESPACE, ID)
    assert (job["state"], job["attempt"], job.get("lost", 0)) == (JobState.RUNNING, 1, 0)
    assert job["plan"] == PLAN
    assert context.queue.lengths() == {**dict.fromkeys(PRIORITIES, 0), "default": 2}


def test_a_block_that_is_left_while_it_is_looked_at_is_not_lost(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where it was the last of its job: nothing of that comes back."""
    block = "finish-0"
    context.lifecycle.planned(NAMESPACE, ID, 1, PLAN, [])
    context.leases.release(ID, WORKER)
    context.grids.open(ID)
    context.grids.mark(ID, "solve", range(2))
    assert context.leases.take(lease_of(ID, block), WORKER)
    context.grids.enter(ID, block)

    def finish() -> None:
        context.lifecycle.succeed(NAMESPACE, ID, 1, {})
        context.grids.close(ID)
        context.grids.leave(ID, block)
        context.leases.release(lease_of(ID, block), WORKER)

    when_looked_for(context, monkeypatch, lease_of(ID, block), finish)
    Recovery(context).sweep()
    assert context.records.get("job", NAMESPACE, ID)["state"] == JobState.SUCCEEDED
    assert not any(context.queue.lengths().values())
    assert not list(context.redis.scan_iter(f"*:grid:{ID}*"))
