"""Blobs: sent once, streamed, checked, resumed."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from tests.upweight.local_server import Asked, Handler, Server, answer, cut, dropped
from upweight import Client, UnexpectedAnswer, errors
from upweight.files.download import FileSink

BYTES = bytes(range(256)) * 9000  # more than two chunks
DIGEST = "sha256:" + hashlib.sha256(BYTES).hexdigest()
PATH = f"/v1/blobs/{DIGEST}"
STORED = {"digest": DIGEST, "size_bytes": len(BYTES)}


def test_bytes_that_the_service_has_are_not_sent(server: Server, client: Client) -> None:
    server.on("HEAD", PATH, answer(200, Content_Length=len(BYTES)))
    record = client.blobs.put(BYTES)
    assert (record.digest, record.size_bytes) == (DIGEST, len(BYTES))
    assert [asked.method for asked in server.asked] == ["HEAD"]


class Unseekable(io.BytesIO):
    def seekable(self) -> bool:
        return False

    def seek(self, *args: int) -> int:
        raise io.UnsupportedOperation("seek")


def _sources(folder: Path) -> dict[str, object]:
    path = folder / "weights.bin"
    path.write_bytes(BYTES)
    return {
        "path": path,
        "text": str(path),
        "bytes": BYTES,
        "view": memoryview(BYTES),
        "file": io.BytesIO(BYTES),
        "stream": Unseekable(BYTES),
    }


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "view", "file", "stream"])
def test_every_source_arrives_whole_after_a_lost_first_try(
    server: Server, client: Client, tmp_path: Path, kind: str
) -> None:
    server.on("HEAD", PATH, answer(404))
    server.on("PUT", PATH, dropped, answer(201, STORED))
    client.blobs.put(_sources(tmp_path)[kind])  # type: ignore[arg-type]
    sent = [asked.body for asked in server.asked if asked.method == "PUT"]
    assert sent == [BYTES, BYTES]


def test_an_open_file_is_sent_from_where_it_stands(server: Server, client: Client) -> None:
    file = io.BytesIO(b"head" + BYTES)
    file.read(4)
    server.on("HEAD", PATH, answer(404))
    server.on("PUT", PATH, answer(201, STORED))
    assert client.blobs.put(file).digest == DIGEST
    assert server.asked[-1].body == BYTES


def test_a_digest_that_the_service_refuses_is_raised(server: Server, client: Client) -> None:
    body = {"type": "digest-mismatch", "title": "t", "status": 422, "detail": "changed on the way"}
    server.on("HEAD", PATH, answer(404))
    server.on("PUT", PATH, answer(422, body, Content_Type="application/problem+json"))
    with pytest.raises(errors.DigestMismatch):
        client.blobs.put(BYTES)


def test_a_broken_download_goes_on_where_it_stopped(
    server: Server, client: Client, tmp_path: Path
) -> None:
    def rest(handler: Handler, asked: Asked) -> None:
        start = int(asked.headers["range"].removeprefix("bytes=").removesuffix("-"))
        given = f"bytes {start}-{len(BYTES) - 1}/{len(BYTES)}"
        answer(206, BYTES[start:], Content_Range=given)(handler, asked)

    server.on("GET", PATH, cut(BYTES, 1_000_000), rest)
    path = client.blobs.download(DIGEST, tmp_path / "weights.bin")
    assert path.read_bytes() == BYTES
    assert [p.name for p in tmp_path.iterdir()] == ["weights.bin"]


def test_a_service_without_ranges_is_read_from_the_start(
    server: Server, client: Client, tmp_path: Path
) -> None:
    server.on("GET", PATH, cut(BYTES, 1_000_000), answer(200, BYTES))
    assert client.blobs.download(DIGEST, tmp_path / "w").read_bytes() == BYTES


def test_a_wrong_part_is_not_glued_on(server: Server, client: Client, tmp_path: Path) -> None:
    wrong = answer(206, BYTES[5:], Content_Range=f"bytes 5-{len(BYTES) - 1}/{len(BYTES)}")
    server.on("GET", PATH, cut(BYTES, 1_000_000), wrong)
    with pytest.raises(UnexpectedAnswer, match="another part"):
        client.blobs.download(DIGEST, tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


def test_wrong_bytes_leave_what_was_there_before(
    server: Server, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "w").write_bytes(b"before")
    server.on("GET", PATH, answer(200, b"other bytes"))
    with pytest.raises(errors.DigestMismatch, match="nothing was kept"):
        client.blobs.download(DIGEST, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_upload_without_a_valid_key_says_how_to_give_one(server: Server, client: Client) -> None:
    server.on("HEAD", PATH, answer(401))
    with pytest.raises(errors.Unauthorized, match="UPWEIGHT_API_KEY"):
        client.blobs.put(BYTES)


def test_an_upload_is_streamed_with_its_length(server: Server, client: Client) -> None:
    server.on("HEAD", PATH, answer(404))
    server.on("PUT", PATH, answer(201, STORED))
    client.blobs.put(BYTES)
    headers = server.asked[-1].headers
    assert headers["content-length"] == str(len(BYTES))
    assert "transfer-encoding" not in headers


def test_an_interrupted_download_leaves_nothing_behind(
    server: Server, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(sink: FileSink, chunk: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FileSink, "write", interrupt)
    server.on("GET", PATH, answer(200, BYTES))
    with pytest.raises(KeyboardInterrupt):
        client.blobs.download(DIGEST, tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_blob_has_no_record(server: Server, client: Client) -> None:
    assert client.blobs.head(DIGEST) is None
