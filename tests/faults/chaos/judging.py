"""What became of a chaotic run: each job's end and bytes, what lies in the storage, quotas, and the processes."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import redis

from service.limits.quota import stored_and_reserved
from service.local.background import Running
from service.storage.layout import namespace_prefixes
from service.storage.objects import Objects
from tests.faults.chaos.evidence import Evidence
from tests.faults.chaos.jobs import Answer, Jobs, Sent, answer_of, calm
from tests.faults.chaos.kinds import KINDS, LONG
from tests.faults.chaos.tenants import QUOTA, Tenant
from upweight.schema import JobRecord, JobState

# Of a process after the chaos, against one that has just begun.
HANDLES_MORE, MEMORY_MORE = 12, 1.35
# For a worker that was only slow: it clears away what it wrote when it hears of its job's end. Retention does not help
# here: it is off, see `S3Server.environment`.
CLEARED_SECONDS = 180
# Small files beside the arrays (parameters, info, predictions) are not reserved before a job has run.
BESIDE_ARRAYS = 1 << 20


@dataclass
class Report:
    """What was done and what became of it. `losses` are all that must not be."""

    seconds: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    actions: dict[str, int] = field(default_factory=dict)
    uploads: dict[str, int] = field(default_factory=dict)
    jobs: int = 0
    states: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    requests_repeated: int = 0
    keys_used_twice: int = 0
    compared: int = 0
    healed_in_seconds: float = 0.0
    crashes: int = 0  # lines of the log about an answer with 500
    left_at_first: int = 0  # objects that were there when all jobs had ended, and must not stay
    quotas: dict[str, dict[str, int]] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Calm:
    """The right answer of each kind, of a tenant to whom nothing happens."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.records: dict[str, JobRecord] = {}
        self.answers: dict[str, Answer] = {}
        for kind, id in calm(tenant, KINDS).items():
            self.records[kind] = tenant.client.jobs.get(id)
            self.answers[kind] = answer_of(tenant, id)


class Comparing:
    """Whether results have the bytes that they must have, before they are deleted and in the end."""

    def __init__(self, report: Report, calm: Calm, evidence: Evidence) -> None:
        self._report, self._calm, self._evidence = report, calm, evidence

    def look(self, sent: Sent, record: JobRecord, found: Answer) -> None:
        """Counts it, and keeps what is not as it must be."""
        self._report.compared += 1
        right = self._calm.answers[sent.kind]
        other = sorted(name for name in found | right if found.get(name) != right.get(name))
        if other:
            calm = self._calm.tenant.name, self._calm.records[sent.kind]
            told = self._evidence.keep(sent.tenant.name, record, *calm)
            self._report.losses.append(
                f"{record.id} ({sent.kind}), attempt {record.attempt}, has other bytes in "
                f"{', '.join(other)}: {told}"
            )


def judge(
    report: Report, jobs: Jobs, records: Mapping[str, JobRecord | None], comparing: Comparing
) -> Mapping[str, Answer]:
    """No job is missing or has no end; those that succeeded give the same bytes; others say a good reason.

    Answers with what those that succeeded, and are there, gave.
    """
    report.jobs = len(records)
    report.kinds = dict(sorted(Counter(jobs.sent[id].kind for id in records).items()))
    there = [record for record in records.values() if record is not None]
    for id, record in records.items():
        deleted = jobs.sent[id].deleted
        if deleted != (record is None):
            report.losses.append(f"{id} is {'there, and was deleted' if deleted else 'missing'}")
    report.states = dict(Counter(str(record.state) for record in there))
    report.states["deleted"] = sum(job.deleted for job in jobs.sent.values())
    report.attempts = dict(sorted(Counter(record.attempt for record in there).items()))
    reasons: Counter[str] = Counter()
    answers: dict[str, Answer] = {}
    for record in there:
        sent = jobs.sent[record.id]
        if record.state is JobState.SUCCEEDED:
            answers[record.id] = jobs.answer(sent)
            comparing.look(sent, record, answers[record.id])
        elif record.state is JobState.FAILED and record.problem is not None:
            reasons[record.problem.type] += 1
            if record.problem.type not in ("worker-lost", "unavailable"):
                report.losses.append(f"{record.id} failed: {record.problem.detail}")
        elif not (record.state is JobState.CANCELLED and sent.cancelled):
            report.losses.append(f"{record.id} is {record.state} for no reason")
    report.losses += [f"nobody was told of {id} of {name}" for id, name in jobs.untold().items()]
    report.reasons = dict(reasons)
    return answers


def judge_storage(
    report: Report, objects: Objects, tenants: Sequence[Tenant], answers: Mapping[str, Answer]
) -> None:
    """The bytes that the manifests tell, in the end nothing of jobs without a result, and no half blob."""
    left = _left(objects, tenants, answers)
    report.left_at_first = len(left)
    deadline = time.monotonic() + CLEARED_SECONDS
    while left and time.monotonic() < deadline:
        time.sleep(1)
        left = _left(objects, tenants, answers)
    report.losses += [f"orphan: {path}" for path in left]
    for tenant in tenants:
        for path, id, name in _results(objects, tenant):
            told = answers.get(id, {}).get(name)
            if told is not None and told != objects.digest(path):
                report.losses.append(f"other bytes than its manifest tells: {path}")
    for meta in objects.walk("blobs"):
        if not objects.digest(meta.path).endswith(meta.path.rpartition("/")[2]):
            report.losses.append(f"a blob with other bytes than its name: {meta.path}")


def _left(objects: Objects, tenants: Sequence[Tenant], answers: Mapping[str, Answer]) -> list[str]:
    """Objects of jobs without a result."""
    return [
        path for tenant in tenants for path, id, _ in _results(objects, tenant) if id not in answers
    ]


def _results(objects: Objects, tenant: Tenant) -> list[tuple[str, str, str]]:
    """All objects of a tenant's results: path, job, name within the result."""
    prefix = f"results/{tenant.name}"
    found = []
    for meta in objects.walk(prefix):
        id, _, name = meta.path.removeprefix(f"{prefix}/").partition("/")
        found.append((meta.path, id, name))
    return found


def judge_quotas(
    report: Report, service: Running, objects: Objects, tenants: Sequence[Tenant]
) -> None:
    """What a tenant is said to store is what it does, nothing is reserved for jobs, and nobody has more than it may."""
    with redis.Redis.from_url(service.redis_url) as connection:
        for tenant in tenants:
            before, reserved = stored_and_reserved(connection, tenant.name)
            stands = _bytes(objects, tenant)
            # As after a deletion: the next upload has it measured. It may be refused.
            connection.delete(f"upweight:quota:measured:{tenant.name}")
            empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
            tenant.http.put(f"/v1/blobs/{empty}", content=b"")
            tenant.registered.add(empty)
            after, still = stored_and_reserved(connection, tenant.name)
            report.quotas[tenant.name] = {
                "stored": stands,
                "counted": before,
                "reserved": sum(reserved.values()),
                "drift once measured": after - _bytes(objects, tenant),
            }
            if after != _bytes(objects, tenant):
                report.losses.append(f"{tenant.name}'s quota counts {after} bytes")
            if stands > QUOTA + BESIDE_ARRAYS:
                report.losses.append(f"{tenant.name} stores {stands} bytes, and may {QUOTA}")
            left = [id for id in still if id.startswith("job_")]
            report.losses += [f"{id} has ended, and has bytes reserved" for id in left]


def _bytes(objects: Objects, tenant: Tenant) -> int:
    return sum(
        meta.size for prefix in namespace_prefixes(tenant.name) for meta in objects.walk(prefix)
    )


def judge_processes(
    report: Report, tenant: Tenant, service: Running, before: Mapping[str, tuple[int, int]]
) -> None:
    """After some more jobs in calm, no process has more handles or much more memory than one had at first."""
    for id in calm(tenant, sorted(KINDS.keys() - LONG)).values():
        assert answer_of(tenant, id)
        tenant.client.jobs.delete(id)
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
