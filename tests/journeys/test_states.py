"""A job's life as its user sees it: events, waiting, lists, repeats, retries, deletion."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from service.storage.layout import ResultPaths
from service.storage.objects import Objects
from tests.journeys.subjects import Subject
from tests.patience import ended
from upweight import Client, JobCancelled, errors
from upweight.schema import JobRecord, JobState, Lissa

# Each step is over other rows, and the scale far too large, so that it creeps.
ENDLESS = {
    "inversion_method": Lissa(scale=1e7, rtol=1e-15, maxiter=2**30, batch_size=50),
    "blocks": {"spread": False},
}


def started(online: Client, subject: Subject, **values: Any) -> JobRecord:
    values = {"hessian_regularization": subject.damping, "wait": False, **values}
    return online.compute_influences(*subject.names, **values).job


def events(
    http: httpx2.Client, job: JobRecord, after: int | None = None
) -> list[tuple[int, dict[str, Any]]]:
    """(id, record) of each event until the stream ends."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    found = []
    with http.stream("GET", f"/v1/jobs/{job.id}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = "".join(answer.iter_text())
    for block in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if line[:1] not in ("", ":")
        )
        if fields:
            assert fields["event"] == "job"
            found.append((int(fields["id"]), json.loads(fields["data"])))
    return found


def test_events_tell_the_states_in_order_and_go_on_where_one_left_off(
    online: Client, http: httpx2.Client, iris: Subject
) -> None:
    busy = started(online, iris, **ENDLESS)
    job = started(online, iris)
    seen: list[JobRecord] = []
    for record in online.jobs.events(job):
        seen.append(record)
        if record.state is JobState.QUEUED:
            online.jobs.cancel(busy)
    states = [record.state for record in seen]
    order = [JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED]
    assert states == sorted(states, key=order.index)
    assert states[0] is JobState.QUEUED
    assert states[-1] is JobState.SUCCEEDED
    revisions = [record.revision for record in seen]
    assert revisions == sorted(revisions)
    resumed = events(http, job, after=revisions[0])
    assert resumed[-1][1]["state"] == "succeeded"
    assert all(number > revisions[0] for number, _ in resumed)


def test_a_stream_of_events_sees_the_job_begin(online: Client, iris: Subject) -> None:
    job = started(online, iris, **ENDLESS)
    seen = []
    for record in online.jobs.events(job):
        seen.append(record.state)
        if record.state is JobState.RUNNING and record.progress is not None:
            assert record.progress.total >= record.progress.done
            online.jobs.cancel(job)
    assert seen[-1] is JobState.CANCELLED
    assert JobState.RUNNING in seen


def test_whoever_has_seen_the_end_is_told_that_there_is_no_more(
    online: Client, http: httpx2.Client, iris: Subject
) -> None:
    job = online.jobs.wait(started(online, iris))
    headers = {"Last-Event-ID": str(job.revision)}
    assert http.get(f"/v1/jobs/{job.id}/events", headers=headers).status_code == 204


def test_waiting_holds_until_the_end_and_raises_what_it_failed_of(
    online: Client, http: httpx2.Client, iris: Subject
) -> None:
    job = started(online, iris)
    assert ended(http, f"/v1/jobs/{job.id}")["state"] == "succeeded"
    late = started(online, iris, timeout_s=1, **ENDLESS)
    with pytest.raises(errors.TimedOut, match="timeout_s"):
        online.jobs.wait(late)
    stopped = started(online, iris, **ENDLESS)
    online.jobs.cancel(stopped)
    with pytest.raises(JobCancelled):
        online.jobs.wait(stopped)


def test_a_waiting_job_knows_its_place(online: Client, iris: Subject) -> None:
    busy = started(online, iris, **ENDLESS)
    for record in online.jobs.events(busy):
        if record.state is JobState.RUNNING:
            break
    first, second = started(online, iris), started(online, iris)
    urgent = started(online, iris, priority="high")
    assert [online.jobs.get(each).queue_position for each in (first, second, urgent)] == [0, 1, 0]
    online.jobs.cancel(busy)
    done = [online.jobs.wait(each) for each in (first, second, urgent)]
    begun = [each.started_at for each in done]
    assert begun[2] < begun[0] < begun[1]  # type: ignore[operator]
    assert [each.queue_position for each in done] == [None] * 3


def test_jobs_are_found_by_state_model_dataset_and_label(
    online: Client, iris: Subject, regression: Subject, fresh_name: str
) -> None:
    labels = {"run": fresh_name}
    jobs = [
        online.jobs.wait(started(online, subject, labels=labels))
        for subject in (iris, regression, iris)
    ]
    ids = [job.id for job in jobs]

    def found(**filters: Any) -> list[str]:
        return [job.id for job in online.jobs.list(labels=labels, **filters)]

    assert found() == ids[::-1]
    assert found(order="asc", limit=1) in ([ids[0]], ids)
    assert found(model=iris.name) == [ids[2], ids[0]]
    assert found(dataset=regression.train) == [ids[1]]
    assert found(state="succeeded", model=regression.name) == [ids[1]]
    assert found(state="failed") == []


def test_pages_of_a_list_follow_each_other(
    online: Client, http: httpx2.Client, iris: Subject, fresh_name: str
) -> None:
    ids = [online.jobs.wait(started(online, iris, labels={"run": fresh_name})).id for _ in range(3)]
    first = http.get(f"/v1/jobs?label=run={fresh_name}&limit=2").json()
    assert ([job["id"] for job in first["items"]], first["has_more"]) == (ids[:0:-1], True)
    rest = http.get(f"/v1/jobs?label=run={fresh_name}&limit=2&after={first['next_after']}").json()
    assert ([job["id"] for job in rest["items"]], rest["has_more"]) == (ids[:1], False)


def test_the_same_key_starts_one_job(http: httpx2.Client, iris: Subject, fresh_name: str) -> None:
    body = {
        "kind": "influences", "model": iris.name, "train": {"dataset": iris.train},
        "test": {"dataset": iris.test}, "inversion": {"method": "direct"},
        "hessian_regularization": iris.damping,
    }  # fmt: skip
    key = {"Idempotency-Key": fresh_name}
    first, again = (http.post("/v1/jobs", json=body, headers=key) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    other = http.post("/v1/jobs", json={**body, "seed": 1}, headers=key)
    assert (other.status_code, other.json()["type"]) == (422, "idempotency-conflict")
    done = ended(http, f"/v1/jobs/{first.json()['id']}")
    assert (done["state"], done["attempt"]) == ("succeeded", 1)


def test_a_job_that_failed_is_run_again_by_retry(online: Client, iris: Subject) -> None:
    job = started(online, iris, timeout_s=1, **ENDLESS)
    with pytest.raises(errors.TimedOut):
        online.jobs.wait(job)
    assert online.jobs.retry(job).problem is None
    with pytest.raises(errors.TimedOut):
        online.jobs.wait(job)
    ended = online.jobs.get(job)
    assert (ended.state, ended.attempt) == (JobState.FAILED, 2)
    with pytest.raises(errors.Conflict, match="only a failed or cancelled job"):
        online.jobs.retry(online.jobs.wait(started(online, iris)))


def test_a_deleted_job_takes_its_objects_with_it(
    online: Client, stored: Objects, iris: Subject
) -> None:
    job = online.jobs.wait(started(online, iris))
    prefix = ResultPaths("default", job.id).prefix
    assert list(stored.walk(prefix))
    online.jobs.delete(job)
    assert not list(stored.walk(prefix))
    with pytest.raises(errors.NotFound):
        online.jobs.get(job.id)


def test_a_job_that_runs_must_be_cancelled_before_it_is_deleted(
    online: Client, iris: Subject
) -> None:
    job = started(online, iris, **ENDLESS)
    with pytest.raises(errors.Conflict, match="cancel it first"):
        online.jobs.delete(job)
    online.jobs.cancel(job)
    with pytest.raises(JobCancelled):
        online.jobs.wait(job)
    online.jobs.delete(job)


def test_what_a_job_uses_stays_until_the_job_is_deleted(
    online: Client, iris: Subject, fresh_name: str
) -> None:
    rows = online.datasets.register(fresh_name, x=iris.x_test, y=iris.y_test)
    result = online.compute_influences(
        iris.name, iris.train, rows, hessian_regularization=iris.damping
    )
    with pytest.raises(errors.InUse, match=result.id):
        online.datasets.delete(rows)
    assert online.datasets.get(rows).used_by == [result.id]
    with pytest.raises(errors.InUse):
        online.models.delete(iris.name)
    online.jobs.delete(result.job)
    online.datasets.delete(rows)
    with pytest.raises(errors.NotFound):
        online.datasets.get(rows.id)
