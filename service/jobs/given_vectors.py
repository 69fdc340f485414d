"""Vectors of p numbers that a job is given: a blob's, or those that an earlier job has stored."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from service.blobs.records import find_blob
from service.parts import Parts
from service.registry import require_ready, resolve
from service.storage import keys
from service.storage.keys import Document
from service.storage.records import not_found
from service.storage.stored_vectors import VECTORS, StoredVectors, only_tensor, vector_column
from service.storage.tensors import BadTensors
from upweight.errors import InvalidRequest, NotFound, NotReady, NotStored, ResultExpired
from upweight.schema import TERMINAL, DatasetRecord, JobRecord, JobState, ModelRecord


def vector_count(
    parts: Parts, namespace: str, source: str, pointer: str, model: ModelRecord
) -> int:
    """How many there are, of the model's size. Raises InvalidRequest, NotFound, NotReady, NotStored, ResultExpired."""
    if keys.is_id("job", source):
        record = job_with_vectors(parts, namespace, source, pointer, VECTORS)
        found = StoredVectors.of(namespace, source, JobRecord.model_validate(record).result)
        assert found is not None
        _refuse_other_parameters(parts, namespace, record, pointer, found.size, model)
        if found.dampings is not None and found.dampings > 1:
            words = (
                f"job {source} has vectors of {found.dampings} λ's; take those of a job with one λ"
            )
            raise InvalidRequest.field(pointer, words, source)
        return found.cut.total
    if keys.is_id("dataset", source):
        try:
            found_here = resolve(parts, "dataset", namespace, source, usable=True)
        except NotFound as missing:
            raise NotFound.field(pointer, missing.detail, source) from None
        require_ready("dataset", found_here, pointer, source)
        dataset = DatasetRecord.model_validate(found_here)
        vector_column(dataset, model.parameter_count, pointer)
        return dataset.rows or 0
    if find_blob(parts.objects, namespace, source) is None:
        words = f"there is no such blob here; upload it first: PUT /v1/blobs/{source}"
        raise InvalidRequest.field(pointer, words, source)
    try:
        entry = only_tensor(parts.objects, namespace, source)
    except BadTensors as error:
        raise InvalidRequest.field(pointer, str(error), source) from None
    count, wanted = entry.shape[:1], model.parameter_count
    if len(entry.shape) != 2 or wanted not in (None, entry.shape[1]) or not entry.shape[0]:
        words = f"the tensor has shape {list(entry.shape)}; it must be (vectors, {wanted})"
        raise InvalidRequest.field(pointer, words, source)
    return count[0]


def job_with_vectors(
    parts: Parts, namespace: str, id: str, pointer: str, wanted: Sequence[str]
) -> Document:
    """The record of one that stores some. Raises NotFound, NotReady, NotStored, ResultExpired, naming the field."""
    try:
        if not keys.is_id("job", id):
            raise NotFound(id)
        job = parts.records.get("job", namespace, id)
    except NotFound:
        raise NotFound.field(pointer, not_found("job", id).detail, id) from None
    if job["state"] != JobState.SUCCEEDED:
        wait = "" if job["state"] in TERMINAL else f"; GET /v1/jobs/{id}?wait=60 holds until it has"
        words = f"job {id} is {job['state']}, and only one that has succeeded has factors{wait}"
        raise NotReady.field(pointer, words, id)
    if job.get("expired_at"):
        words = f"the result of job {id} has expired, and its factors with it; compute them again"
        raise ResultExpired.field(pointer, words, id)
    if not set(wanted) & set(job["result"]["stored"]):
        words = f"job {id} stored no {' and no '.join(wanted)}"
        ways = "run it as kind 'factors', 'ihvp' or 'gradients', or with keep.factors"
        raise NotStored.field(pointer, f"{words}; {ways}", id)
    return job


def _refuse_other_parameters(
    parts: Parts, namespace: str, earlier: Document, pointer: str, size: int, model: ModelRecord
) -> None:
    """Vectors of another model are taken where its parameters have the same shapes in the same order."""
    id, shapes = earlier["id"], [list(each.shape) for each in model.selected]
    other = parts.records.get("model", namespace, earlier["model_id"])
    own = [list(each["shape"]) for each in other.get("selected", [])]
    if model.parameter_count not in (None, size):
        words = f"the vectors of {id} have {size} numbers each, and the model selects {model.parameter_count}"
    elif earlier["model_id"] != model.id and shapes and own and shapes != own:
        at = next(
            at for at, pair in enumerate(zip(shapes, own, strict=False)) if pair[0] != pair[1]
        )
        words = (
            f"the vectors of {id} are of model {other['name']!r}, whose parameters have other shapes: number {at} is "
            f"{own[at]} ({prod(own[at])} numbers), and {model.selected[at].name!r} here is {shapes[at]}"
        )
    else:
        return
    way = "take vectors of this model, over all of its selected parameters"
    raise InvalidRequest.field(pointer, f"{words}; {way}", id)
