"""What a job's move from one state to the next adds to the metrics."""

from __future__ import annotations

from datetime import datetime

from service import tallies
from service.storage.keys import Document
from service.tallies import Tally
from upweight.schema import TERMINAL, JobState

Noted = tuple[Tally, tuple[str, ...], float]


def figures(before: Document, after: Document) -> list[Noted]:
    """Waiting time at a begin; at an end running time, passes, bytes and problems; and workers that were lost."""
    if after["state"] == JobState.RUNNING and after["attempt"] == 1:
        waited = _seconds(after["created_at"], after["started_at"])
        return [(tallies.WAIT, (after["request"]["priority"],), waited)]
    if after.get("lost", 0) > before.get("lost", 0):
        return [(tallies.LOST, (), 1.0)]
    if after["state"] in TERMINAL and before["state"] not in TERMINAL:
        return _ended(after)
    return []


def _ended(job: Document) -> list[Noted]:
    kind = job["request"]["kind"]
    of = (kind, job["request"]["inversion"]["method"])
    noted: list[Noted] = [(tallies.ENDED, (*of, job["state"]), 1.0)]
    if job.get("started_at"):
        noted.append((tallies.RUN, of, _seconds(job["started_at"], job["finished_at"])))
    if job["state"] == JobState.FAILED:
        noted.append((tallies.FAILED, (*of, job["problem"]["type"]), 1.0))
    if cost := job.get("cost"):
        noted.append((tallies.PASSES, of, cost["hessian_passes"]))
        noted.append((tallies.ENGINE, of, cost["engine_seconds"]))
    if result := job.get("result"):
        noted.append((tallies.STORED, (kind,), result["size_bytes"]))
    return noted


def _seconds(begin: str, end: str) -> float:
    taken = datetime.fromisoformat(end) - datetime.fromisoformat(begin)
    return max(0.0, taken.total_seconds())
