"""What became of a chaotic run: each job's end and bytes, what lies in the storage, and the processes."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from service.local.background import Running
from service.storage.objects import Objects
from tests.faults.chaos.evidence import Evidence
from tests.faults.chaos.jobs import KINDS, Answer, Jobs
from upweight.schema import JobRecord, JobState

# Of a process after the chaos, against one that has just begun.
HANDLES_MORE, MEMORY_MORE = 12, 1.35
# For a worker that was only slow: it clears away what it wrote when it hears of its job's end. Retention does not help
# here: it is off, see `S3Server.environment`.
CLEARED_SECONDS = 180


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
    left_at_first: int = 0  # objects that were there when all jobs had ended, and must not stay
    losses: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Calm:
    """The right answer of a kind, and the job that gave it."""

    def __init__(self, jobs: Jobs, id: str) -> None:
        self.record = jobs.client.jobs.get(id)
        self.answer = jobs.answer(id)


def judge(
    report: Report,
    jobs: Jobs,
    records: Mapping[str, JobRecord | None],
    calm: Mapping[str, Calm],
    evidence: Evidence,
) -> Mapping[str, Answer]:
    """No job is missing or has no end; those that succeeded give the same bytes; others say a good reason.

    Answers with what those that succeeded gave.
    """
    report.jobs = len(records)
    there = [record for record in records.values() if record is not None]
    report.losses += [f"{id} is missing" for id, record in records.items() if record is None]
    report.states = dict(Counter(str(record.state) for record in there))
    report.attempts = dict(sorted(Counter(record.attempt for record in there).items()))
    reasons: Counter[str] = Counter()
    answers: dict[str, Answer] = {}
    for record in there:
        sent = jobs.sent[record.id]
        if record.state is JobState.SUCCEEDED:
            report.compared += 1
            answers[record.id] = jobs.answer(record.id)
            other = _differing(answers[record.id], calm[sent.kind].answer)
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
    return answers


def _differing(found: Answer, right: Answer) -> list[str]:
    """Names of the objects that are not as they must be."""
    return sorted(name for name in found | right if found.get(name) != right.get(name))


def judge_storage(
    report: Report,
    objects: Objects,
    records: Mapping[str, JobRecord | None],
    answers: Mapping[str, Answer],
) -> None:
    """The bytes that the manifests tell, in the end nothing of jobs that did not succeed, and no half blob."""
    for id, told in answers.items():
        for meta in objects.walk(f"results/default/{id}"):
            name = meta.path.partition(f"{id}/")[2]
            if name != "manifest.json" and told.get(name) != objects.digest(meta.path):
                report.losses.append(f"other bytes than its manifest tells: {meta.path}")
    left = _left(objects, records, answers)
    report.left_at_first = len(left)
    deadline = time.monotonic() + CLEARED_SECONDS
    while left and time.monotonic() < deadline:
        time.sleep(1)
        left = _left(objects, records, answers)
    report.losses += left
    for meta in objects.walk("blobs"):
        if not objects.digest(meta.path).endswith(meta.path.rpartition("/")[2]):
            report.losses.append(f"a blob with other bytes than its name: {meta.path}")


def _left(
    objects: Objects, records: Mapping[str, JobRecord | None], answers: Mapping[str, Answer]
) -> list[str]:
    """Objects of jobs without a result."""
    found = []
    for id, record in records.items():
        if id not in answers:
            state = record and record.state
            walked = objects.walk(f"results/default/{id}")
            found += [f"orphan of a {state} job: {meta.path}" for meta in walked]
    return found


def judge_processes(
    report: Report, jobs: Jobs, service: Running, before: Mapping[str, tuple[int, int]]
) -> None:
    """After some more jobs in calm, no process has more handles or much more memory than one had at first."""
    for kind in sorted(KINDS):
        assert jobs.answer(jobs.calm(kind))
    for name, (handles, memory) in sizes(service).items():
        if handles > before[name][0] + HANDLES_MORE:
            report.losses.append(f"{name} has {handles} handles; it had {before[name][0]}")
        if memory > before[name][1] * MEMORY_MORE + (64 << 20):
            report.losses.append(f"{name} has {memory >> 20} MiB; it had {before[name][1] >> 20}")


def sizes(service: Running) -> dict[str, tuple[int, int]]:
    """Open handles and resident bytes, by process."""
    found = {}
    for name, pid in service.state().pids.items():
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        handles = len(os.listdir(f"/proc/{pid}/fd"))
        found[name] = handles, pages * os.sysconf("SC_PAGE_SIZE")
    return found
