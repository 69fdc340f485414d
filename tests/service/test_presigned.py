"""Blobs that come and go by presigned URLs: nothing counts before it is verified."""

from __future__ import annotations

import os

import httpx2
import pytest

from service.storage.layout import blob_path, upload_path
from tests.service.acting import Acting, digest_of, field, problem
from tests.service.conftest import Front

DIRECT = {"Content-Type": "application/octet-stream"}


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
