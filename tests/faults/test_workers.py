"""Workers that die, stop or stall: no job is lost, none runs to its end twice, and the device comes free."""

from __future__ import annotations

import os
import signal

import pytest

from service.local.state import State
from service.storage.queue import RUN_JOB
from tests.faults.slow_jobs import NAMESPACE, SlowJobs, worker_pid
from tests.faults.watched import PATIENCE
from upweight.schema import JobRecord, JobState

STEPS = 1_500  # a second or two
ENDLESS = 2**30


@pytest.fixture(scope="module")
def calm(prepared: SlowJobs) -> bytes:
    """What the job gives when nothing happens to it."""
    return prepared.matrix(prepared.ended(prepared.start(STEPS)))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_that_was_only_slow_changes_nothing(slow: SlowJobs, calm: bytes) -> None:
    """It stands still until another has done its job, and then goes on."""
    job = slow.start(STEPS)
    pid = worker_pid(slow.begun(job))
    os.kill(pid, signal.SIGSTOP)
    try:
        done = slow.ended(job)
        written = {path: path.stat().st_mtime_ns for path in slow.objects(job)}
    finally:
        os.kill(pid, signal.SIGCONT)
    # It takes jobs again, as soon as it has heard that it lost this one.
    slow.service.wait(
        lambda: pid in {worker_pid(slow.ended(slow.start())) for _ in range(2)},
        PATIENCE,
        "it took no job",
    )
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 2)
    assert worker_pid(done) != pid
    assert slow.client.jobs.get(job.id) == done
    assert {path: path.stat().st_mtime_ns for path in slow.objects(job)} == written
    assert slow.matrix(done) == calm


def test_a_worker_that_was_only_slow_clears_away_what_it_wrote_after_its_jobs_end(
    slow: SlowJobs,
) -> None:
    job = slow.start(ENDLESS)
    pid = worker_pid(slow.begun(job))
    os.kill(pid, signal.SIGSTOP)
    try:
        slow.client.jobs.cancel(job)
        assert slow.ended(job).state is JobState.CANCELLED
        done = slow.ended(slow.start())  # by the other, whose recovery has cleared away by then
        assert done.state is JobState.SUCCEEDED
        slow.leave_half(job)  # as if it had stood still in the middle of a write
    finally:
        os.kill(pid, signal.SIGCONT)
    slow.service.wait(lambda: not slow.objects(job), PATIENCE, "its objects were not deleted")


def test_a_job_whose_worker_is_killed_ends_with_the_same_bytes(slow: SlowJobs, calm: bytes) -> None:
    job = slow.start(STEPS)
    first = slow.begun(job)
    slow.leave_half(job)
    os.kill(worker_pid(first), signal.SIGKILL)
    done = slow.ended(job)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 2)
    assert done.worker != first.worker
    assert slow.matrix(done) == calm


def test_a_worker_that_is_told_to_stop_gives_its_job_back(slow: SlowJobs, calm: bytes) -> None:
    job = slow.start(STEPS)
    first = slow.begun(job)
    pid = worker_pid(first)
    os.kill(pid, signal.SIGTERM)
    slow.service.wait(lambda: not alive(pid), PATIENCE, "the worker did not stop")
    done = slow.ended(job)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 2)
    assert slow.matrix(done) == calm


def test_a_job_that_kills_its_worker_each_time_fails_while_others_go_on(slow: SlowJobs) -> None:
    poison = slow.start(ENDLESS)
    others: list[JobRecord] = []
    for attempt in (1, 2, 3):
        victim = worker_pid(slow.begun(poison, attempt))
        slow.leave_half(poison)
        os.kill(victim, signal.SIGKILL)
        others.append(slow.start())
    done = slow.ended(poison)
    assert (done.state, done.attempt) == (JobState.FAILED, 3)
    assert done.problem is not None
    assert (done.problem.type, done.problem.status) == ("worker-lost", 500)
    assert "use fewer rows, a smaller batch_size or another method" in done.problem.detail
    slow.service.wait(lambda: not slow.objects(poison), PATIENCE, "its objects were not deleted")
    assert {slow.ended(other).state for other in others} == {JobState.SUCCEEDED}


def test_a_task_that_its_worker_took_and_lost_at_once_is_done(slow: SlowJobs) -> None:
    """As when a worker dies between taking a task from its queue and telling so."""
    busy = [slow.start(ENDLESS), slow.start(ENDLESS)]
    for each in busy:
        slow.begun(each)
    job = slow.start()
    with slow.tasks() as tasks:
        tasks.remove(job.id, 0, "default")
    for each in busy:
        slow.client.jobs.cancel(each)
    assert slow.ended(job).state is JobState.SUCCEEDED


def test_a_cancelled_job_frees_its_worker_at_once_and_leaves_nothing(slow: SlowJobs) -> None:
    running = [slow.start(ENDLESS) for _ in range(2)]
    for each in running:
        slow.begun(each)
        slow.leave_half(each)
    waiting = slow.start()
    slow.client.jobs.cancel(running[0])
    cancelled = slow.ended(running[0])
    assert cancelled.state is JobState.CANCELLED
    assert slow.ended(waiting).worker == slow.client.jobs.get(running[0].id).worker
    slow.client.jobs.cancel(running[1])
    assert slow.ended(running[1]).state is JobState.CANCELLED
    assert slow.objects(running[0]) == slow.objects(running[1]) == []


def test_a_job_that_is_cancelled_while_it_waits_is_never_begun_until_retried(
    slow: SlowJobs,
) -> None:
    running = [slow.start(ENDLESS) for _ in range(2)]
    for each in running:
        slow.begun(each)
    first, second = slow.start(), slow.start()
    assert [slow.client.jobs.get(each.id).queue_position for each in (first, second)] == [0, 1]
    assert slow.client.jobs.cancel(first).state is JobState.CANCELLED
    assert slow.client.jobs.get(second.id).queue_position == 0
    for each in running:
        slow.client.jobs.cancel(each)
    assert slow.ended(second).state is JobState.SUCCEEDED
    untouched = slow.client.jobs.get(first.id)
    assert (untouched.state, untouched.attempt) == (JobState.CANCELLED, 0)
    slow.client.jobs.retry(first)
    again = slow.ended(first)
    assert (again.state, again.attempt) == (JobState.SUCCEEDED, 1)


def test_a_task_that_is_delivered_twice_is_done_once(slow: SlowJobs) -> None:
    """The other worker gets the second while the first is at work; and a third comes when all is over."""
    job = slow.start(STEPS)
    slow.begun(job)
    with slow.tasks() as tasks:
        tasks.enqueue(RUN_JOB, NAMESPACE, job.id, attempt=98)
        slow.service.wait(lambda: not any(tasks.lengths().values()), PATIENCE, "it was not taken")
        done = slow.ended(job)
        written = {path: path.stat().st_mtime_ns for path in slow.objects(job)}
        tasks.enqueue(RUN_JOB, NAMESPACE, job.id, attempt=99)
        slow.service.wait(lambda: not any(tasks.lengths().values()), PATIENCE, "it was not taken")
    assert slow.ended(slow.start()).state is JobState.SUCCEEDED
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 1)
    assert slow.client.jobs.get(job.id) == done
    assert written
    assert {path: path.stat().st_mtime_ns for path in slow.objects(job)} == written


def test_a_job_that_is_cancelled_as_its_worker_dies_leaves_nothing(slow: SlowJobs) -> None:
    job = slow.start(ENDLESS)
    pid = worker_pid(slow.begun(job))
    slow.leave_half(job)
    os.kill(pid, signal.SIGSTOP)  # so that it cannot obey before it dies
    slow.client.jobs.cancel(job)
    os.kill(pid, signal.SIGKILL)
    assert slow.ended(job).state is JobState.CANCELLED
    slow.service.wait(lambda: not slow.objects(job), PATIENCE, "its objects were not deleted")


def test_a_job_whose_time_is_up_fails_and_says_what_to_change(slow: SlowJobs) -> None:
    job = slow.start(ENDLESS, timeout_s=1)
    slow.leave_half(job)
    done = slow.ended(job)
    assert done.state is JobState.FAILED
    assert done.problem is not None
    assert (done.problem.type, done.problem.status) == ("timed-out", 408)
    assert "give a larger timeout_s" in done.problem.detail
    assert slow.objects(job) == []


def test_what_was_killed_has_been_started_again(slow: SlowJobs) -> None:
    state = State.read(slow.service.data)
    slow.service.wait(
        lambda: all(alive(pid) for pid in slow.service.state().pids.values()),
        PATIENCE,
        "not started",
    )
    assert set(state.pids) == {"redis", "front", "worker-1", "worker-2"}
