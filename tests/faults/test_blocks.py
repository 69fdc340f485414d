"""Blocks under fault: workers that die, cancelling, poison, deliveries twice, retries, and reading on the way."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from service.settings import Settings
from service.storage.queue import TaskQueue
from tests.faults.grids import CREEPING, GridJobs
from tests.faults.slow_jobs import NAMESPACE
from tests.faults.watched import PATIENCE
from upweight.errors import ResultNotReady
from upweight.schema import JobRecord, JobState

DIRECT: dict[str, Any] = {
    "inversion": {"method": "direct"},
    "keep": {"matrix": True, "top": 5, "mean": True},
}
EKFAC: dict[str, Any] = {
    **DIRECT,
    "curvature": {"kind": "empirical_fisher", "structure": "ekfac"},
}
JOBS = {"direct": DIRECT, "ekfac": EKFAC}
ENDLESS = {"inversion": {**CREEPING, "maxiter": 2**30}}
MANY = {"test_rows": 1, "train_rows": 4}


@pytest.fixture
def whole(grid: GridJobs) -> Iterator[GridJobs]:
    """With both workers there, before and after."""
    grid.service.wait_until_ready()
    yield grid
    grid.service.wait_until_ready()


@pytest.fixture(scope="module")
def calm(grid: GridJobs) -> dict[str, JobRecord]:
    """The same jobs in one task, by one of two workers that have had the model in hand for another kind of job.

    Whoever follows a killed one has not.
    """
    inside = {"influence_type": "perturbation", "perturb_at": "1"}
    assert grid.ended(grid.start(spread=True, **inside)).state is JobState.SUCCEEDED
    return {name: grid.ended(grid.start(spread=False, **job)) for name, job in JOBS.items()}


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        *(("direct", stage) for stage in ("sums", "solve", "contract", "finish")),
        *(("ekfac", stage) for stage in ("sums", "squares")),
    ],
)
def test_a_worker_killed_in_any_stage_leaves_the_bytes_as_they_are(
    whole: GridJobs, calm: dict[str, JobRecord], name: str, stage: str
) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:  # a stage may be over before its worker is known
        job = whole.start(spread=True, **JOBS[name])
        pid = whole.caught(job, stage)
        if pid:
            os.kill(pid, signal.SIGKILL)
        done = whole.ended(job)
        assert done.state is JobState.SUCCEEDED, done.problem
        whole.assert_same(job, calm[name])
        again = {block: times for block, times in whole.computed(job).items() if times > 1}
        assert list(again.values()) in ([], [2]), "only the block in hand is computed twice"
        if pid:
            return
    raise AssertionError(f"no block of {stage} was caught")


def test_a_cancelled_grid_frees_both_workers_and_leaves_nothing(whole: GridJobs) -> None:
    before = len(whole.shared())
    job = whole.start(spread=True, **ENDLESS)
    with whole.redis() as connection:
        tasks = TaskQueue(connection, Settings().queue_length)
        whole.caught(job, "solve")
        whole.service.wait(lambda: tasks.lengths()["default"] == 2, PATIENCE, "not both at work")
        whole.client.jobs.cancel(job)
        assert whole.ended(job).state is JobState.CANCELLED
        assert tasks.lengths()["default"] == 0
    assert whole.objects(job) == []
    assert len(whole.shared()) == before
    assert whole.ended(whole.start(spread=True)).state is JobState.SUCCEEDED


def test_a_cancelled_grid_can_be_begun_anew(whole: GridJobs) -> None:
    alone = whole.ended(whole.start(spread=False, inversion={**CREEPING, "maxiter": 400}))
    job = whole.start(spread=True, inversion={**CREEPING, "maxiter": 400})
    whole.caught(job, "solve")
    whole.client.jobs.cancel(job)
    assert whole.ended(job).state is JobState.CANCELLED
    whole.client.jobs.retry(job)
    whole.assert_same(whole.client.jobs.get(job.id), alone)


def test_a_block_that_ends_its_worker_each_time_fails_its_job_and_no_other(
    whole: GridJobs,
) -> None:
    job = whole.start(spread=True, blocks={"rhs_rows": 7}, **ENDLESS)
    killed: set[int] = set()
    while not whole.client.jobs.get(job.id).finished_at:
        pid = whole.caught(job, "solve")
        if pid and pid not in killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    done = whole.ended(job)
    assert done.state is JobState.FAILED
    assert done.problem is not None
    assert (done.problem.type, len(killed)) == ("worker-lost", 3)
    assert "block solve-0" in done.problem.detail
    assert whole.ended(whole.start(spread=True)).state is JobState.SUCCEEDED


def test_a_block_whose_numbers_fail_fails_the_job_with_that_problem(whole: GridJobs) -> None:
    job = whole.start(spread=True, inversion={"method": "lissa", "scale": 1e-3})
    done = whole.ended(job)
    assert done.state is JobState.FAILED
    assert done.problem is not None
    assert done.problem.errors[0].pointer == "/inversion/scale"


def test_blocks_delivered_twice_are_done_once(whole: GridJobs, calm: dict[str, JobRecord]) -> None:
    job = whole.start(spread=True, **DIRECT)
    whole.caught(job, "solve")
    with whole.redis() as connection:
        tasks = TaskQueue(connection, Settings().queue_length)
        doubled = [f"{stage}-{number}" for stage in ("solve", "contract") for number in range(4)]
        for first in (True, False):
            tasks.enqueue_blocks(NAMESPACE, job.id, [*doubled, "finish-0"], first=first)
        whole.assert_same(job, calm["direct"])
        whole.service.wait(lambda: not any(tasks.lengths().values()), PATIENCE, "not taken")
    assert max(whole.computed(job).values()) == 1


def finished_after_each_try(whole: GridJobs, job: JobRecord) -> list[int]:
    """Objects there after the first try at a job, and after each retry: until it succeeds, or comes no further."""
    done, found = whole.ended(job), [len(whole.objects(job))]
    while done.state is not JobState.SUCCEEDED:
        assert done.problem is not None
        assert done.problem.type == "timed-out"
        assert "a larger timeout_s" in done.problem.detail
        whole.client.jobs.retry(job)
        done = whole.ended(job)
        found.append(len(whole.objects(job)))
        assert found[-1] >= found[-2], "a retry has lost finished blocks"
        if found[-1] == found[-2]:
            break
    return found


@pytest.mark.timeout(300)
def test_a_job_that_is_out_of_time_goes_on_from_its_finished_blocks(whole: GridJobs) -> None:
    """Its limit is a part of what it takes in one task, however slow this machine is."""
    steps, share, deadline = 150, 4.0, time.monotonic() + 2 * PATIENCE
    while time.monotonic() < deadline:
        values = {
            "inversion": {**CREEPING, "maxiter": steps},
            "blocks": {"rhs_rows": 1, "test_rows": 12},
            "test": {"dataset": "grid-rows", "rows": "0:12"},
        }
        alone = whole.ended(whole.start(spread=False, **values))
        assert alone.started_at is not None
        assert alone.finished_at is not None
        seconds = (alone.finished_at - alone.started_at).total_seconds()
        limit = max(1, round(seconds / share))
        job = whole.start(spread=True, timeout_s=limit, **values)
        found = finished_after_each_try(whole, job)
        if whole.ended(job).state is not JobState.SUCCEEDED:
            share /= 2  # not enough for a single block
        elif len(found) == 1 and limit > 1:
            share *= 1.5  # too much
        elif len(found) == 1:
            steps *= 2  # too quick for a limit in seconds
        else:
            # What was in hand at the end of a try is begun again; nothing else is.
            computed = whole.computed(job)
            assert sum(computed.values()) - len(computed) <= 2 * (len(found) - 1)
            whole.assert_same(job, alone)
            return
    raise AssertionError("no limit let some blocks finish, and not all")


def npy_of(answer: httpx2.Response) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = np.load(io.BytesIO(answer.content), allow_pickle=False)
    return found


def test_finished_blocks_are_read_while_others_are_computed(whole: GridJobs) -> None:
    job = whole.start(spread=True, blocks=MANY)
    with httpx2.Client(base_url=whole.service.url, timeout=PATIENCE, trust_env=False) as http:
        path, npy = f"/v1/jobs/{job.id}/influences", {"Accept": "application/x-npy"}
        while (first := http.get(f"{path}?test=0&train=0:2", headers=npy)).status_code == 425:
            time.sleep(0.05)
        last = http.get(f"{path}?test=6&train=-1")
        assert first.status_code == 200, first.text
        assert (last.status_code, last.json()["type"]) == (425, "result-not-ready"), last.text
        assert int(last.headers["retry-after"]) >= 1
        assert "of 525 blocks" in last.json()["detail"]
        result = whole.client.jobs.result(job.id)
        assert np.array_equal(result.influences[0, :2], npy_of(first)[0])
        with pytest.raises(ResultNotReady, match="525 blocks"):
            result.influences[6]
        done = whole.ended(job)
        again = http.get(f"{path}?test=0&train=0:2", headers=npy)
    assert done.state is JobState.SUCCEEDED
    assert again.content == first.content


def test_fits_and_factors_are_found_again_by_other_jobs(whole: GridJobs) -> None:
    direct = {"inversion": {"method": "direct"}, "reuse": True, "hessian_regularization": 2.0}
    first = whole.ended(whole.start(spread=True, **direct))
    again = whole.ended(whole.start(spread=True, **direct))
    other_rows = whole.start(
        spread=True, **{**direct, "test": {"dataset": "grid-rows", "rows": "7:9"}}
    )
    alone = whole.start(spread=True, **{**direct, "reuse": False})
    stages = [
        {block.partition("-")[0] for block in whole.computed(each)}
        for each in (first, again, whole.ended(other_rows), whole.ended(alone))
    ]
    everything = {"sums", "fit", "solve", "contract", "predict"}
    assert stages == [
        everything, {"contract", "predict"}, {"solve", "contract", "predict"}, everything,
    ]  # fmt: skip
    assert again.cost is not None
    assert again.cost.hessian_passes == 0
    assert whole.digests(first) == whole.digests(again)


def test_a_fit_in_closed_form_serves_other_rows_lambdas_and_methods_without_a_pass(
    whole: GridJobs,
) -> None:
    given = {**EKFAC, "reuse": True, "hessian_regularization": 2.0}
    first = whole.ended(whole.start(spread=True, **given))
    assert first.cost is not None
    assert first.cost.hessian_passes == pytest.approx(2.0)
    others: list[dict[str, Any]] = [
        {"hessian_regularization": 3.0},
        {"hessian_regularization": [{"relative": 0.1}, 4.0]},
        {"test": {"dataset": "grid-rows", "rows": "7:9"}},
        {"inversion": {"method": "cg"}, "hessian_regularization": 5.0},
    ]
    everything = {"sums", "rotate", "squares", "fit", "solve", "contract", "predict"}
    assert {block.partition("-")[0] for block in whole.computed(first)} == everything
    for other in others:
        found = whole.ended(whole.start(spread=True, **{**given, **other}))
        assert found.state is JobState.SUCCEEDED, found.problem
        stages = {block.partition("-")[0] for block in whole.computed(found)}
        assert stages == {"solve", "contract", "predict"}
        assert found.cost is not None
        assert found.cost.hessian_passes == 0


def test_what_jobs_share_goes_with_the_last_of_them(whole: GridJobs) -> None:
    values = {"inversion": {"method": "direct"}, "reuse": True, "hessian_regularization": 3.0}
    keep = {"matrix": False, "factors": True}
    rows = {"dataset": "grid-rows", "rows": "3:8"}
    jobs = [whole.ended(whole.start(spread=True, test=rows, keep=keep, **values)) for _ in range(2)]
    assert jobs[0].shared == jobs[1].shared
    assert len(jobs[0].shared) == 2, "the fit, which is that of any λ, and the factors"
    digest = jobs[0].shared[1].partition("-")[0]

    def kept() -> list[Path]:
        return [path for path in whole.shared() if digest in str(path)]

    factors = whole.client.jobs.result(jobs[1].id).factors.numpy()
    whole.client.jobs.delete(jobs[0].id)
    assert np.array_equal(whole.client.jobs.result(jobs[1].id).factors.numpy(), factors)
    assert kept()
    whole.client.jobs.delete(jobs[1].id)
    assert not kept()
    third = whole.ended(whole.start(spread=True, test=rows, keep=keep, **values))
    assert np.array_equal(whole.client.jobs.result(third.id).factors.numpy(), factors)
    assert third.shared[1] != jobs[0].shared[1]
