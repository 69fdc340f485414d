"""One chaotic run: calm, chaos, calm again, and the reckoning."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from service.local.background import Running, running
from tests.faults.chaos.evidence import Evidence
from tests.faults.chaos.faults import Faults
from tests.faults.chaos.jobs import KINDS, Answer, Jobs, register
from tests.faults.conftest import SHORT
from upweight import Client
from upweight.schema import TERMINAL, JobRecord, JobState

UNFINISHED = 6  # jobs kept on their way
PAUSE = 2.5  # seconds between two faults, in the mean
FEWEST_FAULTS = 4  # however long each of them takes
HEALING_SECONDS = 300.0
HANDLES_MORE, MEMORY_MORE = (
    12,
    1.35,
)  # of a process after the chaos, against one that has just begun


@dataclass
class Report:
    """What was done and what became of it. `losses` are all that must not be."""

    seconds: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    jobs: int = 0
    states: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    requests_repeated: int = 0
    keys_used_twice: int = 0
    compared: int = 0
    healed_in_seconds: float = 0.0
    losses: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def run(
    data: Path,
    seconds: float,
    seed: int,
    *,
    evidence: Path,
    log: Path | None = None,
    kinds: Sequence[str] = (),
) -> Report:
    """Chaos for so long, in a folder of its own; of some kinds of faults, or of all.

    Results that differ from a calm run's are kept in `evidence`, with theirs.
    """
    choice = random.Random(seed)
    scratch = data / "scratch"
    scratch.mkdir(parents=True)
    environment = {**SHORT, "UPWEIGHT_SCRATCH": str(scratch), "UPWEIGHT_ORPHAN_SECONDS": "1e10"}
    lines = log.open("w", buffering=1) if log is not None else None
    try:
        with running(
            data / "service",
            workers=2,
            environment=environment,
            log=None if lines is None else lambda line: print(line, file=lines),
        ) as service:
            return _run(service, seconds, choice, kinds, evidence)
    finally:
        if lines is not None:
            lines.close()


def _run(
    service: Running,
    seconds: float,
    choice: random.Random,
    kinds: Sequence[str],
    evidence: Path,
) -> Report:
    report = Report(seconds=seconds)
    with (
        Client(service.url, retries=8) as client,
        httpx2.Client(base_url=service.url, timeout=60, trust_env=False) as http,
    ):
        register(client)
        jobs = Jobs(client, http, choice)
        calm = {kind: Calm(jobs, jobs.calm(kind)) for kind in KINDS}
        before = _sizes(service)
        faults = Faults(service, choice, jobs.cancel_one, kinds)
        _chaos(jobs, faults, seconds, choice)
        began = time.monotonic()
        service.wait_until_ready(60)
        records = _ended(jobs)
        report.healed_in_seconds = round(time.monotonic() - began, 1)
        report.faults = dict(sorted(faults.made.items()))
        report.requests_repeated, report.keys_used_twice = jobs.refused, jobs.twice
        _judge(report, jobs, records, calm, Evidence(Path(service.storage), evidence))
        _judge_storage(report, Path(service.storage), records)
        _judge_processes(report, jobs, service, before)
    return report


def _chaos(jobs: Jobs, faults: Faults, seconds: float, choice: random.Random) -> None:
    deadline = time.monotonic() + seconds
    number = 0
    next_fault = time.monotonic() + 1.0
    while time.monotonic() < deadline or sum(faults.made.values()) < FEWEST_FAULTS:
        if jobs.unfinished() < UNFINISHED:
            jobs.send(number)
            number += 1
        if time.monotonic() >= next_fault:
            faults.one()
            next_fault = time.monotonic() + choice.expovariate(1 / PAUSE)
        time.sleep(0.05)


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


class Calm:
    """The right answer of a kind, and the job that gave it."""

    def __init__(self, jobs: Jobs, id: str) -> None:
        self.record = jobs.client.jobs.get(id)
        self.answer = jobs.answer(id)


def _judge(
    report: Report,
    jobs: Jobs,
    records: Mapping[str, JobRecord | None],
    calm: Mapping[str, Calm],
    evidence: Evidence,
) -> None:
    """No job is missing or has no end; those that succeeded give the same bytes; others say a good reason."""
    report.jobs = len(records)
    there = [record for record in records.values() if record is not None]
    report.losses += [f"{id} is missing" for id, record in records.items() if record is None]
    report.states = dict(Counter(str(record.state) for record in there))
    report.attempts = dict(sorted(Counter(record.attempt for record in there).items()))
    reasons: Counter[str] = Counter()
    for record in there:
        sent = jobs.sent[record.id]
        if record.state is JobState.SUCCEEDED:
            report.compared += 1
            other = _differing(jobs.answer(record.id), calm[sent.kind].answer)
            if other:
                told = evidence.keep(record, calm[sent.kind].record)
                report.losses.append(
                    f"{record.id} ({sent.kind}), attempt {record.attempt}, has other bytes in "
                    f"{', '.join(other)}: {told}"
                )
        elif record.state is JobState.FAILED and record.problem is not None:
            reasons[record.problem.type] += 1
            if record.problem.type not in ("worker-lost", "unavailable"):
                report.losses.append(f"{record.id} failed: {record.problem.detail}")
        elif not (record.state is JobState.CANCELLED and sent.cancelled):
            report.losses.append(f"{record.id} is {record.state} for no reason")
    report.reasons = dict(reasons)


def _differing(found: Answer, right: Answer) -> list[str]:
    """Names of the objects that are not as they must be."""
    return sorted(name for name in found | right if found.get(name) != right.get(name))


def _judge_storage(report: Report, storage: Path, records: Mapping[str, JobRecord | None]) -> None:
    """Nothing of jobs that did not succeed, no half blob."""
    states = {id: record.state for id, record in records.items() if record is not None}
    for file in (storage / "results").rglob("*"):
        if not file.is_file():
            continue
        id = next((part for part in file.parts if part.startswith("job_")), "")
        if id in records and states.get(id) is not JobState.SUCCEEDED:
            report.losses.append(f"orphan of a {states.get(id)} job: {file.relative_to(storage)}")


def _judge_processes(
    report: Report, jobs: Jobs, service: Running, before: Mapping[str, tuple[int, int]]
) -> None:
    """After some more jobs in calm, no process has more handles or much more memory than one had at first."""
    for kind in sorted(KINDS):
        assert jobs.answer(jobs.calm(kind))
    for name, (handles, memory) in _sizes(service).items():
        if handles > before[name][0] + HANDLES_MORE:
            report.losses.append(f"{name} has {handles} handles; it had {before[name][0]}")
        if memory > before[name][1] * MEMORY_MORE + (64 << 20):
            report.losses.append(f"{name} has {memory >> 20} MiB; it had {before[name][1] >> 20}")


def _sizes(service: Running) -> dict[str, tuple[int, int]]:
    """Open handles and resident bytes, by process."""
    found = {}
    for name, pid in service.state().pids.items():
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        handles = len(os.listdir(f"/proc/{pid}/fd"))
        found[name] = handles, pages * os.sysconf("SC_PAGE_SIZE")
    return found
