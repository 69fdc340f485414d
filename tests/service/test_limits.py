"""What one namespace may take from the others: requests a second, uploads at once, stored bytes."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from service.auth import Role
from service.limits.rate import Rate
from service.local.redis_server import RedisServer
from service.storage.layout import namespace_prefixes
from service.storage.redis import connect
from tests.service.acting import NAMESPACE, Acting, digest_of, problem
from tests.service.conftest import Front, run_front, small_settings
from upweight.errors import RateLimited

KIB = 1024
# Requests a second: fewer than the busiest machine sends.
SLOW = 0.5


@pytest.fixture(scope="module")
def strict(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A front end with limits that a test reaches, on a database of its own."""
    settings = small_settings(
        redis_server,
        tmp_path_factory.mktemp("strict"),
        namespace_requests=5,
        namespace_uploads=2,
        namespace_bytes=100 * KIB,
    )
    url = f"{redis_server.url.rpartition('/')[0]}/3"
    yield from run_front(settings.model_copy(update={"redis_url": url}))


@pytest.fixture
def http(strict: Front) -> Iterator[httpx2.Client]:
    with redis.Redis.from_url(strict.settings.redis_url) as connection:
        connection.flushdb()
    for meta in list(strict.parts.objects.walk("blobs")):
        strict.parts.objects.delete([meta.path])
    with httpx2.Client(base_url=strict.url, timeout=120, trust_env=False) as made:
        yield made


def put(http: httpx2.Client, size: int) -> httpx2.Response:
    data = os.urandom(size)
    return http.put(f"/v1/blobs/{digest_of(data)}", content=data)


def first_refused(http: httpx2.Client, **headers: str) -> httpx2.Response:
    """The first answer that is not a job's list, of requests one after the other."""
    answers = (http.get("/v1/jobs", headers=headers) for _ in range(300))
    return next(answer for answer in answers if answer.status_code != 200)


def test_a_namespace_is_held_to_its_rate_and_told_when_to_come_again(
    http: httpx2.Client, strict: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict.parts.rate, "_per_second", SLOW)
    first = http.get("/v1/jobs")
    assert first.headers["ratelimit-policy"] == '"requests";q=5;w=10'
    assert first.headers["ratelimit"] == '"requests";r=4;t=2'
    refused = first_refused(http)
    said = problem(refused, 429, "rate-limited")
    assert "0.5 requests a second" in said["detail"]
    assert int(refused.headers["retry-after"]) in (1, 2)
    assert refused.headers["ratelimit"].startswith('"requests";r=0')
    time.sleep(int(refused.headers["retry-after"]))
    assert http.get("/v1/jobs").status_code == 200


def test_the_rate_is_that_of_the_setting_over_all_front_ends(redis_url: str) -> None:
    both = [Rate(connect(redis_url), 5.0) for _ in range(2)]
    began = time.monotonic()
    passed = next(number for number, rate in enumerate(itertools.cycle(both)) if is_refused(rate))
    assert 50 <= passed <= 50 + 5 * (time.monotonic() - began) + 1


def is_refused(rate: Rate) -> bool:
    try:
        rate.spend("a")
    except RateLimited:
        return True
    return False


def test_one_namespaces_haste_does_not_slow_another(
    http: httpx2.Client, strict: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict.parts.rate, "_per_second", SLOW)
    keys = strict.parts.keys
    hasty, calm = (
        {"Authorization": f"Bearer {keys.create(name, Role.READ, 'test')[1]}"} for name in "ab"
    )
    assert first_refused(http, **hasty).status_code == 429
    assert http.get("/v1/jobs", headers=calm).status_code == 200
    assert http.get("/healthz").status_code == 200


def test_blobs_fill_the_quota_and_no_more(http: httpx2.Client, strict: Front) -> None:
    assert put(http, 60 * KIB).status_code == 201
    said = problem(put(http, 60 * KIB), 403, "quota-exceeded")["detail"]
    assert f"stores {60 * KIB} bytes" in said
    assert f"limit is {100 * KIB}" in said
    assert put(http, 40 * KIB).status_code == 201
    problem(put(http, 1), 403, "quota-exceeded")
    acting = Acting(http, strict.parts)
    answer = http.post("/v1/jobs", json=acting.job_request())
    assert answer.status_code == 404  # what is wrong with the job itself comes first


def test_what_was_not_stored_takes_no_room(http: httpx2.Client) -> None:
    for _ in range(3):
        wrong = http.put(f"/v1/blobs/{digest_of(b'x')}", content=bytes(90 * KIB))
        problem(wrong, 422, "digest-mismatch")
    assert put(http, 90 * KIB).status_code == 201


def test_uploads_side_by_side_do_not_share_the_room(http: httpx2.Client) -> None:
    found: list[int] = []

    def upload() -> None:
        found.append(put(http, 30 * KIB).status_code)

    threads = [threading.Thread(target=upload) for _ in range(2)]
    assert put(http, 60 * KIB).status_code == 201
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [201, 403]


def test_a_namespace_over_its_quota_begins_no_job_until_one_is_deleted(
    ready: Acting, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ready.job()["id"]
    ready.client.post(f"/v1/jobs/{old}/cancel")
    objects = front.parts.objects
    objects.put(f"results/default/{old}/influences/c/0/0", bytes(50 * KIB))
    body = ready.job_request(seed=1)
    prefixes = namespace_prefixes("default")
    stored = sum(meta.size for prefix in prefixes for meta in objects.walk(prefix))
    monkeypatch.setattr(front.parts.quota, "_limit", stored)
    said = problem(ready.post("/v1/jobs", body), 403, "quota-exceeded")
    assert "Delete jobs" in said["detail"]
    assert ready.client.delete(f"/v1/jobs/{old}").status_code == 204
    assert ready.post("/v1/jobs", body).status_code == 202


def test_uploads_at_once_are_limited_by_namespace(http: httpx2.Client, strict: Front) -> None:
    release, entered = threading.Event(), threading.Semaphore(0)

    def slowly(data: bytes) -> Iterator[bytes]:
        yield data[:10]
        entered.release()
        release.wait(60)
        yield data[10:]

    def upload(data: bytes) -> None:
        found.append(http.put(f"/v1/blobs/{digest_of(data)}", content=slowly(data)).status_code)

    found: list[int] = []
    threads = [threading.Thread(target=upload, args=(os.urandom(100),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert entered.acquire(timeout=60)
    deadline = time.monotonic() + 60
    while strict.parts.upload_limit._running["default"] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    said = problem(put(http, 10), 429, "rate-limited")["detail"]
    assert "2 uploads of this namespace" in said
    release.set()
    for thread in threads:
        thread.join()
    assert found == [201, 201]
    assert put(http, 10).status_code == 201


def test_unfinished_checks_are_limited_by_namespace(
    redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    settings = small_settings(redis_server, tmp_path, namespace_checks=3)
    with (
        contextmanager(run_front)(settings) as front,
        httpx2.Client(base_url=front.url, timeout=60, trust_env=False) as client,
    ):
        keys = front.parts.keys
        for name in "ab":
            secret = keys.create(name, Role.WRITE, "test")[1]
            client.headers["Authorization"] = f"Bearer {secret}"
            acting = Acting(client, front.parts)
            bodies = [acting.dataset_request(f"set{number}") for number in range(4)]
            made = [client.post("/v1/datasets", json=body) for body in bodies]
            assert [each.status_code for each in made] == [202, 202, 202, 429]
            assert int(made[-1].headers["retry-after"]) > 0
            again = client.post(
                "/v1/models", json=acting.model_request(), headers={"Idempotency-Key": "x"}
            )
            assert "3 models and datasets" in problem(again, 429, "rate-limited")["detail"]
        assert front.parts.queue.lengths()["high"] == 6


def test_registrations_at_once_do_not_share_the_room_for_checks(
    redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    settings = small_settings(redis_server, tmp_path, namespace_checks=3)
    with (
        contextmanager(run_front)(settings) as front,
        httpx2.Client(base_url=front.url, timeout=60, trust_env=False) as client,
    ):
        acting = Acting(client, front.parts)
        bodies = [acting.dataset_request(f"set{number}") for number in range(24)]
        together = threading.Barrier(len(bodies))

        def register(body: dict[str, Any]) -> int:
            together.wait()
            return client.post("/v1/datasets", json=body).status_code

        with ThreadPoolExecutor(len(bodies)) as pool:
            found = Counter(pool.map(register, bodies))
        assert found == {202: 3, 429: 21}
        assert front.parts.queue.lengths()["high"] == 3


@pytest.fixture
def keyed(redis_server: RedisServer, redis_url: str, tmp_path: Path) -> Iterator[Keyed]:
    settings = small_settings(redis_server, tmp_path, namespace_high=2)
    with (
        contextmanager(run_front)(settings) as front,
        httpx2.Client(base_url=front.url, timeout=60, trust_env=False) as client,
    ):
        acting = Acting(client, front.parts)
        acting.ready()
        yield Keyed(acting, front)


@dataclass(frozen=True)
class Keyed:
    """A model and datasets, and keys of roles."""

    acting: Acting
    front: Front

    def submit(self, role: Role, **values: Any) -> httpx2.Response:
        secret = self.front.parts.keys.create(NAMESPACE, role, "test")[1]
        body = self.acting.job_request(**values)
        return self.acting.client.post(
            "/v1/jobs", json=body, headers={"Authorization": f"Bearer {secret}"}
        )


def test_priority_high_is_for_keys_of_the_role_that_the_operator_says(keyed: Keyed) -> None:
    said = problem(keyed.submit(Role.WRITE, priority="high"), 403, "forbidden")
    assert said["errors"][0]["pointer"] == "/priority"
    assert "needs a key of role 'admin'" in said["detail"]
    assert "leave 'priority' out" in said["detail"]
    assert keyed.submit(Role.WRITE).status_code == 202
    assert keyed.submit(Role.WRITE, priority="low", seed=1).status_code == 202
    assert keyed.submit(Role.ADMIN, priority="high", seed=2).status_code == 202


def test_without_a_key_priority_high_is_open(ready: Acting) -> None:
    assert ready.post("/v1/jobs", ready.job_request(priority="high")).status_code == 202


def test_so_many_jobs_of_a_namespace_wait_at_priority_high_and_no_more(keyed: Keyed) -> None:
    for seed in range(2):
        assert keyed.submit(Role.ADMIN, priority="high", seed=seed).status_code == 202
    answer = keyed.submit(Role.ADMIN, priority="high", seed=2)
    said = problem(answer, 429, "queue-full")["detail"]
    assert "2 jobs of this namespace wait at priority 'high'" in said
    assert int(answer.headers["retry-after"]) > 0
    assert keyed.submit(Role.ADMIN, seed=2).status_code == 202
