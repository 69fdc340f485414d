"""A job's life as its user sees it: looking, waiting, following, cancelling, trying again, deleting, listing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import numpy as np

from service.storage.layout import ResultPaths
from tests.service.acting import NAMESPACE, Acting, problem
from upweight.errors import ComputationFailed


def later(seconds: float, action: Callable[[], Any]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def got(acting: Acting, id: str, **parameters: Any) -> Any:
    answer = acting.client.get(f"/v1/jobs/{id}", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_queued_job_knows_its_place(ready: Acting) -> None:
    first, second = ready.job()["id"], ready.job()["id"]
    assert got(ready, first)["queue_position"] == 0
    assert got(ready, second)["queue_position"] == 1
    ready.begin(first)
    assert got(ready, first)["queue_position"] is None


def test_a_running_job_tells_its_stage_and_progress(ready: Acting) -> None:
    id = ready.job()["id"]
    ready.begin(id)
    progress = {"done": 3, "total": 10, "unit": "iterations", "fraction": 0.35}
    live = {"stage": "solve", "progress": progress, "eta_seconds": 4.5}
    ready.parts.records.set_live("job", NAMESPACE, id, live)
    job = got(ready, id)
    assert (job["state"], job["attempt"], job["device"]) == ("running", 1, "cpu")
    assert (job["stage"], job["progress"], job["eta_seconds"]) == ("solve", progress, 4.5)


def test_waiting_ends_when_the_job_does(ready: Acting) -> None:
    id = ready.job()["id"]
    timer = later(0.3, lambda: ready.succeed(id, mean=np.ones(50, np.float32)))
    began = time.monotonic()
    job = got(ready, id, wait=60)
    timer.join()
    assert job["state"] == "succeeded"
    assert time.monotonic() - began < 60


def test_waiting_gives_up_in_time(ready: Acting) -> None:
    id = ready.job()["id"]
    began = time.monotonic()
    assert got(ready, id, wait=0.4)["state"] == "queued"
    assert time.monotonic() - began > 0.3


def test_hundreds_can_wait_without_keeping_others_from_their_answer(ready: Acting) -> None:
    id = ready.job()["id"]
    limits = httpx2.Limits(max_connections=200)
    with httpx2.Client(base_url=str(ready.client.base_url), limits=limits, timeout=120) as many:

        def wait() -> None:
            states.append(many.get(f"/v1/jobs/{id}", params={"wait": 60}).json()["state"])

        states: list[str] = []
        threads = [threading.Thread(target=wait) for _ in range(100)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert got(ready, id)["state"] == "queued"
        assert states == []
        ready.client.post(f"/v1/jobs/{id}/cancel")
        for thread in threads:
            thread.join(60)
    assert states == ["cancelled"] * 100


def events_of(answer: httpx2.Response) -> Iterator[tuple[str, int, Any]]:
    event: dict[str, str] = {}
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if line:
            event[name] = value
        elif "data" in event:
            yield event["event"], int(event["id"]), json.loads(event["data"])
            event = {}


def test_events_tell_every_state_to_the_end(ready: Acting) -> None:
    id = ready.job()["id"]
    with ready.client.stream("GET", f"/v1/jobs/{id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        seen = []
        for name, revision, job in events_of(answer):
            assert name == "job"
            assert revision == job["revision"]
            seen.append(job["state"])
            if job["state"] == "queued":
                ready.begin(id)
            elif job["state"] == "running":
                ready.parts.lifecycle.fail(NAMESPACE, id, 1, ComputationFailed("singular"))
    assert seen == ["queued", "running", "failed"]


def test_events_go_on_after_the_one_that_was_seen_last(ready: Acting) -> None:
    id = ready.job()["id"]
    seen = got(ready, id)["revision"]
    timer = later(0.3, lambda: ready.client.post(f"/v1/jobs/{id}/cancel"))
    headers = {"Last-Event-ID": str(seen)}
    with ready.client.stream("GET", f"/v1/jobs/{id}/events", headers=headers) as answer:
        assert [job["state"] for _, _, job in events_of(answer)] == ["cancelled"]
    timer.join()


def test_a_client_that_has_seen_the_end_is_told_not_to_come_again(ready: Acting) -> None:
    id = ready.job()["id"]
    last = ready.client.post(f"/v1/jobs/{id}/cancel").json()["revision"]
    path = f"/v1/jobs/{id}/events"
    assert ready.client.get(path, headers={"Last-Event-ID": str(last)}).status_code == 204
    assert "cancelled" in ready.client.get(path).text


def test_a_queued_job_is_cancelled_at_once_and_leaves_its_queue(ready: Acting) -> None:
    id = ready.job()["id"]
    answer = ready.client.post(f"/v1/jobs/{id}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    assert ready.parts.queue.lengths()["default"] == 0
    assert ready.client.post(f"/v1/jobs/{id}/cancel").status_code == 202


def test_a_job_that_is_cancelled_while_it_waits_to_begin_again_leaves_nothing(
    ready: Acting,
) -> None:
    id = ready.job()["id"]
    ready.begin(id)
    paths = ResultPaths(NAMESPACE, id)
    ready.parts.objects.put(paths.manifest, b"{}")  # by a worker that was lost
    ready.parts.lifecycle.give_back(NAMESPACE, id, 1, lost=True)
    assert ready.client.post(f"/v1/jobs/{id}/cancel").json()["state"] == "cancelled"
    assert list(ready.parts.objects.walk(paths.prefix)) == []
    assert ready.client.post(f"/v1/jobs/{id}/cancel").json()["state"] == "cancelled"


def test_a_job_that_is_cancelled_while_it_waits_to_be_tried_again_leaves_nothing(
    ready: Acting,
) -> None:
    id = ready.job()["id"]
    ready.fail(id, ComputationFailed("the Hessian is singular; raise hessian_regularization"))
    paths = ResultPaths(NAMESPACE, id)
    ready.parts.objects.put(paths.plan, b"{}")  # finished blocks stay for the retry
    assert ready.client.post(f"/v1/jobs/{id}/retry").json()["state"] == "queued"
    assert ready.client.post(f"/v1/jobs/{id}/cancel").json()["state"] == "cancelled"
    assert list(ready.parts.objects.walk(paths.prefix)) == []


def test_a_running_job_is_told_to_stop(ready: Acting) -> None:
    id = ready.job()["id"]
    ready.begin(id)
    assert ready.client.post(f"/v1/jobs/{id}/cancel").json()["state"] == "cancelling"
    assert ready.client.post(f"/v1/jobs/{id}/cancel").json()["state"] == "cancelling"


def test_what_has_ended_can_not_be_cancelled(ready: Acting) -> None:
    id = ready.job()["id"]
    ready.succeed(id, mean=np.ones(50, np.float32))
    problem(ready.client.post(f"/v1/jobs/{id}/cancel"), 409, "conflict")


def test_a_failed_job_can_be_tried_again(ready: Acting) -> None:
    id = ready.job()["id"]
    ready.fail(id, ComputationFailed("the Hessian is singular; raise hessian_regularization"))
    failed = got(ready, id)
    assert failed["problem"]["type"] == "computation-failed"
    answer = ready.client.post(f"/v1/jobs/{id}/retry", headers={"Idempotency-Key": "again"})
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert answer.json()["problem"] is None
    assert got(ready, id)["queue_position"] == 1  # its first task, nobody's now, is before it
    again = ready.client.post(f"/v1/jobs/{id}/retry", headers={"Idempotency-Key": "again"})
    assert (again.status_code, again.json()["state"]) == (202, "queued")
    problem(ready.client.post(f"/v1/jobs/{id}/retry"), 409, "conflict")


def test_deleting_a_job_deletes_what_it_stored(ready: Acting) -> None:
    id = ready.job()["id"]
    ready.succeed(id, matrix=np.ones((10, 50), np.float32))
    prefix = ResultPaths(NAMESPACE, id).prefix
    assert list(ready.parts.objects.walk(prefix))
    assert ready.client.delete(f"/v1/jobs/{id}").status_code == 204
    assert list(ready.parts.objects.walk(prefix)) == []
    problem(ready.client.get(f"/v1/jobs/{id}"), 404, "not-found")


def test_a_job_at_work_can_not_be_deleted(ready: Acting) -> None:
    id = ready.job()["id"]
    assert (
        "cancel it first"
        in problem(ready.client.delete(f"/v1/jobs/{id}"), 409, "conflict")["detail"]
    )


def test_jobs_are_listed_by_state_label_and_what_they_use(ready: Acting) -> None:
    ready.model("other")
    one = ready.job(labels={"team": "a"})["id"]
    two = ready.job(labels={"team": "a", "run": "2"}, model="other")["id"]
    three = ready.job()["id"]
    ready.client.post(f"/v1/jobs/{two}/cancel")

    def listed(*pairs: tuple[str, str]) -> list[str]:
        answer = ready.client.get("/v1/jobs", params=list(pairs))
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    assert listed() == [three, two, one]
    assert listed(("state", "queued")) == [three, one]
    assert listed(("label", "team=a")) == [two, one]
    assert listed(("label", "team=a"), ("label", "run=2")) == [two]
    assert listed(("model", "net")) == [three, one]
    assert listed(("model", "net@1"), ("label", "team=a")) == [one]
    assert listed(("dataset", "train"), ("order", "asc"), ("limit", "2")) == [one, two]
    problem(ready.client.get("/v1/jobs", params={"model": "nope"}), 404, "not-found")
