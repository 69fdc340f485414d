"""Redis is lost, and comes back from the object storage: everything listed, nothing twice, nothing revived."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.parts import Parts
from service.reindex.rebuild import Rebuild, Rebuilt
from service.storage.layout import ResultPaths
from tests.service.acting import NAMESPACE, Acting, submitted
from upweight.errors import NotFound


def rebuilt(parts: Parts, *, dry_run: bool = False) -> Rebuilt:
    return Rebuild(parts.redis, parts.objects, parts.queue, dry_run=dry_run).run()


def lost(parts: Parts) -> None:
    """All copies are made, as a worker does within a moment; then Redis loses everything."""
    while parts.copies.save_noted():
        pass
    parts.redis.flushall()
    parts.objects.delete_prefix("self-test")


@pytest.fixture
def clean(ready: Acting) -> Acting:
    """Without what earlier tests have left in the folder."""
    known = {"models": ["net"], "datasets": ["train", "test"]}
    for kind, names in known.items():
        ids = [ready.client.get(f"/v1/{kind}/{name}").json()["id"] for name in names]
        for meta in list(ready.parts.objects.walk("records")):
            if f"/{kind}/" in meta.path and not any(id in meta.path for id in ids):
                ready.parts.objects.delete([meta.path])
    for folder in ("records/default/jobs", "records/default/versions", "results", "keys"):
        ready.parts.objects.delete_prefix(folder)
    return ready


def listed(acting: Acting, kind: str) -> list[Any]:
    items = acting.client.get(f"/v1/{kind}").json()["items"]
    return [{name: value for name, value in item.items() if name != "revision"} for item in items]


def test_everything_is_listed_again_as_it_was(clean: Acting) -> None:
    done = clean.job(labels={"team": "vision"})["id"]
    clean.succeed(done, factors=np.ones((2, 15), "f4"))
    before = {kind: listed(clean, kind) for kind in ("models", "datasets", "jobs")}
    lost(clean.parts)
    assert listed(clean, "jobs") == []
    found = rebuilt(clean.parts)
    assert found.restored == {"model": 1, "dataset": 2, "job": 1}
    assert {kind: listed(clean, kind) for kind in before} == before
    by_label = clean.client.get("/v1/jobs", params={"label": "team=vision", "model": "net"})
    assert [job["id"] for job in by_label.json()["items"]] == [done]
    assert clean.client.get(f"/v1/jobs/{done}/factors").status_code == 200
    in_use = clean.client.delete("/v1/models/net")
    assert in_use.status_code == 409


def test_a_second_run_and_a_dry_run_change_nothing(clean: Acting) -> None:
    clean.job()
    lost(clean.parts)
    wished = rebuilt(clean.parts, dry_run=True)
    assert clean.parts.redis.keys("upweight:job:*") == []
    first = rebuilt(clean.parts)
    assert (wished.restored, wished.queued) == (first.restored, first.queued)
    before = {kind: listed(clean, kind) for kind in ("models", "datasets", "jobs")}
    again = rebuilt(clean.parts)
    assert (sum(again.restored.values()), again.queued) == (0, 0)
    assert sum(again.there.values()) == 4
    assert clean.parts.queue.lengths() == {"high": 0, "default": 1, "low": 0}
    assert {kind: listed(clean, kind) for kind in before} == before


def test_running_work_is_queued_again_and_what_was_being_cancelled_is(clean: Acting) -> None:
    running, cancelling = clean.job()["id"], clean.job()["id"]
    for id in (running, cancelling):
        clean.begin(id)
    clean.client.post(f"/v1/jobs/{cancelling}/cancel")
    unchecked = clean.post("/v1/datasets", clean.dataset_request("late")).json()["id"]
    lost(clean.parts)
    assert rebuilt(clean.parts).queued == 2
    assert clean.client.get(f"/v1/jobs/{running}").json()["state"] == "queued"
    assert clean.client.get(f"/v1/jobs/{cancelling}").json()["state"] == "cancelled"
    assert clean.client.get(f"/v1/datasets/{unchecked}").json()["state"] == "checking"
    assert clean.parts.queue.lengths() == {"high": 1, "default": 1, "low": 0}


def test_a_slow_worker_of_the_lost_redis_ends_nothing(clean: Acting) -> None:
    id = clean.job()["id"]
    old = clean.begin(id)
    lost(clean.parts)
    rebuilt(clean.parts)
    new = clean.begin(id)
    assert new["attempt"] > old["attempt"]


def test_what_was_deleted_stays_deleted(clean: Acting) -> None:
    gone = clean.job()["id"]
    clean.client.post(f"/v1/jobs/{gone}/cancel")
    assert clean.client.delete(f"/v1/jobs/{gone}").status_code == 204
    lost(clean.parts)
    rebuilt(clean.parts)
    assert clean.client.get(f"/v1/jobs/{gone}").status_code == 404


def test_a_record_that_is_deleted_while_its_copy_is_read_is_not_revived(
    clean: Acting, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = clean.job()["id"]
    lost(clean.parts)
    rebuild = Rebuild(clean.parts.redis, clean.parts.objects, clean.parts.queue)
    read = clean.parts.objects.get

    def deleted_meanwhile(path: str) -> bytes:
        content = read(path)
        if id in path:
            clean.parts.objects.delete([path])
        return content

    monkeypatch.setattr(clean.parts.objects, "get", deleted_meanwhile)
    rebuild.run()
    with pytest.raises(NotFound):
        clean.parts.records.get("job", NAMESPACE, id)
    assert listed(clean, "jobs") == []


def test_a_version_is_not_given_twice_though_its_record_is_gone(clean: Acting) -> None:
    second = clean.model("net")
    assert second["version"] == 2
    clean.client.delete(f"/v1/models/{second['id']}")
    lost(clean.parts)
    rebuilt(clean.parts)
    assert clean.client.get("/v1/models/net").json()["version"] == 1
    assert clean.model("net")["version"] == 3


def test_a_repeated_request_finds_what_it_made_before_redis_was_lost(clean: Acting) -> None:
    headers = {"Idempotency-Key": "once"}
    first = clean.post("/v1/jobs", clean.job_request(), **headers).json()["id"]
    lost(clean.parts)
    rebuilt(clean.parts)
    assert clean.post("/v1/jobs", clean.job_request(), **headers).json()["id"] == first
    other = clean.post("/v1/jobs", clean.job_request(seed=1), **headers)
    assert other.json()["type"] == "idempotency-conflict"


def test_a_result_whose_objects_are_gone_is_said_to_have_expired(clean: Acting) -> None:
    id = clean.job()["id"]
    clean.succeed(id, factors=np.ones((2, 15), "f4"))
    clean.parts.objects.delete_prefix(ResultPaths(NAMESPACE, id).prefix)
    lost(clean.parts)
    rebuilt(clean.parts)
    assert clean.client.get(f"/v1/jobs/{id}").json()["expired_at"] is not None


def test_a_copy_that_cannot_be_read_is_named_and_stops_nothing(clean: Acting) -> None:
    id = clean.job()["id"]
    lost(clean.parts)
    bad = "records/default/jobs/job_broken.json"
    clean.parts.objects.put(bad, b'{"kind": "job"')
    try:
        found = rebuilt(clean.parts)
    finally:
        clean.parts.objects.delete([bad])
    assert found.unreadable == [bad]
    assert clean.client.get(f"/v1/jobs/{id}").json()["state"] == "queued"


def test_the_service_takes_jobs_while_it_is_being_rebuilt(clean: Acting) -> None:
    lost(clean.parts)
    assert submitted(clean).status_code == 404
    rebuilt(clean.parts)
    new = submitted(clean)
    assert new.status_code == 202
    assert rebuilt(clean.parts).there["job"] == 1


def test_qualities_that_were_measured_come_back_and_newer_ones_stay(clean: Acting) -> None:
    parts = clean.parts
    parts.qualities.note(NAMESPACE, {"ab" * 32: {"value": 0.5}, "cd" * 32: {"value": 0.6}})
    lost(parts)
    names = ["ab" * 32, "cd" * 32]
    assert parts.qualities.of(NAMESPACE, names) == [None, None]
    assert rebuilt(parts, dry_run=True).restored["quality"] == 2
    assert parts.qualities.of(NAMESPACE, names) == [None, None]
    parts.redis.hset(f"upweight:quality:{NAMESPACE}", "cd" * 32, '{"value": 0.9}')
    found = rebuilt(parts)
    assert (found.restored["quality"], found.there["quality"]) == (1, 1)
    assert parts.qualities.of(NAMESPACE, names) == [{"value": 0.5}, {"value": 0.9}]
    parts.objects.delete_prefix("qualities")
