"""The front end while its object storage does not answer: 503 with the reason, and on as soon as it does."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

import httpx2

from service.local.redis_server import RedisServer
from tests.patience import until
from tests.s3_server import CREDENTIALS, S3Server
from tests.service.acting import digest_of, problem
from tests.service.conftest import run_front, small_settings


def test_requests_are_told_to_come_again_and_then_succeed(
    redis_server: RedisServer, redis_url: str, s3: S3Server
) -> None:
    impatient = s3.settings(storage_timeout_seconds=2.0, storage_retry_seconds=2.0)
    settings = small_settings(redis_server, s3.bucket(), **impatient)
    data = os.urandom(9_000_000)
    path = f"/v1/blobs/{digest_of(data)}"
    with (
        contextmanager(run_front)(settings) as front,
        httpx2.Client(base_url=front.url, timeout=120, trust_env=False) as client,
    ):
        os.kill(s3.process.pid, signal.SIGSTOP)
        try:
            answers = [client.put(path, content=data), client.get(path)]
        finally:
            os.kill(s3.process.pid, signal.SIGCONT)
        for answer in answers:
            told = problem(answer, 503, "unavailable")["detail"]
            assert "did not answer in time" in told
            assert s3.endpoint not in told
            assert CREDENTIALS["AWS_ACCESS_KEY_ID"] not in told
            assert int(answer.headers["retry-after"]) > 0
        # It has two seconds for an answer, also while it is busy with what was asked before.
        until(lambda: client.get(path).status_code == 404)
        until(lambda: client.put(path, content=data).status_code == 201)
        until(lambda: client.get(path).content == data)
