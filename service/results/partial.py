"""Reading a matrix that is still being computed: blocks that are done are there; for others, how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.parts import Parts
from service.registry import find_job
from service.results.stored import StoredResult, find_result
from service.storage.cuts import Cut
from upweight.errors import ResultNotReady
from upweight.schema import AttributionJob, JobRecord, JobState, ResultSummary
from upweight.schema.damping import entries, numbers

_AT_WORK = (JobState.RUNNING, JobState.CANCELLING)


def find_readable(parts: Parts, namespace: str, id: str) -> StoredResult:
    """The result, or what there will be of it while the job is at work in blocks. Raises as `find_result`."""
    job = JobRecord.model_validate(find_job(parts, namespace, id))
    keeps_matrix = job.request.keeps_matrix and _dampings_known(job)
    if job.state not in _AT_WORK or job.plan is None or not keeps_matrix:
        return find_result(parts, namespace, id)
    test, train = _cuts(job)
    shape, dampings = [test.total, train.total, *_trailing(job)], _dampings(job)
    summary = ResultSummary(
        influence_shape=shape if dampings is None else [len(dampings), *shape],
        dampings=dampings,
        dtype="float64" if job.request.precision == "float64" else "float32",
        stored=["matrix", *_split(job)],
        part_shape=_parts(job) or None,
        size_bytes=0,
    )
    return StoredResult(parts, namespace, job, summary)


def refuse_unfinished(result: StoredResult, rows: Sequence[int], columns: Sequence[int]) -> None:
    """Raises ResultNotReady with the progress when some of a slice is not there yet."""
    job = result.job
    if job.state not in _AT_WORK:
        return
    test, train = _cuts(job)
    needed = [
        int(row) * train.count + int(column)
        for row in _blocks_of(rows, test)
        for column in _blocks_of(columns, train)
    ] or [0]  # an empty slice is known once anything is
    missing = result.parts.grids.missing(job.id, "contract", needed)
    if not missing:
        return
    done = result.parts.grids.counts(job.id, ["contract"])[0]
    error = ResultNotReady(
        f"job {job.id} is {job.state}: {done} of {test.count * train.count} blocks of the matrix are there, and "
        f"{len(missing)} of the {len(needed)} that hold this slice are not; ask again, or for rows and columns that "
        f"are done (blocks of {test.step} test by {train.step} training rows)",
        retry_after=min(30.0, max(1.0, job.eta_seconds or 1.0)),
    )
    error.progress = job.progress
    raise error


def _blocks_of(positions: Sequence[int], cut: Cut) -> Any:
    if isinstance(positions, range) and positions.step == 1:
        return cut.holding(slice(positions.start, positions.stop))
    return np.unique(np.asarray(positions, dtype=np.int64) // cut.step)


def _cuts(job: JobRecord) -> tuple[Cut, Cut]:
    plan: Any = job.plan
    return Cut(**plan["test"]), Cut(**plan["train"])


def _dampings_known(job: JobRecord) -> bool:
    """Whether the λ's of a list are numbers already: of some curvatures they are worked out from the fit."""
    if job.damping is not None or not isinstance(job.request, AttributionJob):
        return True
    asked = job.request.hessian_regularization
    if not job.request.has_damping_axis:
        return True
    return len(list(numbers(asked))) == len(entries(asked))


def _dampings(job: JobRecord) -> list[float] | None:
    """The λ's of a list: worked out before a plan is in the record."""
    if not job.request.has_damping_axis:
        return None
    return job.damping.values if job.damping is not None else list(job.request.dampings)


def _split(job: JobRecord) -> list[str]:
    """What its parts are stored as."""
    return [f"by_{getattr(job.request, 'scores_by', 'row')}"] if _parts(job) else []


def _parts(job: JobRecord) -> list[int]:
    plan: Any = job.plan
    return list(plan.get("parts", ()))


def _trailing(job: JobRecord) -> list[int]:
    plan: Any = job.plan
    return list(plan["trailing"])
