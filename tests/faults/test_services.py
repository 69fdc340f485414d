"""Redis or the front end dies in the middle: what was accepted is done, what was not is not there."""

from __future__ import annotations

import hashlib
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import redis

from service.storage.layout import blob_path
from tests.faults.slow_jobs import NAMESPACE, SlowJobs
from tests.faults.watched import PATIENCE
from upweight import Client
from upweight.files.download import FileSink
from upweight.schema import JobState

STEPS = 3_000
MEGABYTE = 1 << 20


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_jobs_queued_and_running_outlive_a_redis_that_ends(
    slow: SlowJobs, number: signal.Signals
) -> None:
    running = [slow.start(STEPS) for _ in range(2)]
    for each in running:
        slow.begun(each)
    queued = [slow.start(priority=priority) for priority in ("high", "default", "low")]
    with redis.Redis.from_url(slow.service.redis_url) as client:
        client.waitaof(
            1, 0, int(PATIENCE * 1000)
        )  # a busy disk has what was accepted two seconds later
    slow.service.restart("redis", number)
    done = [slow.ended(each) for each in (*running, *queued)]
    assert {each.state for each in done} == {JobState.SUCCEEDED}
    assert [each.attempt for each in done[2:]] == [1, 1, 1]
    assert len({slow.matrix(each) for each in done[2:]}) == 1


def test_without_redis_requests_are_told_to_come_again(slow: SlowJobs) -> None:
    service = slow.service
    pid = service.pid("redis")
    os.kill(pid, signal.SIGSTOP)
    try:
        with httpx2.Client(base_url=service.url, timeout=120, trust_env=False) as http:
            answer = http.get("/v1/jobs")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert answer.status_code == 503
    assert answer.json()["type"] == "unavailable"
    assert int(answer.headers["retry-after"]) > 0
    assert slow.ended(slow.start()).state is JobState.SUCCEEDED


class Tripping(io.BytesIO):
    """A file of zeros that kills the front end in the middle of its first reading after the digest's."""

    def __init__(self, slow: SlowJobs, size: int) -> None:
        super().__init__(bytes(size))
        self._slow = slow
        self._middle = size // 2
        self._readings = 0
        self.killed = False

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() == 0:
            self._readings += 1
        if self._readings == 2 and self.tell() >= self._middle and not self.killed:
            self._slow.service.restart("front")
            self.killed = True
        return super().read(size)


@pytest.fixture
def patient(slow: SlowJobs) -> Iterator[Client]:
    with Client(slow.service.url, retries=8) as client:
        yield client


def test_the_sdks_upload_outlives_a_killed_front_end(slow: SlowJobs, patient: Client) -> None:
    file = Tripping(slow, 24 * MEGABYTE)
    record = patient.blobs.put(file)
    assert file.killed
    assert record.digest == f"sha256:{hashlib.sha256(file.getvalue()).hexdigest()}"
    assert patient.blobs.get(record.digest) == file.getvalue()


def test_nothing_can_be_read_of_an_upload_that_a_killed_front_end_did_not_finish(
    slow: SlowJobs,
) -> None:
    content = os.urandom(24 * MEGABYTE)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    path = f"/v1/blobs/{digest}"

    def body() -> Iterator[bytes]:
        yield content[: 16 * MEGABYTE]
        slow.service.restart("front")
        yield content[16 * MEGABYTE :]

    with httpx2.Client(base_url=slow.service.url, timeout=120, trust_env=False) as http:
        with pytest.raises(httpx2.TransportError):
            http.put(path, content=body())
        assert http.head(path).status_code == 404
        assert http.get(path).status_code == 404
        assert not (Path(slow.service.storage) / blob_path(NAMESPACE, digest)).exists()
        assert http.put(path, content=content).status_code == 201
        assert http.get(path).content == content


def test_the_sdks_download_outlives_a_killed_front_end(
    slow: SlowJobs, patient: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on with the byte at which it broke, and checks the digest of the whole."""
    content = os.urandom(24 * MEGABYTE)
    digest = patient.blobs.put(content).digest
    write, asked = FileSink.write, []

    def tripping(sink: FileSink, chunk: bytes) -> None:
        write(sink, chunk)
        if not asked:
            slow.service.restart("front")
            asked.append(sink.headers()["Range"])

    monkeypatch.setattr(FileSink, "write", tripping)
    assert patient.blobs.download(digest, tmp_path / "blob").read_bytes() == content
    assert len(asked) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["blob"]


def test_a_download_that_a_killed_front_end_cuts_is_an_error_and_its_rest_can_be_asked_for(
    slow: SlowJobs, patient: Client
) -> None:
    content = os.urandom(24 * MEGABYTE)
    path = f"/v1/blobs/{patient.blobs.put(content).digest}"
    got = bytearray()

    def read() -> None:
        with http.stream("GET", path) as answer:
            for piece in answer.iter_bytes(MEGABYTE):
                if not got:
                    slow.service.restart("front")
                got.extend(piece)

    with httpx2.Client(base_url=slow.service.url, timeout=60, trust_env=False) as http:
        with pytest.raises(httpx2.TransportError):
            read()
        assert 0 < len(got) < len(content)
        rest = http.get(path, headers={"Range": f"bytes={len(got)}-"})
    assert rest.status_code == 206
    assert bytes(got) + rest.content == content


def test_a_job_goes_on_while_the_front_end_is_away(slow: SlowJobs) -> None:
    job = slow.start(STEPS)
    slow.begun(job)
    slow.service.restart("front")
    done = slow.ended(job)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 1)
