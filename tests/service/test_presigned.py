"""Blobs that come and go by presigned URLs: nothing counts before it is verified."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
import redis

from service.limits import quota
from service.limits.quota import stored_and_reserved
from service.local.redis_server import RedisServer
from service.storage.layout import blob_path, upload_path
from tests.s3_server import S3Server
from tests.service.acting import Acting, digest_of, field, problem
from tests.service.conftest import Front, run_front, small_settings
from tests.service.test_quota import let_time_pass

DIRECT = {"Content-Type": "application/octet-stream"}
KIB = 1024


def sent(acting: Acting, digest: str, data: bytes) -> None:
    """Straight to the object storage, by the URL that the service signs."""
    answer = acting.client.post(f"/v1/blobs/{digest}/url", params={"method": "PUT"}).json()
    assert answer["then"] == f"/v1/blobs/{digest}/complete"
    assert (
        httpx2.put(answer["url"], content=data, headers=DIRECT, trust_env=False).status_code == 200
    )


def test_a_folder_cannot_sign_and_says_what_to_do(acting: Acting, front: Front) -> None:
    if front.parts.objects.folder is None:
        pytest.skip("the objects are on S3")
    digest = acting.upload(os.urandom(10))
    answer = acting.client.post(f"/v1/blobs/{digest}/url", params={"method": "PUT"})
    assert "PUT the bytes to the service" in problem(answer, 409, "conflict")["detail"]
    answer = acting.client.post(f"/v1/blobs/{digest}/url")
    assert "GET the bytes from the service" in problem(answer, 409, "conflict")["detail"]


@pytest.mark.on_s3
class TestWithS3:
    def test_a_blob_is_fetched_by_its_url(self, acting: Acting) -> None:
        data = os.urandom(1000)
        digest = acting.upload(data)
        answer = acting.client.post(f"/v1/blobs/{digest}/url").json()
        assert answer["then"] is None
        assert httpx2.get(answer["url"], trust_env=False).content == data

    def test_what_came_is_a_blob_once_it_is_verified(self, acting: Acting, front: Front) -> None:
        data = os.urandom(9_000_000)
        digest = digest_of(data)
        sent(acting, digest, data)
        problem(acting.client.get(f"/v1/blobs/{digest}"), 404, "not-found")
        for status in (201, 200):
            done = acting.client.post(f"/v1/blobs/{digest}/complete")
            assert (done.status_code, done.json()["size_bytes"]) == (status, len(data))
        assert acting.client.get(f"/v1/blobs/{digest}").content == data
        assert front.parts.objects.head(upload_path("default", digest)) is None

    def test_other_bytes_than_the_digest_says_are_refused_and_deleted(
        self, acting: Acting, front: Front
    ) -> None:
        digest = digest_of(os.urandom(8))
        sent(acting, digest, b"something else")
        answer = acting.client.post(f"/v1/blobs/{digest}/complete")
        problem(answer, 422, "digest-mismatch")
        assert "have the digest sha256:" in field(answer, "path:digest")
        for path in (upload_path("default", digest), blob_path("default", digest)):
            assert front.parts.objects.head(path) is None

    def test_what_is_too_large_is_refused_and_deleted(self, acting: Acting, front: Front) -> None:
        digest = digest_of(b"claimed")
        path = upload_path("default", digest)
        front.parts.objects.put(path, bytes(front.settings.blob_bytes + 1))
        problem(acting.client.post(f"/v1/blobs/{digest}/complete"), 413, "too-large")
        assert front.parts.objects.head(path) is None

    def test_nothing_that_came_is_said_with_the_way_to_send_it(self, acting: Acting) -> None:
        digest = digest_of(os.urandom(8))
        answer = acting.client.post(f"/v1/blobs/{digest}/complete")
        assert "/url?method=PUT" in problem(answer, 404, "not-found")["detail"]


@pytest.fixture(scope="module")
def limited(redis_server: RedisServer, s3: S3Server) -> Iterator[Front]:
    """A front end on S3 with room for 100 KiB a namespace, on a database of its own."""
    settings = small_settings(redis_server, s3.bucket(), **s3.settings(), namespace_bytes=100 * KIB)
    url = f"{redis_server.url.rpartition('/')[0]}/5"
    yield from run_front(settings.model_copy(update={"redis_url": url}))


@pytest.fixture
def direct(limited: Front, monkeypatch: pytest.MonkeyPatch) -> Iterator[Direct]:
    """Nothing is stored, nothing reserved, and each refusal has measured first."""
    monkeypatch.setattr(quota, "_MEASURED_AT_MOST_SECONDS", 0)
    with redis.Redis.from_url(limited.settings.redis_url) as connection:
        connection.flushdb()
    limited.parts.objects.delete_prefix("")
    with httpx2.Client(base_url=limited.url, timeout=120, trust_env=False) as client:
        yield Direct(limited, client)


class Direct:
    """Uploads by presigned URLs, step by step."""

    def __init__(self, front: Front, client: httpx2.Client) -> None:
        self.front, self.client = front, client

    def open(self, digest: str, size: int | None) -> httpx2.Response:
        """Asks for a URL."""
        asked = {"method": "PUT"} if size is None else {"method": "PUT", "size_bytes": str(size)}
        return self.client.post(f"/v1/blobs/{digest}/url", params=asked)

    def send(self, opened: httpx2.Response, data: bytes) -> None:
        """Puts bytes by it."""
        url = opened.json()["url"]
        assert httpx2.put(url, content=data, headers=DIRECT, trust_env=False).status_code == 200

    def complete(self, digest: str) -> httpx2.Response:
        """Has them verified."""
        return self.client.post(f"/v1/blobs/{digest}/complete")

    def put(self, size: int) -> httpx2.Response:
        """Another upload, by the service."""
        data = os.urandom(size)
        return self.client.put(f"/v1/blobs/{digest_of(data)}", content=data)

    def counted(self) -> tuple[int, int]:
        """Bytes that are counted as stored, and those that are reserved."""
        stored, reserved = stored_and_reserved(self.front.parts.redis, "default")
        return stored, sum(reserved.values())


class TestWithinAQuota:
    def test_urls_made_side_by_side_do_not_share_the_room(self, direct: Direct) -> None:
        made = [os.urandom(30 * KIB) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            opened = list(pool.map(lambda each: direct.open(digest_of(each), len(each)), made))
        assert sorted(each.status_code for each in opened) == [200] * 3 + [403] * 5
        problem(direct.put(11 * KIB), 403, "quota-exceeded")
        ours = [(data, url) for data, url in zip(made, opened, strict=True) if url.is_success]
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda each: direct.send(each[1], each[0]), ours))
            direct.front.parts.quota.measure_again(
                "default"
            )  # what lies there is not counted twice
            assert direct.put(9 * KIB).status_code == 201
            done = list(pool.map(lambda each: direct.complete(digest_of(each[0])), ours))
        assert [each.status_code for each in done] == [201] * 3
        assert direct.counted() == (99 * KIB, 0)

    def test_a_url_asked_for_again_reserves_nothing_more(self, direct: Direct) -> None:
        digest = digest_of(os.urandom(8))
        for size in (60 * KIB, 60 * KIB, 30 * KIB):
            assert direct.open(digest, size).status_code == 200
        assert direct.counted() == (0, 60 * KIB)
        refused = problem(direct.open(digest, 101 * KIB), 403, "quota-exceeded")["detail"]
        assert f"{41 * KIB} more would be stored" in refused
        assert direct.counted() == (0, 60 * KIB)

    def test_what_is_not_what_was_said_gives_its_room_back(self, direct: Direct) -> None:
        digest = digest_of(os.urandom(8))
        direct.send(direct.open(digest, 90 * KIB), bytes(90 * KIB))
        problem(direct.put(20 * KIB), 403, "quota-exceeded")
        problem(direct.complete(digest), 422, "digest-mismatch")
        assert direct.put(99 * KIB).status_code == 201

    def test_more_than_was_said_needs_room_of_its_own(self, direct: Direct) -> None:
        data = os.urandom(60 * KIB)
        digest = digest_of(data)
        direct.send(direct.open(digest, 10), data)
        direct.front.parts.quota.measure_again("default")
        problem(direct.put(60 * KIB), 403, "quota-exceeded")
        assert direct.complete(digest).status_code == 201
        assert direct.counted() == (60 * KIB, 0)

    def test_a_url_that_ended_holds_no_room_but_what_came_by_it_does(self, direct: Direct) -> None:
        data = os.urandom(60 * KIB)
        opened = direct.open(digest_of(data), len(data))
        assert direct.open(digest_of(b"never comes"), 40 * KIB).status_code == 200
        direct.send(opened, data)
        problem(direct.put(30 * KIB), 403, "quota-exceeded")
        let_time_pass(direct.front)
        assert direct.put(30 * KIB).status_code == 201
        problem(direct.put(30 * KIB), 403, "quota-exceeded")
        assert direct.complete(digest_of(data)).status_code == 201
        assert direct.counted() == (90 * KIB, 0)

    def test_a_blob_that_is_there_needs_no_room(self, direct: Direct) -> None:
        data = os.urandom(90 * KIB)
        digest = digest_of(data)
        direct.client.put(f"/v1/blobs/{digest}", content=data)
        opened = direct.open(digest, 90 * KIB)
        assert direct.counted() == (90 * KIB, 0)
        direct.send(opened, data)
        assert direct.complete(digest).status_code == 200
        assert direct.front.parts.objects.head(upload_path("default", digest)) is None
        assert direct.put(9 * KIB).status_code == 201

    def test_completed_twice_at_once_it_is_one_blob(self, direct: Direct) -> None:
        data = os.urandom(90 * KIB)
        direct.send(direct.open(digest_of(data), len(data)), data)
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(direct.complete, [digest_of(data)] * 4))
        assert {each.status_code for each in done} <= {200, 201}
        direct.front.parts.quota.measure_again("default")
        assert direct.put(9 * KIB).status_code == 201
        assert direct.counted() == (99 * KIB, 0)

    def test_without_a_size_there_is_no_url(self, direct: Direct) -> None:
        answer = direct.open(digest_of(b"of some size"), None)
        problem(answer, 422, "invalid-request")
        assert "say how many bytes will come" in field(answer, "query:size_bytes")
        too_much = direct.open(digest_of(b"large"), direct.front.settings.blob_bytes + 1)
        problem(too_much, 413, "too-large")
