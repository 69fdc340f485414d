"""One request many times at once, and clocks that jump: no double effect."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx2

from tests.faults.conftest import SHORT
from tests.faults.slow_jobs import SlowJobs, worker_pid
from tests.faults.watched import PATIENCE
from upweight.schema import JobRecord, JobState

STEPS = 2_500  # some seconds
REQUEST = {
    "kind": "influences",
    "model": "net",
    "train": {"dataset": "rows"},
    "test": {"dataset": "rows", "rows": "0:4"},
    "inversion": {"method": "direct"},
    "hessian_regularization": 1.0,
    "reuse": False,
}
# time.time and datetime.now of a process, shifted by the seconds that a file says at the moment.
SHIFTED = """
import os, time
_real = time.time
def _shifted():
    try:
        with open(os.environ["SHIFT_FILE"]) as file:
            return _real() + float(file.read() or 0)
    except OSError:
        return _real()
time.time = _shifted
"""


def test_the_same_request_many_times_at_once_makes_one_job_that_is_done_once(
    slow: SlowJobs,
) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    with (
        httpx2.Client(base_url=slow.service.url, timeout=60, trust_env=False) as http,
        ThreadPoolExecutor(16) as pool,
    ):
        send = lambda _: http.post("/v1/jobs", json=REQUEST, headers=key)  # noqa: E731
        answers = list(pool.map(send, range(32)))
    assert {answer.status_code for answer in answers} == {202}
    (id,) = {answer.json()["id"] for answer in answers}
    done = slow.ended(slow.client.jobs.get(id))
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 1)


def test_the_same_blob_many_times_at_once_is_stored_once_and_whole(slow: SlowJobs) -> None:
    content = os.urandom(6 << 20)
    path = f"/v1/blobs/sha256:{hashlib.sha256(content).hexdigest()}"
    with (
        httpx2.Client(base_url=slow.service.url, timeout=60, trust_env=False) as http,
        ThreadPoolExecutor(6) as pool,
    ):
        answers = list(pool.map(lambda _: http.put(path, content=content), range(6)))
        assert {answer.status_code for answer in answers} <= {200, 201}
        assert http.get(path).content == content


def half_done(record: JobRecord) -> bool:
    done = record.progress.done if record.stage == "lissa" and record.progress else 0
    return record.finished_at is not None or done > STEPS // 2


def test_a_worker_whose_clock_jumps_forth_and_back_does_its_job_and_loses_none(
    slow: SlowJobs, tmp_path: Path
) -> None:
    """Leases are by Redis's clock and durations by a clock that only goes on."""
    (tmp_path / "sitecustomize.py").write_text(SHIFTED)
    shift = tmp_path / "shift"
    shift.write_text("0")
    workers = [pid for name, pid in slow.service.state().pids.items() if "worker" in name]
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "SHIFT_FILE": str(shift),
        "UPWEIGHT_REDIS_URL": slow.service.redis_url,
        "UPWEIGHT_STORAGE": str(slow.service.storage),
        **SHORT,
        "UPWEIGHT_THREADS": "1",
    }
    odd = subprocess.Popen(
        [sys.executable, "-m", "workers"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        calm = slow.matrix(slow.ended(slow.start(STEPS)))
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        job = slow.start(STEPS)
        assert worker_pid(slow.seen(job, lambda record: record.worker is not None)) == odd.pid
        shift.write_text("7200")
        slow.seen(job, half_done)
        shift.write_text("-7200")
        done = slow.ended(job)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        odd.send_signal(signal.SIGTERM)
        odd.wait(PATIENCE)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 1)
    assert slow.matrix(done) == calm
    assert slow.ended(slow.start()).state is JobState.SUCCEEDED
