"""What killed writers left is found, and can be deleted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from service.storage.leftovers import broken_uploads
from service.storage.objects import Objects
from tests.patience import until
from tests.s3_server import CREDENTIALS, S3Server, unfinished

UPLOAD = """
import sys, time
from service.storage.objects import Objects
from service.storage.stores import StoreOptions
objects = Objects(sys.argv[1], StoreOptions(sys.argv[2] or None, "us-east-1", allow_http=True))
def chunks():
    yield bytes(30_000_000)
    print("begun", flush=True)
    time.sleep(600)
objects.put_stream("blobs/ns/ab/abc", chunks())
"""


def killed_upload(objects: Objects, begun: Callable[[], object]) -> None:
    """A process that is killed in the middle of writing an object, once its first bytes are there."""
    process = subprocess.Popen(
        [sys.executable, "-c", UPLOAD, objects.url, objects.options.endpoint or ""],
        stdout=subprocess.PIPE,
        env={**os.environ, **CREDENTIALS},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    until(begun)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_staging_file_of_a_killed_writer_is_found_in_a_folder(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    killed_upload(
        objects, lambda: any(each.size_bytes >= 8_000_000 for each in broken_uploads(objects))
    )
    objects.put("blobs/ns/ab/whole", b"1")
    assert objects.head("blobs/ns/ab/abc") is None
    (upload,) = broken_uploads(objects)
    assert (upload.path, upload.size_bytes >= 8_000_000) == ("abc#1", True)
    assert abs((datetime.now(UTC) - upload.modified).total_seconds()) < 60
    upload.delete()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["whole"]


def test_parts_of_a_killed_writer_are_found_on_s3(s3: S3Server) -> None:
    objects = s3.objects()
    killed_upload(objects, lambda: unfinished(objects))
    assert objects.head("blobs/ns/ab/abc") is None
    (upload,) = broken_uploads(objects)
    assert upload.path.endswith("some/prefix/blobs/ns/ab/abc")
    assert upload.modified == unfinished(objects)[0]["Initiated"]
    upload.delete()
    assert unfinished(objects) == []
