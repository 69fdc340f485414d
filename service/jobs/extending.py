"""An index that goes on from an earlier one: of the same model, with the same rows first, and more after them."""

from __future__ import annotations

from itertools import islice

from service.jobs.prepared import chosen
from service.parts import Parts
from service.registry import find_job
from upweight.errors import InvalidRequest, NotFound
from upweight.schema import (
    DatasetRecord,
    IndexJob,
    JobRecord,
    JobState,
    Rows,
    Selection,
    parse_rows,
)

_TAKEN = (
    "dimension",
    "projection",
    "stored_as",
    "curvature",
    "hessian_regularization",
    "precision",
    "seed",
)


def extended(parts: Parts, namespace: str, job: IndexJob) -> IndexJob:
    """The job with what it takes from the earlier index. Raises InvalidRequest, NotFound, naming `extends`."""
    id = job.extends
    if id is None:
        return job
    try:
        earlier = JobRecord.model_validate(find_job(parts, namespace, id))
    except NotFound as missing:
        raise NotFound.field("/extends", missing.detail, id) from None
    request = earlier.request
    if not isinstance(request, IndexJob):
        raise _refused(id, f"job {id} is of kind {request.kind!r}, and no index")
    if earlier.state is not JobState.SUCCEEDED or earlier.expired_at is not None:
        state = "expired" if earlier.expired_at is not None else str(earlier.state)
        raise _refused(id, f"index {id} is {state}; wait for it, or leave 'extends' out")
    model = parts.records.resolve("model", namespace, job.model, usable=True)
    if model["id"] != earlier.model_id:
        raise _refused(
            id,
            f"index {id} is of model {earlier.model_id}, and 'model' means {model['id']}, another or another version "
            "of it; leave 'extends' out",
        )
    train = chosen(parts, namespace, job.train, "/train")
    before = DatasetRecord.model_validate(parts.records.get("dataset", namespace, earlier.train_id))
    _refuse_other_rows(
        id, before, parse_rows(request.train.rows, before.rows or 0), train.dataset, train.rows
    )
    for field in _TAKEN:
        own, theirs = getattr(job, field), getattr(request, field)
        if field in job.model_fields_set and own is not None and own != theirs:
            raise InvalidRequest.field(
                f"/{field}",
                f"index {id}, which this one extends, has {theirs!r}; leave it out, or leave 'extends' out",
                None,
            )
    whole = request.hessian_on or Selection(dataset=earlier.train_id)
    if job.hessian_on is not None:
        raise InvalidRequest.field(
            "/hessian_on",
            "the eigenvectors are those of the index that is extended; leave it out",
            None,
        )
    update = {field: getattr(request, field) for field in _TAKEN}
    return job.model_copy(update={**update, "hessian_on": whole})


def _refuse_other_rows(
    id: str, before: DatasetRecord, first: Rows, after: DatasetRecord, rows: Rows
) -> None:
    """Raises InvalidRequest unless the earlier rows are known to be the first ones."""
    if after.id != before.id:
        shards = before.blobs or []
        same = [after.format, after.inputs, after.targets] == [
            before.format, before.inputs, before.targets,
        ]  # fmt: skip
        derived = before.derived_from is not None or after.derived_from is not None
        if derived or not shards or not same or (after.blobs or [])[: len(shards)] != shards:
            raise _refused(
                id,
                f"the first rows of {after.name}@{after.version} are not known to be those of index {id}, from "
                f"{before.name}@{before.version}: its shards must come first, in their order, and new ones after them; "
                "leave 'extends' out",
            )
    if len(rows) < len(first) or any(
        one != other for one, other in zip(first, islice(rows, len(first)), strict=True)
    ):
        raise _refused(
            id,
            f"the rows of index {id} are not the first of those that 'train' chooses; leave 'extends' out, or choose "
            "them first",
        )


def _refused(id: str, words: str) -> InvalidRequest:
    error = InvalidRequest.field("/extends", words, id)
    assert isinstance(error, InvalidRequest)
    return error
