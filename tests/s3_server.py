"""A server that speaks S3, as a process: moto's, the one of those tried that honours create-if-absent."""

from __future__ import annotations

import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import boto3
import pytest

from service.local.ports import free_port
from service.local.process import Process
from service.local.watchdog import Watchdog
from service.settings import Settings
from service.storage.objects import Objects, store_options
from tests.patience import PATIENCE

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "upweight-tests",
    "AWS_SECRET_ACCESS_KEY": "a-secret-that-nothing-may-show",
}


class S3Server:
    """Its buckets are in its memory; each caller gets one of its own."""

    def __init__(self, watchdog: Watchdog) -> None:
        port = free_port("127.0.0.1")
        self.endpoint = f"http://127.0.0.1:{port}"
        command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1"]
        self.process = Process("s3", [*command, "-p", str(port)], watchdog=watchdog)

    def start(self) -> None:
        """Ready when it returns."""
        self.process.start()
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self.process.running, list(self.process.tail)
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            self._ask("GET", "/moto-api/")
        except OSError:
            return False
        return True

    def _ask(self, method: str, path: str) -> None:
        request = urllib.request.Request(f"{self.endpoint}{path}", method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(request, timeout=PATIENCE).close()

    def bucket(self) -> str:
        """The URL of a new bucket, with a prefix."""
        name = f"b{uuid4().hex}"
        self._ask("PUT", f"/{name}")
        return f"s3://{name}/some/prefix"

    def environment(self, url: str, endpoint: str | None = None) -> Mapping[str, str]:
        """What a process of the service is told to keep its objects there, by way of a proxy at `endpoint`."""
        return {
            "UPWEIGHT_STORAGE": url,
            "UPWEIGHT_STORAGE_ENDPOINT": endpoint or self.endpoint,
            "UPWEIGHT_STORAGE_ALLOW_HTTP": "true",
            "UPWEIGHT_STORAGE_REGION": "us-east-1",
            "UPWEIGHT_ORPHAN_SECONDS": "1e10",  # this server dates every multipart upload to 2010
            **CREDENTIALS,
        }

    def settings(self, **others: object) -> dict[str, object]:
        """The same as settings; the credentials are in this process's environment."""
        return {
            "storage_endpoint": self.endpoint,
            "storage_allow_http": True,
            "storage_region": "us-east-1",
            "orphan_seconds": 1e10,
            **others,
        }

    def objects(self, url: str | None = None, **others: object) -> Objects:
        """The objects of a bucket, a new one when none is named."""
        options = store_options(Settings(**self.settings(**others)))
        return Objects(url or self.bucket(), options)


@contextmanager
def s3_server(watchdog: Watchdog) -> Iterator[S3Server]:
    """A server, and the credentials for it in this process's environment."""
    server = S3Server(watchdog)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield server
    server.process.kill()


def unfinished(objects: Objects) -> list[dict[str, Any]]:
    """The multipart uploads of a bucket that are neither completed nor aborted."""
    client = boto3.client(
        "s3", endpoint_url=objects.options.endpoint, region_name=objects.options.region
    )
    found = client.list_multipart_uploads(Bucket=urlsplit(objects.url).netloc)
    return list(found.get("Uploads", []))
