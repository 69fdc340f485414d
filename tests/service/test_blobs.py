"""Blobs: content-addressed, streamed both ways, whole or absent."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import httpx2
import pytest

from service.storage.layout import blob_path
from tests.s3_server import unfinished
from tests.service.acting import Acting, digest_of, field, problem
from tests.service.conftest import Front


def stored(front: Front, digest: str) -> bool:
    return front.parts.objects.head(blob_path("default", digest)) is not None


def leftovers(front: Front) -> list[str]:
    """Objects that are no whole blob, also those that the store itself hides."""
    objects = front.parts.objects
    if objects.folder is None:
        return [upload["Key"] for upload in unfinished(objects)]
    return [name for _, _, found in os.walk(objects.folder) for name in found if "#" in name]


pytestmark = pytest.mark.both_storages


def test_what_was_put_can_be_got(client: httpx2.Client) -> None:
    data = os.urandom(9_000_000)
    digest = digest_of(data)
    put = client.put(f"/v1/blobs/{digest}", content=data)
    assert put.status_code == 201
    assert put.json() == {"digest": digest, "size_bytes": len(data)}
    got = client.get(f"/v1/blobs/{digest}")
    assert got.content == data
    assert got.headers["etag"] == f'"{digest}"'
    assert got.headers["content-length"] == str(len(data))


def test_a_chunked_upload_needs_no_length(client: httpx2.Client) -> None:
    pieces = [os.urandom(100_000) for _ in range(7)]
    digest = digest_of(b"".join(pieces))
    assert client.put(f"/v1/blobs/{digest}", content=iter(pieces)).status_code == 201
    assert client.get(f"/v1/blobs/{digest}").content == b"".join(pieces)


def test_an_empty_blob_is_a_blob(client: httpx2.Client) -> None:
    digest = digest_of(b"")
    assert client.put(f"/v1/blobs/{digest}", content=b"").status_code in (200, 201)
    assert client.get(f"/v1/blobs/{digest}").content == b""


def test_the_same_bytes_again_are_answered_without_being_read(client: httpx2.Client) -> None:
    data = os.urandom(1000)
    digest = digest_of(data)
    client.put(f"/v1/blobs/{digest}", content=data)

    def never_ending() -> Iterator[bytes]:
        for _ in range(200):
            yield os.urandom(1000)
            time.sleep(0.002)

    again = client.put(f"/v1/blobs/{digest}", content=never_ending())
    assert again.status_code == 200
    assert again.json()["size_bytes"] == 1000


def test_a_wrong_digest_is_refused_and_leaves_nothing_behind(
    client: httpx2.Client, front: Front
) -> None:
    claimed = digest_of(os.urandom(8))
    answer = client.put(f"/v1/blobs/{claimed}", content=os.urandom(20_000_000))
    problem(answer, 422, "digest-mismatch")
    assert "have the digest sha256:" in field(answer, "path:digest")
    assert not stored(front, claimed)
    assert leftovers(front) == []


def test_a_sender_that_breaks_off_leaves_nothing_behind(
    client: httpx2.Client, front: Front
) -> None:
    data = os.urandom(12_000_000)
    digest = digest_of(data)
    host, port = front.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"PUT /v1/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data[:-1])
    deadline = time.monotonic() + 60
    while leftovers(front):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not stored(front, digest)


def test_a_blob_over_the_limit_is_refused_before_it_is_read(
    client: httpx2.Client, front: Front
) -> None:
    digest = digest_of(b"never made")
    limit = front.settings.blob_bytes
    host, port = front.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = f"PUT /v1/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {limit + 1}\r\n\r\n"
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(4096)


def test_a_blob_that_grows_over_the_limit_is_refused_and_leaves_nothing(
    client: httpx2.Client, front: Front
) -> None:
    digest = digest_of(b"never made either")
    piece = bytes(1024**2)
    pieces = (piece for _ in range(front.settings.blob_bytes // len(piece) + 3))
    problem(client.put(f"/v1/blobs/{digest}", content=pieces), 413, "too-large")
    assert not stored(front, digest)
    assert leftovers(front) == []


def test_a_digest_that_is_none_is_refused_by_name(client: httpx2.Client) -> None:
    for path in ("sha256:ABC", "md5:" + "0" * 32, "sha256:" + "0" * 63 + "%2F"):
        answer = client.put(f"/v1/blobs/{path}", content=b"x")
        assert answer.status_code in (404, 422)
    answer = client.get("/v1/blobs/sha256:ABC")
    problem(answer, 422, "invalid-request")
    assert "must match ^sha256:" in field(answer, "path:digest")


def test_an_unknown_blob_is_not_found(client: httpx2.Client) -> None:
    digest = digest_of(os.urandom(8))
    problem(client.get(f"/v1/blobs/{digest}"), 404, "not-found")
    assert client.head(f"/v1/blobs/{digest}").status_code == 404


def test_head_tells_the_size(acting: Acting) -> None:
    digest = acting.upload(os.urandom(777))
    head = acting.client.head(f"/v1/blobs/{digest}")
    assert head.status_code == 200
    assert head.headers["content-length"] == "777"
    assert head.headers["accept-ranges"] == "bytes"


def test_ranges_are_answered_as_http_says(acting: Acting) -> None:
    data = os.urandom(1000)
    path = f"/v1/blobs/{acting.upload(data)}"
    for asked, start, stop in (
        ("bytes=0-9", 0, 10),
        ("bytes=990-", 990, 1000),
        ("bytes=-5", 995, 1000),
        ("bytes=5-5000", 5, 1000),
    ):
        part = acting.client.get(path, headers={"Range": asked})
        assert part.status_code == 206
        assert part.content == data[start:stop]
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/1000"


def test_a_range_outside_is_416(acting: Acting) -> None:
    path = f"/v1/blobs/{acting.upload(os.urandom(10))}"
    for asked in ("bytes=10-", "bytes=-0", "bytes=99-100"):
        answer = acting.client.get(path, headers={"Range": asked})
        problem(answer, 416, "range-not-satisfiable")
        assert answer.headers["content-range"] == "bytes */10"


def test_several_ranges_are_answered_with_the_whole(acting: Acting) -> None:
    path = f"/v1/blobs/{acting.upload(os.urandom(10))}"
    assert acting.client.get(path, headers={"Range": "bytes=0-1,3-4"}).status_code == 200


def test_a_range_of_another_version_is_answered_with_the_whole(acting: Acting) -> None:
    path = f"/v1/blobs/{acting.upload(os.urandom(10))}"
    headers = {"Range": "bytes=0-1", "If-Range": '"sha256:other"'}
    assert acting.client.get(path, headers=headers).status_code == 200


def test_a_client_that_has_the_blob_is_told_so(acting: Acting) -> None:
    digest = acting.upload(os.urandom(10))
    answer = acting.client.get(f"/v1/blobs/{digest}", headers={"If-None-Match": f'"{digest}"'})
    assert answer.status_code == 304
    assert answer.content == b""
