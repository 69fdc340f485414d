"""From a job's change to a receiver: signed, at least once, in spite of whoever fails on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import redis

from service.lifecycle.states import Lifecycle
from service.local.redis_server import RedisServer
from service.storage.records import Records
from service.webhooks.outbox import Outbox
from tests.patience import until
from tests.service.acting import Acting, Json, field, problem, submitted
from tests.service.conftest import Front
from tests.webhooks.conftest import open_settings
from tests.webhooks.receiver import Receiver, answering, breaking_off, dripping_headers, receiver
from upweight import errors, verify_webhook


def secret_of(acting: Acting) -> str:
    return str(acting.client.get("/v1/webhooks/secret").json()["secret"])


def deliveries(acting: Acting, id: str) -> list[Json]:
    found: list[Json] = acting.client.get(f"/v1/jobs/{id}/deliveries").json()["items"]
    return found


def settled(acting: Acting, id: str) -> list[Json]:
    """A job's one delivery, once it is not pending."""
    until(lambda: [each["state"] != "pending" for each in deliveries(acting, id)] == [True])
    return deliveries(acting, id)


def hooked(acting: Acting, hook: Receiver, **values: Any) -> str:
    """A queued job with a webhook."""
    return str(acting.job(webhook={"url": hook.url, **values})["id"])


def test_each_end_of_a_job_is_told_and_signed(ready: Acting, hook: Receiver) -> None:
    secret = secret_of(ready)
    cancelled, failed, succeeded = (hooked(ready, hook) for _ in range(3))
    ready.client.post(f"/v1/jobs/{cancelled}/cancel")
    ready.fail(failed, errors.TimedOut("too long"))
    ready.succeed(succeeded, matrix=np.ones((10, 50), np.float32))
    events = {}
    for got in hook.wait_for(3):
        event = verify_webhook(got.body, got.headers, secret)
        events[event.data.id] = event
        assert got.headers["webhook-id"] == deliveries(ready, event.data.id)[0]["id"]
    assert {id: event.type for id, event in events.items()} == {
        cancelled: "job.cancelled",
        failed: "job.failed",
        succeeded: "job.succeeded",
    }
    assert events[failed].data.problem is not None
    assert events[failed].data.problem.type == "timed-out"
    (told,) = settled(ready, succeeded)
    assert (told["state"], told["tries"], told["last_status"]) == ("delivered", 1, 204)


def test_only_the_states_asked_for_are_told(ready: Acting, hook: Receiver) -> None:
    id = hooked(ready, hook, events=["running", "failed"])
    ready.succeed(id, matrix=np.ones((10, 50), np.float32))
    assert [each["event"] for each in settled(ready, id)] == ["job.running"]
    silent = ready.job()["id"]
    ready.succeed(silent, matrix=np.ones((10, 50), np.float32))
    assert deliveries(ready, silent) == []


def test_it_is_told_again_until_it_is_heard_and_known_by_its_id(
    ready: Acting, hook: Receiver
) -> None:
    hook.behave = [breaking_off, answering(500), answering(200)]
    id = hooked(ready, hook)
    ready.client.post(f"/v1/jobs/{id}/cancel")
    tries = hook.wait_for(3)
    assert len({got.headers["webhook-id"] for got in tries}) == 1
    assert len({got.body for got in tries}) == 1
    pauses = [after.at - before.at for before, after in pairwise(tries)]
    assert pauses[0] >= 0.2
    assert pauses[1] >= 0.8
    (told,) = settled(ready, id)
    assert (told["state"], told["tries"], told["last_error"]) == ("delivered", 3, None)


def test_a_receiver_that_never_hears_is_given_up_and_the_job_says_why(
    ready: Acting, hook: Receiver
) -> None:
    hook.behave = [answering(410)]
    id = hooked(ready, hook)
    ready.client.post(f"/v1/jobs/{id}/cancel")
    (told,) = settled(ready, id)
    assert (told["state"], told["tries"], told["last_status"]) == ("failed", 1, 410)
    assert "gone" in told["last_error"]
    assert told["next_try_at"] is None
    assert len(hook.received) == 1


def test_a_webhook_that_leads_inside_is_refused_with_the_job(ready: Acting) -> None:
    for url in ("https://10.0.0.1/x", "https://user:geheim@example.com/", "ftp://example.com"):
        answer = submitted(ready, webhook={"url": url})
        problem(answer, 422, "invalid-request")
        assert field(answer, "/webhook/url")
        assert "geheim" not in answer.text


def test_deleting_the_job_ends_its_deliveries(ready: Acting, hook: Receiver, front: Front) -> None:
    hook.behave = [answering(500)]
    id = hooked(ready, hook)
    ready.client.post(f"/v1/jobs/{id}/cancel")
    hook.wait_for(1)
    assert ready.client.delete(f"/v1/jobs/{id}").status_code == 204
    heard = len(hook.received)
    connection = front.parts.redis
    assert connection.exists(f"upweight:webhooks:of:default:{id}") == 0
    until(lambda: connection.zcard("upweight:webhooks:due:default") == 0)
    until(lambda: Outbox(connection).namespaces() == [])
    assert len(hook.received) <= heard + 1  # one may have been under way


def test_a_new_secret_signs_beside_the_old_one_for_a_while(ready: Acting, hook: Receiver) -> None:
    old = secret_of(ready)
    new = ready.client.post("/v1/webhooks/secret/rotate").json()["secret"]
    assert new == secret_of(ready) != old
    id = hooked(ready, hook)
    ready.client.post(f"/v1/jobs/{id}/cancel")
    (got,) = hook.wait_for(1)
    assert verify_webhook(got.body, got.headers, old).data.id == id
    assert verify_webhook(got.body, got.headers, new).data.id == id


def test_receivers_that_hang_delay_their_own_namespace_alone(
    ready: Acting, hook: Receiver, front: Front
) -> None:
    """Nor do they hold up the requests."""
    with receiver() as slow:
        slow.behave = [dripping_headers]
        for _ in range(15):
            id = hooked(ready, slow)
            ready.client.post(f"/v1/jobs/{id}/cancel")
        slow.wait_for(2)
        job = ready.client.get(f"/v1/jobs/{id}").json()
        other = {**job, "id": "job_" + "0" * 26, "state": "queued", "finished_at": None}
        other["request"]["webhook"]["url"] = hook.url
        front.parts.records.create("job", "elsewhere", other)
        front.parts.lifecycle.request_cancel("elsewhere", other["id"])
        hook.wait_for(1)
        assert ready.client.get("/v1/jobs").status_code == 200
        assert len(slow.received) < 15  # the others wait for those


def test_a_front_end_that_is_killed_while_it_tells_has_another_tell_it(
    redis_server: RedisServer, tmp_path: Path, hook: Receiver
) -> None:
    """The event was written with the job's change: nothing but its receiver's 2xx ends it."""
    settings = open_settings(redis_server, tmp_path, 2)
    hook.behave = [dripping_headers, answering(200)]
    with redis.Redis.from_url(settings.redis_url) as connection:
        connection.flushdb()
        front = started(settings)
        try:
            told(connection, hook.url)
            hook.wait_for(1)  # it starts first
        finally:
            front.kill()
            front.wait()
        front = started(settings)
        try:
            first, second = hook.wait_for(2)
        finally:
            front.send_signal(signal.SIGTERM)
            front.wait()
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


def started(settings: Any) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "UPWEIGHT_REDIS_URL": settings.redis_url,
        "UPWEIGHT_STORAGE": settings.storage,
        "UPWEIGHT_PORT": "0",
        "UPWEIGHT_WEBHOOK_HTTP": "true",
        "UPWEIGHT_WEBHOOK_NETWORKS": "127.0.0.0/8, 10.9.0.0/16",
        "UPWEIGHT_WEBHOOK_SECONDS": "1.5",
    }
    return subprocess.Popen([sys.executable, "-m", "service"], env=environment)


def told(connection: redis.Redis, url: str) -> None:
    """A job's end, as a worker writes it."""
    records = Records(connection)
    job = {
        "id": "job_" + "0" * 26,
        "state": "queued",
        "request": {
            "kind": "influences",
            "inversion": {"method": "cg"},
            "webhook": {"url": url, "events": ["cancelled"]},
        },
        "model_id": "mdl_1",
        "labels": {},
        "attempt": 0,
        "created_at": "2026-01-01T00:00:00Z",
        "started_at": None,
        "finished_at": None,
        "problem": None,
    }
    records.create("job", "default", job)
    Lifecycle(records).request_cancel("default", job["id"])
