"""A storage that is away, slow, full, not ours, or not to be relied on: said with its reason, and nothing torn."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from service.storage.objects import Objects
from service.storage.stores import StoreOptions
from tests.patience import PATIENCE
from tests.s3_server import CREDENTIALS, S3Server
from upweight.errors import Unavailable

IMPATIENT = {"storage_timeout_seconds": 0.5, "storage_retry_seconds": 1.0}


@contextmanager
def held(process: int) -> Iterator[None]:
    """A process that does nothing for a while, as an overloaded one."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def test_a_storage_that_does_not_answer_in_time_is_given_up_with_that_reason(s3: S3Server) -> None:
    patient = s3.objects()
    objects = s3.objects(patient.url, **IMPATIENT)
    patient.put("a", b"1")
    with held(s3.process.pid):
        for call in (
            lambda: objects.get("a"),
            lambda: objects.put("b", b"1"),
            lambda: objects.put_new("c", b"1"),
            lambda: objects.put_stream("d", iter([bytes(9_000_000)])),
        ):
            with pytest.raises(Unavailable, match="did not answer in time"):
                call()
    assert patient.head("d") is None


def test_a_storage_that_was_slow_for_a_moment_is_tried_again(s3: S3Server) -> None:
    patient = s3.objects()
    objects = s3.objects(patient.url, storage_timeout_seconds=0.5, storage_retry_seconds=PATIENCE)
    with held(s3.process.pid):
        creator = threading.Thread(target=objects.put_new, args=("a", b"once"))
        creator.start()
        time.sleep(1.5)
    creator.join(PATIENCE)
    assert patient.get("a") == b"once"
    assert patient.put_new("a", b"once")


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("credentials")
def test_nobody_at_the_address_is_said_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        options = StoreOptions(endpoint, "us-east-1", allow_http=True, retry_seconds=0.5)
        objects = Objects("s3://bucket", options)
        with pytest.raises(Unavailable) as raised:
            objects.get("a")
    assert "Connection refused" in raised.value.detail
    assert raised.value.retry_after


def test_a_bucket_that_is_not_there_is_said_at_the_start(s3: S3Server) -> None:
    with pytest.raises(Unavailable, match="no such bucket; create it"):
        s3.objects("s3://there-is-no-such-bucket").verify()


def test_a_url_with_credentials_is_refused_without_showing_them() -> None:
    with pytest.raises(Unavailable, match="holds credentials") as raised:
        Objects("s3://me:secret-word@bucket")
    assert "secret-word" not in str(raised.value)


@pytest.mark.usefixtures("credentials")
def test_plain_http_must_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="UPWEIGHT_STORAGE_ALLOW_HTTP"):
        Objects("s3://bucket", StoreOptions(endpoint="http://127.0.0.1:1"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    objects = Objects("s3://bucket", StoreOptions(region="us-east-1"))
    with pytest.raises(Unavailable, match="UPWEIGHT_STORAGE_ALLOW_HTTP"):
        objects.get("a")


@pytest.mark.parametrize("url", ["ftp://host/a", "memory:///", "s3://", "http://host/bucket"])
def test_what_is_no_storage_is_refused(url: str) -> None:
    with pytest.raises(Unavailable, match="object storage"):
        Objects(url)


class Forgetful(BaseHTTPRequestHandler):
    """As some servers that speak S3: it takes every PUT, whatever the condition, and answers as if all was well."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


class Busy(Forgetful):
    """As S3 while another's creation of the same object is under way, which then fails: a conflict, and no object."""

    conflicts = 2

    def do_PUT(self) -> None:
        if self.conflicts == 0:
            self._answer()
            return
        type(self).conflicts -= 1
        self._refuse(409)

    def do_HEAD(self) -> None:
        self._refuse(404)

    def _refuse(self, status: int) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[Objects]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        options = StoreOptions(endpoint, "us-east-1", allow_http=True, retry_seconds=PATIENCE)
        yield Objects("s3://bucket", options)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.usefixtures("credentials")
def test_a_storage_that_overwrites_silently_is_refused_at_the_start() -> None:
    with served(Forgetful) as objects, pytest.raises(Unavailable, match="ignores create-if-absent"):
        objects.verify()


@pytest.mark.usefixtures("credentials")
def test_a_creation_that_met_anothers_is_tried_again_until_there_is_an_object() -> None:
    with served(Busy) as objects:
        assert objects.put_new("a", b"1")
    assert Busy.conflicts == 0


FULL = """
import resource, sys
from service.storage.objects import Objects
from upweight.errors import Unavailable
objects = Objects(sys.argv[1])
objects.put("before", b"1")
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
for name, write in {
    "put": lambda: objects.put("a", bytes(2_000_000)),
    "put_new": lambda: objects.put_new("b", bytes(2_000_000)),
    "put_stream": lambda: objects.put_stream("c", iter([bytes(9_000_000)] * 2)),
}.items():
    try:
        write()
    except Unavailable as error:
        print(error.detail)
print(sorted(meta.path for meta in objects.walk()))
"""


def test_a_folder_that_takes_no_more_says_so_and_keeps_no_part(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    *said, left = done.stdout.splitlines()
    assert len(said) == 3, done
    assert all("File too large" in line for line in said)
    assert left == "['before']"


def test_no_error_or_log_shows_a_secret(s3: S3Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    objects = s3.objects("s3://there-is-no-such-bucket", **IMPATIENT)
    with held(s3.process.pid), pytest.raises(Unavailable) as raised:
        objects.get("a")
    told = f"{raised.value!r} {raised.value.detail} {raised.value.__context__!r} {caplog.text}"
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in told
    assert "Authorization" not in told
