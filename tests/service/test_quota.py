"""Stored bytes of a namespace are reserved before they come: what happens side by side stays within the limit."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest
import redis

from service.limits import quota
from service.limits.quota import Quota, stored_and_reserved
from service.local.redis_server import RedisServer
from service.storage.keys import PREFIX, new_id
from service.storage.layout import namespace_prefixes
from tests.patience import until
from tests.service.acting import Acting, digest_of, problem
from tests.service.conftest import Front, run_front, small_settings

KIB = 1024


@pytest.fixture(scope="module")
def small(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A front end with room for 100 KiB, on a database of its own."""
    folder = tmp_path_factory.mktemp("small")
    settings = small_settings(redis_server, folder, namespace_bytes=100 * KIB)
    url = f"{redis_server.url.rpartition('/')[0]}/4"
    yield from run_front(settings.model_copy(update={"redis_url": url}))


@pytest.fixture
def http(small: Front) -> Iterator[httpx2.Client]:
    with redis.Redis.from_url(small.settings.redis_url) as connection:
        connection.flushdb()
    for prefix in namespace_prefixes("default"):
        small.parts.objects.delete_prefix(prefix)
    with httpx2.Client(base_url=small.url, timeout=120, trust_env=False) as made:
        yield made


def put(http: httpx2.Client, size: int) -> httpx2.Response:
    data = os.urandom(size)
    return http.put(f"/v1/blobs/{digest_of(data)}", content=data)


def chunked(data: bytes, entered: threading.Semaphore, go: threading.Event) -> Iterator[bytes]:
    """A body whose length is not said, of which the first half comes and then waits."""
    yield data[: len(data) // 2]
    entered.release()
    assert go.wait(60)
    yield data[len(data) // 2 :]


def test_uploads_of_unknown_length_side_by_side_do_not_share_the_room(
    small: Front, http: httpx2.Client
) -> None:
    go, entered = threading.Event(), threading.Semaphore(0)
    found: list[int] = []

    def upload() -> None:
        data = os.urandom(60 * KIB)
        with httpx2.Client(base_url=small.url, timeout=120, trust_env=False) as client:
            body = chunked(data, entered, go)
            try:
                found.append(client.put(f"/v1/blobs/{digest_of(data)}", content=body).status_code)
            except httpx2.TransportError:  # refused while it was still sending
                found.append(403)

    threads = [threading.Thread(target=upload) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert entered.acquire(timeout=60)
    go.set()
    for thread in threads:
        thread.join()
    objects = small.parts.objects
    stored = sum(m.size for each in namespace_prefixes("default") for m in objects.walk(each))
    # Three may hold 30 KiB at the same moment, of which none can have 30 more.
    assert sorted(found) in ([201, 403, 403, 403], [403, 403, 403, 403])
    assert stored == found.count(201) * 60 * KIB
    rest = 100 * KIB - stored
    assert put(http, rest).status_code == 201, "what was refused holds no room"


def test_an_upload_of_unknown_length_may_have_what_is_stored_measured(
    small: Front, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the storage takes its bytes: reading it in the same thread aborts."""
    monkeypatch.setattr(quota, "_MEASURED_AT_MOST_SECONDS", 0)
    data = os.urandom(200 * KIB)
    answer = http.put(f"/v1/blobs/{digest_of(data)}", content=iter([data[:1000], data[1000:]]))
    problem(answer, 403, "quota-exceeded")
    assert put(http, 99 * KIB).status_code == 201


def reserved(front: Front) -> int:
    return sum(stored_and_reserved(front.parts.redis, "default")[1].values())


def test_measuring_again_forgets_nothing_that_is_on_its_way(
    small: Front, http: httpx2.Client
) -> None:
    go, entered = threading.Event(), threading.Semaphore(0)
    data = os.urandom(60 * KIB)
    headers = {"Content-Length": str(len(data))}
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(
            lambda: http.put(
                f"/v1/blobs/{digest_of(data)}",
                content=chunked(data, entered, go),
                headers=headers,
            )
        )
        assert entered.acquire(timeout=60)
        # The half has left the client; that there is room for it was asked before it was read.
        until(lambda: reserved(small) == len(data))
        small.parts.quota.measure_again("default")
        with httpx2.Client(base_url=small.url, timeout=60, trust_env=False) as other:
            problem(put(other, 60 * KIB), 403, "quota-exceeded")
            assert put(other, 30 * KIB).status_code == 201
        go.set()
        assert coming.result().status_code == 201
    problem(put(http, 20 * KIB), 403, "quota-exceeded")
    assert put(http, 10 * KIB).status_code == 201


def test_two_that_measure_at_once_forget_nothing(
    small: Front, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, looked = [threading.Event(), threading.Event()], threading.Semaphore(0)
    waits, stored = iter(go), Quota._stored

    def slowly(quota: Quota, namespace: str, reserving: str) -> int:
        wait, found = next(waits), stored(quota, namespace, reserving)
        looked.release()
        assert wait.wait(60)
        return found

    quota = small.parts.quota
    held = quota.reserve("default", 60 * KIB)
    monkeypatch.setattr(Quota, "_stored", slowly)
    with ThreadPoolExecutor(2) as pool:
        quota.measure_again("default")
        first = pool.submit(quota.reserve, "default", KIB)
        assert looked.acquire(timeout=60)
        held.settle(60 * KIB)  # stored after the first has looked
        quota.measure_again("default")
        second = pool.submit(quota.reserve, "default", KIB)
        assert looked.acquire(timeout=60)
        go[0].set()
        first.result(60)
        assert stored_and_reserved(small.parts.redis, "default")[0] == 60 * KIB
        go[1].set()
        second.result(60)


def let_time_pass(front: Front) -> None:
    """As if all that is reserved had been for longer than it holds by itself."""
    until = f"{PREFIX}:quota:until:default"
    for id in front.parts.redis.zrange(until, 0, -1):  # type: ignore[union-attr]
        front.parts.redis.zadd(until, {id: 1})


def test_a_reservation_of_a_process_that_died_ends_by_itself(
    small: Front, http: httpx2.Client
) -> None:
    small.parts.quota.reserve("default", 90 * KIB)
    problem(put(http, 20 * KIB), 403, "quota-exceeded")
    let_time_pass(small)
    assert put(http, 20 * KIB).status_code == 201


def test_a_job_reserves_what_its_result_will_take_until_it_has_ended(
    small: Front, http: httpx2.Client
) -> None:
    acting = Acting(http, small.parts)
    acting.ready()
    acting.dataset("large", rows=100)
    body = {**acting.job_request(), "test": {"dataset": "large"}, "train": {"dataset": "large"}}
    made = [http.post("/v1/jobs", json={**body, "seed": seed}) for seed in range(5)]  # 40,000 bytes
    accepted = [each.json()["id"] for each in made if each.status_code == 202]
    assert len(accepted) == 2
    refused = problem(made[-1], 403, "quota-exceeded")["detail"]
    assert "and 40000 more would be stored" in refused
    assert http.post(f"/v1/jobs/{accepted[0]}/cancel").status_code == 202
    assert http.delete(f"/v1/jobs/{accepted[0]}").status_code == 204
    assert http.post("/v1/jobs", json={**body, "seed": 99}).status_code == 202


def test_measuring_between_a_jobs_reservation_and_its_record_forgets_neither(
    small: Front, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.parts.quota.reserve_for_job("default", new_id("job"), 60 * KIB)
    small.parts.quota.measure_again("default")
    problem(put(http, 60 * KIB), 403, "quota-exceeded")
    monkeypatch.setattr(quota, "_RECORDED_SECONDS", 0)  # whoever would have recorded it has died
    small.parts.quota.measure_again("default")
    assert put(http, 60 * KIB).status_code == 201


def test_what_a_retraining_and_a_bank_may_store_is_reserved_when_they_are_accepted(
    small: Front, http: httpx2.Client
) -> None:
    acting = Acting(http, small.parts)
    acting.ready()
    acting.dataset("large", rows=20)
    rows = {"dataset": "large", "rows": "0:10"}
    recipe = {"optimizer": "sgd", "lr": 0.1, "epochs": 1, "start": "warm"}
    common = {"model": acting.job_request()["model"], "train": rows, "recipe": recipe}
    retrain = http.post("/v1/jobs", json={"kind": "retrain", **common})
    assert retrain.status_code == 202, retrain.text
    _, reserved = stored_and_reserved(small.parts.redis, "default")
    id = retrain.json()["id"]
    assert reserved[id] > 0
    assert http.post(f"/v1/jobs/{id}/cancel").status_code == 202
    small.parts.quota.measure_again("default")
    assert put(http, 1).status_code == 201
    assert stored_and_reserved(small.parts.redis, "default")[1] == {}, "given back with its job"


def test_a_job_that_is_tried_again_reserves_anew(small: Front, http: httpx2.Client) -> None:
    acting = Acting(http, small.parts)
    acting.ready()
    acting.dataset("large", rows=100)
    body = {**acting.job_request(), "test": {"dataset": "large"}, "train": {"dataset": "large"}}
    id = http.post("/v1/jobs", json=body).json()["id"]  # 40,000 bytes
    assert http.post(f"/v1/jobs/{id}/cancel").status_code == 202
    small.parts.quota.measure_again("default")
    assert put(http, 70 * KIB).status_code == 201
    problem(http.post(f"/v1/jobs/{id}/retry"), 403, "quota-exceeded")
    assert http.get(f"/v1/jobs/{id}").json()["state"] == "cancelled"


def test_a_job_that_is_tried_again_at_once_reserves_no_more_than_once(
    small: Front, http: httpx2.Client
) -> None:
    acting = Acting(http, small.parts)
    acting.ready()
    acting.dataset("large", rows=100)
    body = {**acting.job_request(), "test": {"dataset": "large"}, "train": {"dataset": "large"}}
    id = http.post("/v1/jobs", json=body).json()["id"]
    for _ in range(3):
        assert http.post(f"/v1/jobs/{id}/cancel").status_code == 202
        assert http.post(f"/v1/jobs/{id}/retry").status_code == 202
    assert put(http, 50 * KIB).status_code == 201
    problem(put(http, 20 * KIB), 403, "quota-exceeded")


def test_a_bank_larger_than_the_quota_is_refused_in_words_before_anything_is_trained(
    small: Front, http: httpx2.Client
) -> None:
    acting = Acting(http, small.parts)
    acting.ready()
    judged = acting.job()
    acting.succeed(judged["id"], matrix=np.zeros((10, 50), "f4"))
    body = {
        "kind": "quality",
        "model": judged["model_id"],
        "train": {"dataset": judged["train_id"]},
        "results": [judged["id"]],
        "recipe": {"optimizer": "sgd", "lr": 0.1, "epochs": 1, "start": "warm"},
    }
    refused = http.post("/v1/jobs", json={**body, "subsets": 1000, "repeats": 4})
    said = problem(refused, 403, "quota-exceeded")["detail"]
    assert "more would be stored" in said
    assert "its limit is 102400" in said
    assert list(small.parts.objects.walk("banks")) == []
