"""What a job is given beside records, blobs with tensors and an earlier job's factors: that it is there, and fits."""

from __future__ import annotations

from collections.abc import Sequence

from service.blobs.records import find_blob
from service.jobs.inputs import Chosen, Inputs
from service.parts import Parts
from service.storage import keys
from service.storage.keys import Document
from upweight.errors import InvalidRequest, NotFound, NotReady, NotStored, ResultExpired
from upweight.schema import TERMINAL, ColumnMatch, JobRequest, JobState, parse_rows


def refuse_what_is_not_given(
    parts: Parts,
    namespace: str,
    job: JobRequest,
    inputs: Inputs,
    matched: Sequence[ColumnMatch],
) -> None:
    """Raises InvalidRequest, NotFound, NotReady, NotStored, ResultExpired, each naming its field."""
    digests = {
        "/rhs": getattr(job, "rhs", None),
        "/inversion/x0": getattr(job.inversion, "x0", None),
        "/inversion/h0": getattr(job.inversion, "h0", None),
    }
    for pointer, digest in digests.items():
        if digest is not None and find_blob(parts.objects, namespace, digest) is None:
            words = f"there is no such blob here; upload it first: PUT /v1/blobs/{digest}"
            raise InvalidRequest.field(pointer, words, digest)
    earlier = getattr(job, "factors", None)
    if earlier is not None:
        _factors_fit(_job_with_factors(parts, namespace, earlier), inputs, matched)


def _job_with_factors(parts: Parts, namespace: str, id: str) -> Document:
    try:
        if not keys.is_id("job", id):
            raise NotFound(id)
        job = parts.records.get("job", namespace, id)
    except NotFound:
        words = f"there is no job {id!r} here; GET /v1/jobs lists what there is"
        raise NotFound.field("/factors", words, id) from None
    if job["state"] != JobState.SUCCEEDED:
        wait = "" if job["state"] in TERMINAL else f"; GET /v1/jobs/{id}?wait=60 holds until it has"
        words = f"job {id} is {job['state']}, and only one that has succeeded has factors{wait}"
        raise NotReady.field("/factors", words, id)
    if job.get("expired_at"):
        words = f"the result of job {id} has expired, and its factors with it; compute them again"
        raise ResultExpired.field("/factors", words, id)
    if "factors" not in job["result"]["stored"] or job["test_id"] is None:
        words = f"job {id} stored no factors of test rows; run it as kind 'factors', or with keep.factors"
        raise NotStored.field("/factors", words, id)
    return job


def _factors_fit(earlier: Document, inputs: Inputs, matched: Sequence[ColumnMatch]) -> None:
    id = earlier["id"]
    if earlier["model_id"] != inputs.model.id:
        words = f"the factors of {id} are of model {earlier['model_id']}, and this job's is {inputs.model.id}"
        raise InvalidRequest.field("/factors", f"{words}; take the same model, or solve anew", id)
    if inputs.test is not None and not _same_rows(earlier, inputs.test):
        rows = earlier["request"]["test"]["rows"]
        words = f"the factors of {id} are of rows {rows or 'all'} of dataset {earlier['test_id']}"
        raise InvalidRequest.field("/factors", f"{words}; give these as 'test', or solve anew", id)
    arranged = {match["dataset"]: _arrangement(match) for match in earlier.get("matched", ())}
    for match in matched:
        own = _arrangement(match.model_dump(mode="json"))
        if arranged.get(match.dataset, own) != own:
            words = (
                f"the factors of {id} take the columns of dataset {match.dataset} in another order"
            )
            raise InvalidRequest.field(
                "/factors", f"{words}; give the same 'columns', or solve anew", id
            )


def _arrangement(match: Document) -> list[object]:
    return [match[field] for field in ("inputs", "targets", "features")]


def _same_rows(earlier: Document, test: Chosen) -> bool:
    if earlier["test_id"] != test.dataset.id:
        return False
    before = parse_rows(earlier["request"]["test"]["rows"], test.dataset.rows or 0)
    return before == test.rows or list(before) == list(test.rows)
