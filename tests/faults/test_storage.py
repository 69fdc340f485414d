"""The object storage is away, slow, cut in mid-write, or full: what is stored is whole or absent."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from service.local.background import Running, running
from service.storage.layout import blob_path
from service.storage.objects import Objects
from tests.faults.conftest import SHORT
from tests.faults.cutting_proxy import CuttingProxy, cutting_proxy
from tests.faults.slow_jobs import NAMESPACE, SlowJobs
from tests.faults.watched import PATIENCE, files_below
from tests.s3_server import S3Server
from upweight import Client
from upweight.schema import JobState

MIB = 1 << 20
FULL_MIB = 24
STEPS = 2_000  # a second or more: what is done to the service meanwhile comes before the end


@dataclass(frozen=True)
class Behind:
    """A service whose object storage is behind a proxy."""

    slow: SlowJobs
    proxy: CuttingProxy
    objects: Objects


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[Behind]:
    bucket = s3.bucket()
    port = int(s3.endpoint.rpartition(":")[2])
    with cutting_proxy(port) as proxy:
        environment = {
            **SHORT,
            **s3.environment(bucket, proxy.endpoint),
            "UPWEIGHT_STORAGE_TIMEOUT_SECONDS": "30",
            "UPWEIGHT_STORAGE_RETRY_SECONDS": "4",
            "UPWEIGHT_THREADS": "1",
        }
        data = tmp_path_factory.mktemp("behind")
        with running(data, environment=environment) as service, Client(service.url) as client:
            yield Behind(SlowJobs(service, client), proxy, s3.objects(bucket))


def put(service: Running, content: bytes, seconds: float = PATIENCE) -> httpx2.Response:
    digest = hashlib.sha256(content).hexdigest()
    with httpx2.Client(base_url=service.url, timeout=seconds, trust_env=False) as http:
        return http.put(f"/v1/blobs/sha256:{digest}", content=content)


@pytest.mark.parametrize("mode", ["refuse", "cut"])
def test_an_upload_into_a_broken_storage_is_told_to_come_again_and_leaves_nothing(
    behind: Behind, mode: str
) -> None:
    content = os.urandom(10 * MIB)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    behind.proxy.mode = mode
    try:
        answer = put(behind.slow.service, content)
    finally:
        behind.proxy.mode = "through"
    assert answer.status_code == 503, answer.text
    assert answer.json()["type"] == "unavailable"
    assert int(answer.headers["retry-after"]) > 0
    assert behind.objects.head(blob_path(NAMESPACE, digest)) is None
    assert put(behind.slow.service, content).status_code == 201
    assert behind.objects.get(blob_path(NAMESPACE, digest)) == content


def test_a_slow_storage_makes_a_job_slow_and_no_more(behind: Behind) -> None:
    behind.proxy.mode = "slow"
    try:
        done = behind.slow.ended(behind.slow.start())
    finally:
        behind.proxy.mode = "through"
    assert done.state is JobState.SUCCEEDED, done.problem


def test_an_outage_that_lasts_ends_a_job_in_words_and_a_retry_gives_the_same_bytes(
    behind: Behind,
) -> None:
    slow = behind.slow
    calm = slow.matrix(slow.ended(slow.start(STEPS)))
    job = slow.begun(slow.start(STEPS))
    with behind.proxy.away():
        failed = slow.ended(job, 120)
    assert failed.state is JobState.FAILED
    assert failed.problem is not None
    assert (failed.problem.type, failed.problem.status) == ("unavailable", 503)
    assert "object storage" in failed.problem.detail
    assert failed.attempt == 1
    again = slow.ended(slow.client.jobs.retry(job.id), 120)
    assert again.state is JobState.SUCCEEDED, again.problem
    assert slow.matrix(again) == calm


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of a few MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path_factory.mktemp("small")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={FULL_MIB}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_said_so_and_nothing_torn_stays(
    small_disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    environment = {**SHORT, "UPWEIGHT_STORAGE": str(small_disk)}
    data = tmp_path_factory.mktemp("full")
    with running(data, environment=environment) as service, Client(service.url) as client:
        slow = SlowJobs(service, client)
        before = slow.matrix(slow.ended(slow.start()))
        too_much = put(service, os.urandom(2 * FULL_MIB * MIB))
        assert too_much.status_code == 503
        assert "space" in too_much.json()["detail"].lower()
        assert not [path for path in files_below(small_disk) if "#" in path.name]
        filler = small_disk / "filler"
        fill(filler)
        assert slow.client.models.get("net")  # reading needs no room
        answer = put(service, os.urandom(MIB))
        assert answer.status_code == 503
        filler.unlink()
        assert slow.matrix(slow.ended(slow.start())) == before


def fill(path: Path) -> None:
    """Takes all the room that is left."""
    with path.open("wb") as file:
        try:
            while True:
                file.write(bytes(65_536))
                file.flush()
        except OSError:
            return
