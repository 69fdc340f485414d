"""One chaotic run: calm, chaos, calm again, and the reckoning."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx2

from service.local.background import Running, running
from tests.faults.chaos.evidence import Evidence
from tests.faults.chaos.faults import Faults
from tests.faults.chaos.jobs import KINDS, Jobs, register
from tests.faults.chaos.judging import Calm, Report, judge, judge_processes, judge_storage, sizes
from tests.faults.chaos.storage import CutStorage, cut_storage
from tests.faults.conftest import SHORT, SOON
from tests.s3_server import S3Server
from upweight import Client
from upweight.schema import TERMINAL, JobRecord

UNFINISHED = 6  # jobs kept on their way
PAUSE = 2.5  # seconds between two faults, in the mean
HEALING_SECONDS = 300.0


def run(
    data: Path,
    seconds: float,
    seed: int,
    s3: S3Server,
    *,
    evidence: Path,
    log: Path | None = None,
    kinds: Sequence[str] = (),
    job_seconds: float = 0.0,
) -> Report:
    """Chaos for so long, in a folder and a bucket of its own; of some kinds of faults, or of all.

    Jobs are sent `job_seconds` apart, or as soon as there is room for one. Results that differ from a calm run's are
    kept in `evidence`, with theirs.
    """
    choice = random.Random(seed)
    scratch = data / "scratch"
    scratch.mkdir(parents=True)
    lines = log.open("w", buffering=1) if log is not None else None
    try:
        with cut_storage(s3) as storage:
            environment = {**SHORT, "UPWEIGHT_SCRATCH": str(scratch), **storage.environment}
            with running(
                data / "service",
                workers=2,
                environment=environment,
                log=None if lines is None else lambda line: print(line, file=lines),
                longest_pause=SOON,
            ) as service:
                chaos = _Chaos(service, storage, choice, seconds, job_seconds)
                return chaos.run(kinds, evidence)
    finally:
        if lines is not None:
            lines.close()


class _Chaos:
    def __init__(
        self,
        service: Running,
        storage: CutStorage,
        choice: random.Random,
        seconds: float,
        job_seconds: float,
    ) -> None:
        self._service, self._storage, self._choice = service, storage, choice
        self._seconds, self._job_seconds = seconds, job_seconds

    def run(self, kinds: Sequence[str], evidence: Path) -> Report:
        service, objects = self._service, self._storage.objects
        report = Report(seconds=self._seconds)
        with (
            Client(service.url, retries=8) as client,
            httpx2.Client(base_url=service.url, timeout=60, trust_env=False) as http,
        ):
            register(client)
            jobs = Jobs(client, http, self._choice)
            calm = {kind: Calm(jobs, jobs.calm(kind)) for kind in KINDS}
            before = sizes(service)
            faults = Faults(service, self._storage.proxy, self._choice, jobs.cancel_one, kinds)
            self._break(jobs, faults)
            began = time.monotonic()
            service.wait_until_ready(60)
            records = _ended(jobs)
            report.healed_in_seconds = round(time.monotonic() - began, 1)
            report.faults = dict(sorted(faults.made.items()))
            report.requests_repeated, report.keys_used_twice = jobs.refused, jobs.twice
            answers = judge(report, jobs, records, calm, Evidence(objects, evidence))
            judge_storage(report, objects, records, answers)
            judge_processes(report, jobs, service, before)
        return report

    def _break(self, jobs: Jobs, faults: Faults) -> None:
        """Until the time is over, and each kind of fault has come, however long each of them takes."""
        now = time.monotonic()
        deadline, next_job, next_fault = now + self._seconds, now, now + 1.0
        number = 0
        while (now := time.monotonic()) < deadline or faults.made.keys() != faults.kinds.keys():
            if now >= next_job and jobs.unfinished() < UNFINISHED:
                jobs.send(number)
                number += 1
                next_job = now + self._job_seconds
            if time.monotonic() >= next_fault:
                faults.one()
                next_fault = time.monotonic() + self._choice.expovariate(1 / PAUSE)
            time.sleep(0.05)
        faults.end()


def _ended(jobs: Jobs) -> Mapping[str, JobRecord | None]:
    """All records. What has ended stays as it is, so only the others are asked for again."""
    deadline = time.monotonic() + HEALING_SECONDS
    records = jobs.records(jobs.sent)
    while time.monotonic() < deadline:
        waiting = [id for id, each in records.items() if each and each.state not in TERMINAL]
        if not waiting:
            break
        time.sleep(0.5)
        records |= jobs.records(waiting)
    return records
