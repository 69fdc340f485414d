"""One chaotic run: calm, chaos, calm again, and the reckoning."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from service.local.background import Running, running
from tests.faults.chaos.evidence import Evidence
from tests.faults.chaos.faults import Faults
from tests.faults.chaos.jobs import Jobs
from tests.faults.chaos.judging import (
    Calm,
    Comparing,
    Report,
    judge,
    judge_processes,
    judge_quotas,
    judge_storage,
    sizes,
)
from tests.faults.chaos.storage import CutStorage, cut_storage
from tests.faults.chaos.tenants import CALM, NAMES, SETTINGS, Uploads, tenants_of
from tests.faults.conftest import SHORT, SOON
from tests.s3_server import S3Server
from upweight.schema import TERMINAL, JobRecord

UNFINISHED = 6  # jobs kept on their way
PAUSE = 2.5  # seconds between two faults, in the mean
LOOK_SECONDS = 0.25
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
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Chaos for so long, in a folder and a bucket of its own; of some kinds of faults, or of all.

    Jobs are sent `job_seconds` apart, or as soon as there is room for one. Results that differ from a calm run's are
    kept in `evidence`, with theirs. `tell` hears every minute how far it is.
    """
    choice = random.Random(seed)
    scratch = data / "scratch"
    scratch.mkdir(parents=True)
    with ExitStack() as stack:
        lines = _Lines(stack.enter_context(log.open("w", buffering=1)) if log else None)
        storage = stack.enter_context(cut_storage(s3))
        environment = {**SHORT, **SETTINGS, "UPWEIGHT_SCRATCH": str(scratch), **storage.environment}
        service = stack.enter_context(
            running(
                data / "service",
                workers=2,
                environment=environment,
                log=lines.take,
                longest_pause=SOON,
            )
        )
        chaos = _Chaos(service, storage, choice, seconds, job_seconds, tell)
        report = chaos.run(kinds, evidence)
        report.crashes = len(lines.crashes)
        report.losses += lines.crashes
        return report


class _Lines:
    """What the processes write. The front end's errors are answers with 500, or worse."""

    def __init__(self, file: IO[str] | None) -> None:
        self._file = file
        self.crashes: list[str] = []

    def take(self, line: str) -> None:
        """One line more."""
        if self._file is not None:
            print(line, file=self._file)
        if "front |" in line and ('"level": "error"' in line or '"status": 500' in line):
            self.crashes.append(line)


class _Chaos:
    def __init__(
        self,
        service: Running,
        storage: CutStorage,
        choice: random.Random,
        seconds: float,
        job_seconds: float,
        tell: Callable[[str], None],
    ) -> None:
        self._service, self._storage, self._choice = service, storage, choice
        self._seconds, self._job_seconds, self._tell = seconds, job_seconds, tell

    def run(self, kinds: Sequence[str], evidence: Path) -> Report:
        service, objects = self._service, self._storage.objects
        report = Report(seconds=self._seconds)
        with ExitStack() as stack:
            *tenants, apart = tenants_of(service, objects, [*NAMES, CALM], stack)
            jobs = Jobs(tenants, self._choice)
            uploads = Uploads(tenants, objects, self._choice)
            comparing = Comparing(report, Calm(apart), Evidence(objects, evidence))
            jobs.look = comparing.look
            before = sizes(service)
            actions = {
                "job cancelled": jobs.cancel_one,
                "job tried again": jobs.retry_one,
                "job deleted": jobs.delete_one,
                "uploads in chunks, too many": uploads.burst,
            }
            key = tenants[0].key
            faults = Faults(service, self._storage.proxy, self._choice, actions, key, kinds)
            self._break(jobs, faults, lambda: [*report.losses, *jobs.losses, *uploads.losses])
            began = time.monotonic()
            service.wait_until_ready()
            jobs.finish_deleting()
            records = _ended(jobs)
            report.healed_in_seconds = round(time.monotonic() - began, 1)
            report.faults = dict(sorted(faults.made.items()))
            report.requests_repeated, report.keys_used_twice = jobs.repeated, jobs.twice
            report.actions = dict(sorted(jobs.actions.items()))
            report.uploads = dict(sorted(uploads.answers.items()))
            answers = judge(report, jobs, records, comparing)
            judge_storage(report, objects, tenants, answers)
            uploads.judge()
            judge_quotas(report, service, objects, tenants)
            judge_processes(report, apart, service, before)
            report.losses += jobs.losses + uploads.losses
        return report

    def _break(self, jobs: Jobs, faults: Faults, losses: Callable[[], Sequence[str]]) -> None:
        """Until the time is over, and each kind of fault has come, however long each of them takes."""
        now = next_word = time.monotonic()
        deadline, next_job, next_fault = now + self._seconds, now, now + 1.0
        number = 0
        while (now := time.monotonic()) < deadline or faults.made.keys() != faults.kinds.keys():
            if now >= next_job:
                next_job = now + LOOK_SECONDS
                if jobs.unfinished() < UNFINISHED:
                    jobs.send(number)
                    number += 1
                    next_job = now + self._job_seconds
            if time.monotonic() >= next_fault:
                faults.one()
                next_fault = time.monotonic() + self._choice.expovariate(1 / PAUSE)
            if now >= next_word:
                made, sent = faults.made.total(), len(jobs.sent)
                self._tell(f"{deadline - now:.0f} s left: {made} faults, {sent} jobs, {losses()}")
                next_word = now + 60.0
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
